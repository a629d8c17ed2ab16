"""Rules on the graph: its inputs and outputs, its operators, and no private text."""

import getpass
import re
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

from shared.base import paths
from shared.base.manifest import Strict
from shared.base.parsing import read_toml
from shared.olive.lint.files import Opened, Problem


class Operators(Strict):
    """operators.toml: what WebGPU has a kernel for."""

    standard: list[str]
    later: list[str]
    on_the_cpu: list[str]
    contrib: list[str]

    @property
    def by_domain(self) -> dict[str, set[str]]:
        ours = {*self.standard, *self.later, *self.on_the_cpu}
        return {"": ours, "com.microsoft": set(self.contrib)}


OPERATORS = Path(__file__).with_name("operators.toml")
OPSETS = range(17, 22)
"""What every WebGPU kernel of onnxruntime-web registers."""

SYMBOLS = ("batch_size", "sequence_length", "past_sequence_length", "total_sequence_length")
INPUTS = ("input_ids", "attention_mask", "position_ids")
CACHE = {"past": r"past_key_values\.(\d+)\.(key|value)", "present": r"present\.(\d+)\.(key|value)"}

ABSOLUTE = re.compile(
    r"(?:^|[^\w./\\-])(?:/(?:home|Users|root|tmp|work|opt|usr|var|mnt|media|srv|workspace|content)/"
    r"|[A-Za-z]:[\\/]|\\\\\w|file://|~/)"
)
"""Only known roots: exporters name nodes like paths, `/model/layers.0/attn`."""

ORDINARY = {"root", "user", "model", "admin", "ubuntu", "runner", "localhost", "decoder"}
"""Names of users and hosts that tell nothing, or that a graph says for reasons of its own."""

PARTS = re.compile(r".*\.(initializer\.name|node\.(name|input|output|op_type|attribute\.name))")
"""Fields that are made of the model's own words: a user may be called `norm`."""


def cache_shape(opened: Opened) -> Iterator[Problem]:
    """Transformers.js makes the first, empty cache from these shapes; a symbol becomes 0 there."""
    shapes = {v.name: _dimensions(v) for v in _values(opened) if cache_index(v.name)}
    for name, shape in shapes.items():
        if len(shape) != 4:
            yield name, f"has {len(shape)} dimensions; a cache has 4"
            continue
        for what, at in (("heads", 1), ("head_dim", 3)):
            if not isinstance(shape[at], int):
                yield name, f"dimension {at} ({what}) is {shape[at]!r}; it must be a number"
    for name, shape in shapes.items():
        twin = shapes.get(name.replace("present", "past_key_values"), shape)
        if len(shape) == len(twin) == 4 and (shape[1], shape[3]) != (twin[1], twin[3]):
            yield (
                name,
                f"has heads and head_dim {shape[1]}×{shape[3]}, its past {twin[1]}×{twin[3]}",
            )


def symbol(opened: Opened) -> Iterator[Problem]:
    """Transformers.js and onnxruntime-genai fill in these four; any other is taken for 0."""
    for value in _values(opened):
        judged_elsewhere = (1, 3) if cache_index(value.name) else ()
        for at, dimension in enumerate(_dimensions(value)):
            known = isinstance(dimension, int) or dimension in SYMBOLS
            if not known and at not in judged_elsewhere:
                yield value.name, f"dimension {at} is {dimension!r}; known are {', '.join(SYMBOLS)}"


def logits(opened: Opened) -> Iterator[Problem]:
    names = [output.name for output in opened.model.graph.output]
    if names.count("logits") != 1:
        others = [name for name in names if not cache_index(name)]
        yield opened.name, f"has no output named logits; found {', '.join(others) or 'none'}"


def interface(opened: Opened) -> Iterator[Problem]:
    """Whatever else a graph asks for, nobody gives it."""
    graph = opened.model.graph
    for value in graph.input:
        if value.name not in INPUTS and not re.fullmatch(CACHE["past"], value.name):
            yield value.name, "is an input that Transformers.js does not give"
    for value in graph.output:
        if value.name != "logits" and not re.fullmatch(CACHE["present"], value.name):
            yield value.name, "is an output that Transformers.js does not read"
    for name in sorted({*INPUTS[:2]} - {value.name for value in graph.input}):
        yield name, "is not among the graph's inputs"


