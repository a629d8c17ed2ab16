"""A family's folder, checked without loading it; and that a domain's base is its family's.

>>> [str(line) for line in before_loading(Path("models/families/docintel-smollm3"))]
['✓ safe …', '✓ family.json docintel-smollm3, 2 domains, family 0123456789abcdef, made by commit …', …]
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from shared.base.code import code_hash
from shared.base.errors import UserError
from shared.base.parsing import read_json, read_text
from shared.olive.build import DTYPES
from shared.olive.family_record import RECORD, SWAP
from shared.olive.lint.files import Opened, data_missing, data_name, data_range
from shared.release.card.family import render_family_card
from shared.release.model import (
    CARD_FILE,
    FAMILY_CARD_CODE,
    FamilyRelease,
    Release,
    family_folder,
    read_family_release,
)
from shared.release.verify import card, files, layout
from shared.release.verify.limits import LARGEST_GRAPH
from shared.release.verify.line import Line, NotChecked, line, need
from shared.source.headers import read_header

SWAPS = tuple(f"{SWAP}_{dtype}" for dtype in DTYPES)
PLACE = ".lora_"
"""What the name of an input for an adapter has in it (shared.olive.graph.adapters)."""
Beside = Callable[[str, str], Mapping[str, Collection[str]] | None]
"""A family's name → the SHA-256 of its files, or None where the family is not at hand."""


def is_family(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def before_loading(folder: Path, public_key: Path | None = None) -> Iterator[Line]:
    """All that can be known of a family's folder without loading it; ends where it is unsafe."""
    safe = line("safe", lambda: files.safe(folder))
    yield safe
    if not safe.ok:
        return
    read: list[FamilyRelease] = []
    yield line(RECORD, lambda: _whose(folder, read))
    if not read:
        return
    family = read[0]
    yield line("kinds", lambda: files.known(folder))
    yield line("complete", lambda: files.complete(folder, family, RECORD))
    yield line("hashes", lambda: files.unchanged(folder, family))
    yield line("signature", lambda: files.signature(folder, public_key))
    yield line("figures", lambda: figures(folder, family))
    for name in sorted(family.domains):
        place = folder / "domains" / name
        yield line(f"grammar {name}", lambda place=place: files.grammar_is_the_schemas(place))  # type: ignore[misc]
    yield line("origin", lambda: card.origin(folder, family))
    yield line("layout", lambda: layout.configured(folder))
    for dtype in DTYPES:
        yield line(f"graph {dtype}", lambda dtype=dtype: layout.graph(folder, dtype))  # type: ignore[misc]
        yield line(f"swap {dtype}", lambda dtype=dtype: swap(folder, family, dtype))  # type: ignore[misc]


def _whose(folder: Path, read: list[FamilyRelease]) -> str:
    family = read_family_release(folder)
    read.append(family)
    need(sorted(family.domains) == sorted(family.adapters), "domains: not those of the adapters")
    return (
        f"{family.name}, {len(family.domains)} domains, family {family.key}, "
        f"made by commit {(family.git_commit or 'unknown')[:12]}"
    )


def figures(folder: Path, family: FamilyRelease) -> str:
    """README.md is the card that family.json leads to; NotChecked where other code made it."""
    if read_text(folder / CARD_FILE) == render_family_card(family):
        return "README.md made again from family.json: the same"
    if family.card_code == code_hash(*FAMILY_CARD_CODE):
        raise UserError("README.md: not the card that family.json leads to")
    raise NotChecked("README.md was made by another version of the card's code")


def swap(folder: Path, family: FamilyRelease, dtype: str) -> str:
    """The graph reads the base's data and takes every tensor of each adapter, in its shape."""
    path = folder / "onnx" / f"{SWAP}_{dtype}.onnx"
    size = path.stat().st_size
    need(size <= LARGEST_GRAPH, f"onnx/{path.name}: {size:,} bytes without its data")
    model = onnx.load(str(path), load_external_data=False)
    opened = Opened(folder / "onnx", dtype, model, {})
    for rule in (data_missing, data_name, data_range):
        for where, sentence in rule(opened):
            raise UserError(f"{SWAP}_{dtype}.onnx: {where}: {sentence}")
    wanted = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
        if PLACE in value.name
    }
    need(bool(wanted), f"{SWAP}_{dtype}.onnx: takes no adapter")
    for domain in family.domains:
        for name, shapes in _adapter(folder, family, domain):
            need(shapes == wanted, f"{name}: not the tensors that {SWAP}_{dtype}.onnx takes")
    return f"reads the base's data and takes the {len(wanted)} tensors of each adapter"


def _adapter(folder: Path, family: FamilyRelease, domain: str) -> Iterator[tuple[str, Any]]:
    """An adapter's two files for a page, each with the shapes it tells; what they say of each other."""
    weights, told = (f"adapters/{domain}.{kind}" for kind in ("safetensors", "json"))
    said = read_json(folder / told)
    need(isinstance(said, dict), f"{told}: must be one JSON object")
    record = family.adapters[domain].files[weights]
    for key, value in {
        "sha256": record.sha256,
        "bytes": record.bytes,
        "base_weights": family.base_weights,
        "precision": family.precision,
    }.items():
        need(said.get(key) == value, f"{told}: {key}: not that of {weights}")
    yield told, {name: shape for name, (_, *shape) in said["tensors"].items()}
    yield weights, {t.name: [*t.shape] for t in read_header(folder / weights)}


def base_is_the_familys(release: Release, beside: Beside) -> str:
    """The data of a domain's base are those that its family lists, where that is at hand."""
    told = release.facts["family"]
    shared: dict[str, str] = told["shared"]
    need(bool(shared), "facts.family.shared: names no file")
    for name, digest in shared.items():
        ours = release.files.get(name)
        need(ours is not None and ours.sha256 == digest, f"{name}: not what facts.family names")
    there = beside(told["name"], release.repository.partition("/")[0])
    if there is None:
        raise NotChecked(f"not compared: the family {told['name']} is not at hand")
    for name, digest in shared.items():
        known = there.get(name, ())
        need(digest in known, f"{name}: not the base of the family {told['name']}")
    return f"the base is that of {told['name']}, byte for byte"


def on_this_machine(name: str, owner: str) -> Mapping[str, Collection[str]] | None:
    """The hashes in models/families/<name>, whose folder is believed as it stands; None where that is
    another organisation's of the same name."""
    try:
        family = read_family_release(family_folder(Path(name).name))
    except UserError:
        return None
    if family.repository.partition("/")[0] != owner:
        return None
    return {file: {record.sha256} for file, record in family.files.items()}
