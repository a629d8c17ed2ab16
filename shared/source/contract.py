"""Are these the weights of the model that config.json describes: all of them, once, and no others?

Names and shapes in the safetensors headers are compared with those of the model itself on PyTorch's
meta device; no weight is read. transformers fills what a file lacks with random values and only logs
it, so nothing after this could tell. Common kinds of models are compared by arithmetic first, so that
nobody waits for an import of torch to be refused.

>>> contract = source_contract(Path("models/legal/merged"))
>>> contract.tensors["lm_head.weight"]
Tensor(name='lm_head.weight', shape=(128256, 2048), dtype='BF16', file='model.safetensors')
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.source.dense import config_mistake, dense_model
from shared.source.described import HEAD, Model, described_model
from shared.source.headers import FLOATS, Tensor, read_header
from shared.source.weights import INDEX, parts, weight_files

ADAPTER = re.compile(
    r"\.(base_layer|original_module|modules_to_save)\.|(^|[._])(lora_|ia3_|hada_|oft_|boft_|vera_)"
)
"""Names that peft gives to the tensors of an adapter (peft/tuners/*/layer.py)."""
LAYER = re.compile(r"\blayers?\.(\d+)\.|\bh\.(\d+)\.")
TABLES = (HEAD, "embed_tokens.weight", "wte.weight", "embed_in.weight")


@dataclass(frozen=True)
class Contract:
    """What a folder holds and what its model wants: `tensors` by the model's own names.

    `passed_over`: names in the files that the model itself ignores.
    """

    folder: Path
    model: Model
    tensors: dict[str, Tensor]
    passed_over: tuple[str, ...] = ()

    def copies(self) -> set[str]:
        """Heads that are stored all the same though they are the table: one weight, counted once."""
        both = {
            head for head, table in self.model.tied.items() if {head, table} <= self.tensors.keys()
        }
        return set() if both and is_untied(self.folder) else both


def source_contract(folder: Path) -> Contract:
    """Compare the folder's safetensors headers with its config.json's model; milliseconds after torch.

    RungFailed with one sentence, naming file and tensor, where anything is missing, left over, of
    another shape, twice, quantised, or of an adapter that was not merged.
    """
    folder = parts(folder).base
    found = need_good_headers(folder)
    return _compared(folder, described_model(folder), found)


def need_good_headers(folder: Path) -> list[Tensor]:
    """The tensors by name; RungFailed, in the same sentences, for all that is known without torch."""
    folder = parts(folder).base
    found = read_headers(folder)
    _refuse_adapters(folder, found)
    _refuse_quantised(folder, found)
    if mistake := config_mistake(_config(folder)):
        raise RungFailed(f"{paths.shown(folder / 'config.json')}: {mistake}")
    if model := dense_model(_config(folder)):
        _compared(folder, model, found)
    return found


def _compared(folder: Path, model: Model, found: Iterable[Tensor]) -> Contract:
    named: dict[str, Tensor] = {}
    passed_over = []
    for tensor in found:
        name = model.own_name(tensor.name)
        if name not in model.shapes and any(re.search(p, name) for p in model.ignored):
            passed_over.append(tensor.name)
            continue
        if name in named:
            raise RungFailed(
                f"{paths.shown(folder)}: {named[name].name} and {tensor.name} are one weight of the "
                "model; which of the two is meant cannot be known"
            )
        named[name] = tensor
    for problem in _problems(folder, model, named):
        raise RungFailed(problem)
    return Contract(folder, model, named, tuple(sorted(passed_over)))


def read_headers(folder: Path) -> list[Tensor]:
    """Every tensor of the model's weight files, by their headers; RungFailed where a name is twice."""
    _refuse_second_set(folder)
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for tensor in read_header(folder / file):
            if tensor.name in found:
                raise RungFailed(
                    f"{paths.shown(folder)}: {tensor.name} stands in {found[tensor.name].file} and in "
                    f"{file}; which of the two is meant cannot be known"
                )
            found[tensor.name] = tensor
    return list(found.values())


def _refuse_second_set(folder: Path) -> None:
    """One set of weights: nobody can know which of two was trained last."""
    read = set(weight_files(folder))
    adapters = sorted(p.name for p in folder.glob("adapter_model*.safetensors"))
    if adapters:
        raise RungFailed(
            f"{paths.shown(folder / adapters[0])}: an adapter beside the weights, merged into them or "
            "not; delete it if they are merged, else make it a rung's adapter in a folder of its own"
        )
    beside = (p.name for p in folder.glob("*.safetensors") if p.name not in read)
    if other := next((n for n in sorted(beside) if re.match(r"(pytorch_)?model", n)), None):
        listed = INDEX if (folder / INDEX).is_file() else sorted(read)[0]
        raise RungFailed(
            f"{paths.shown(folder)}: holds two sets of weights, {other} and what {listed} names; keep "
            "the one that is meant and delete the other"
        )


def _refuse_adapters(folder: Path, found: Iterable[Tensor]) -> None:
    for tensor in found:
        if ADAPTER.search(tensor.name):
            raise RungFailed(
                f"{paths.shown(folder / tensor.file)}: {tensor.name}: a tensor of an adapter that was "
                "not merged; save the model after peft's merge_and_unload(), or as a rung's adapter"
            )


def _refuse_quantised(folder: Path, found: Iterable[Tensor]) -> None:
    """Weights of another type, or a note of a quantisation that these weights do not have."""
    where = paths.shown(folder / "config.json")
    odd = next((tensor for tensor in found if tensor.dtype not in FLOATS), None)
    noted = "quantization_config" in _config(folder)
    if odd and noted:
        raise RungFailed(
            f"{where}: quantization_config: the model is quantised already ({odd.name} in {odd.file} "
            f"is {odd.dtype}); the merged 16-bit weights are needed"
        )
    if odd:
        raise RungFailed(
            f"{paths.shown(folder / odd.file)}: {odd.name}: weights of type {odd.dtype}; 16-bit ones "
            "are needed"
        )
    if noted:
        raise RungFailed(
            f"{where}: quantization_config: left over from a quantised base, the tensors are 16-bit; "
            "remove the key"
        )


def _problems(folder: Path, model: Model, named: dict[str, Tensor]) -> Iterator[str]:
    """What is wrong, one sentence each, the most telling first."""
    first = next(iter(named.values()), None)
    file = paths.shown(folder / (first.file if first else "model.safetensors"))
    strangers = [name for name in named if name not in model.shapes]
    alias = model.tied | {source: target for target, source in model.tied.items()}
    missing = [n for n in model.shapes if n not in named and alias.get(n) not in named]
    if missing and (prefix := _common_prefix(strangers, model)):
        yield (
            f"{file}: every tensor's name begins with {prefix!r}, which the model of config.json has "
            "not; save the model itself with save_pretrained, not what it was wrapped in"
        )
    yield from _layer_problems(folder, model, named)
    for name, tensor in named.items():
        if name in model.shapes and tensor.shape != model.shapes[name]:
            yield _misshapen(folder, tensor, model.shapes[name])
    if missing:
        head = "; tie_word_embeddings is false in config.json" if missing[0] == HEAD else ""
        yield (
            f"{file}: {missing[0]}: missing, like {len(missing)} of the {len(model.shapes)} tensors of "
            f"the model that config.json describes{head}"
        )
    if strangers:
        tensor = named[strangers[0]]
        yield (
            f"{paths.shown(folder / tensor.file)}: {tensor.name}: the model that config.json describes "
            f"has no such tensor ({len(strangers)} of {len(named)} are left over)"
        )


def _layer_problems(folder: Path, model: Model, named: dict[str, Tensor]) -> Iterator[str]:
    """More or fewer layers than config.json says."""
    wanted, there = _layers(model.shapes), _layers(named)
    if wanted and there and wanted != there:
        yield (
            f"{paths.shown(folder / 'config.json')}: num_hidden_layers: {len(wanted)}, but the weights "
            f"have {len(there)} layers"
        )


def _layers(names: Iterable[str]) -> set[str]:
    return {found[1] or found[2] for name in names if (found := LAYER.search(name))}


def _misshapen(folder: Path, tensor: Tensor, wanted: tuple[int, ...]) -> str:
    where, config = paths.shown(folder / tensor.file), _config(folder)
    rows = config.get("vocab_size")
    if wanted[0] == rows and tensor.shape[1:] == wanted[1:]:
        return (
            f"{paths.shown(folder / 'config.json')}: vocab_size: {rows}, but {tensor.name} in "
            f"{tensor.file} has {tensor.shape[0]} rows"
        )
    return (
        f"{where}: {tensor.name}: shape {list(tensor.shape)}, config.json asks for {list(wanted)}"
    )


def _common_prefix(strangers: list[str], model: Model) -> str:
    """What all names would have to lose to be the model's; empty where that is no explanation."""
    for wanted in model.shapes:
        for name in strangers:
            if name.endswith(f".{wanted}"):
                prefix = name.removesuffix(wanted)
                known = [n.removeprefix(prefix) in model.shapes for n in strangers]
                return prefix if all(n.startswith(prefix) for n in strangers) and all(known) else ""
    return ""


def is_untied(folder: Path) -> bool:
    """Whether head and embedding table are both there and differ: whatever config.json says, they are
    then two weights, as transformers has it. False where the folder holds no weights."""
    folder = parts(folder).base
    if not any(folder.glob("*.safetensors")):
        return False
    found = {
        tensor.name.split(".")[-2]: tensor for tensor in read_headers(folder) if _is_table(tensor)
    }
    head = found.pop("lm_head", None)
    table = next(iter(found.values()), None)
    return head is not None and table is not None and not _same_bytes(folder, head, table)


def _is_table(tensor: Tensor) -> bool:
    return tensor.name.endswith(TABLES) and len(tensor.shape) == 2


def _same_bytes(folder: Path, one: Tensor, other: Tensor) -> bool:
    import torch
    from safetensors import safe_open

    def read(tensor: Tensor) -> torch.Tensor:
        with safe_open(folder / tensor.file, framework="pt") as opened:
            return torch.as_tensor(opened.get_tensor(tensor.name))

    return one.dtype == other.dtype and torch.equal(read(one), read(other))


def _config(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "config.json").read_bytes())
    return value if isinstance(value, dict) else {}