def cache_pairs(opened: Opened) -> Iterator[Problem]:
    """Each layer's past comes back as its present; a layer left out starts anew with each token."""
    graph = opened.model.graph
    past, present = _indices(graph.input), _indices(graph.output)
    count = opened.decoder.get("num_hidden_layers", len(past) // 2)
    expected = {(layer, part) for layer in range(count) for part in ("key", "value")}
    for what, found in (("past_key_values", past), ("present", present)):
        wrong = sorted(expected ^ found)
        for layer, part in wrong[:1]:
            state = "missing" if (layer, part) in expected else "one too many"
            more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
            yield f"{what}.{layer}.{part}", f"is {state} for {count} layers{more}"


def value_type(opened: Opened) -> Iterator[Problem]:
    for value in _values(opened):
        kind = value.type.tensor_type
        if not kind.elem_type or not kind.HasField("shape"):
            yield value.name, "has no element type or no shape"


def operator(opened: Opened) -> Iterator[Problem]:
    """One node on the CPU between two on the GPU costs a round trip for each token."""
    known = read_toml(OPERATORS, Operators).by_domain
    for (domain, kind), count in operators(opened).items():
        if kind not in known.get(domain, ()):
            full = f"{domain}.{kind}" if domain else kind
            yield full, f"onnxruntime's WebGPU provider has no kernel for it ({count} nodes)"


def opset(opened: Opened) -> Iterator[Problem]:
    version = opset_version(opened)
    if version not in OPSETS:
        yield opened.name, f"opset {version}; we ship {OPSETS[0]} to {OPSETS[-1]}"


def private_text(opened: Opened) -> Iterator[Problem]:
    """A release is for everyone; where it was made is not."""
    folders, names = _machine_folders(), _machine_names()
    for text, field in {text: field for field, text in _texts(opened.model, "")}.items():
        found = ABSOLUTE.search(text) or folders.search(text)
        if not found and not PARTS.fullmatch(field):
            found = names.search(text)
        if found:
            where = field.strip(".")
            yield where, f"says {found[0].strip()!r}, which is of the machine it was made on"


def metadata(opened: Opened) -> Iterator[Problem]:
    """Exporters leave stack traces and settings here; no runtime reads them."""
    fields = {field.rpartition(".")[0] for field, _ in _texts(opened.model, "")}
    for field in sorted(field for field in fields if field.endswith("metadata_props")):
        yield field.strip("."), "must have no entries"


def function(opened: Opened) -> Iterator[Problem]:
    for local in opened.model.functions:
        yield local.name, "is a local function; the graph must say everything in operators"


def unused_initializer(opened: Opened) -> Iterator[Problem]:
    read = {name for node in opened.nodes for name in node.input}
    read |= {output.name for output in opened.model.graph.output}
    for name in sorted(set(opened.by_name) - read):
        yield name, "is stored, but no node reads it"


def duplicate_initializer(opened: Opened) -> Iterator[Problem]:
    for name, count in Counter(tensor.name for tensor in opened.initializers).items():
        if count > 1:
            yield name, f"{count} initializers have this name"


def operators(opened: Opened) -> Counter[tuple[str, str]]:
    """How many nodes of each (domain, operator); the standard domain is the empty string."""
    return Counter((_domain(node.domain), node.op_type) for node in opened.nodes)


def opset_version(opened: Opened) -> int:
    imports = {_domain(entry.domain): entry.version for entry in opened.model.opset_import}
    return int(imports.get("", 0))


def cache_facts(opened: Opened) -> dict[str, int | str]:
    """Layers, heads and head_dim of the cache, as its first tensor has them."""
    caches = [v for v in opened.model.graph.input if cache_index(v.name)]
    shape = [*(_dimensions(caches[0]) if caches else []), 0, 0, 0, 0]
    return {"layers": len(caches) // 2, "kv_heads": shape[1], "kv_head_dim": shape[3]}


def cache_index(name: str) -> tuple[int, str] | None:
    """Layer and part of a cache's name, past or present."""
    found = re.fullmatch("|".join(CACHE.values()), name)
    if not found:
        return None
    layer, part = (group for group in found.groups() if group is not None)
    return int(layer), part


def _indices(values: Iterable[onnx.ValueInfoProto]) -> set[tuple[int, str]]:
    return {index for value in values if (index := cache_index(value.name))}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _values(opened: Opened) -> list[onnx.ValueInfoProto]:
    return [*opened.model.graph.input, *opened.model.graph.output]


def _dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    """For each dimension a positive number or the symbol; an empty one where there is neither."""
    return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]


def _machine_folders() -> re.Pattern[str]:
    own = {str(Path.home()), sys.prefix, tempfile.gettempdir(), str(paths.root().resolve())}
    return _any_word(folder for folder in own if len(folder) > 1)


def _machine_names() -> re.Pattern[str]:
    """User and host; names of three letters and fewer would be found everywhere."""
    host = socket.gethostname()
    return _any_word(n for n in {_user(), host, host.split(".")[0]} - ORDINARY if len(n) > 3)


def _any_word(words: Iterable[str]) -> re.Pattern[str]:
    found = "|".join(map(re.escape, sorted(words))) or "(?!)"
    return re.compile(rf"(?<!\w)(?:{found})(?!\w)")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return ""


def _texts(message: Message, where: str) -> Iterator[tuple[str, str]]:
    """Every text in the message with the name of its field; a tensor's bytes are not text."""
    for field, value in message.ListFields():
        if field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE):
            continue
        if field.name == "raw_data":
            continue
        path = f"{where}.{field.name}"
        for item in value if field.is_repeated else [value]:
            yield from _text(item, path)


def _text(item: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(item, Message):
        yield from _texts(item, path)
    else:
        yield path, item.decode(errors="replace") if isinstance(item, bytes) else item
