"""What a family is, as data: family.json, and which files are of it. shared.olive.family makes them.

>>> read_family(folder).adapters["legal"].files["adapters/legal.safetensors"].bytes
1204224
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from shared.base import paths
from shared.base.manifest import FileRecord, Strict
from shared.base.parsing import read_json, validate
from shared.domain.domain import NAME
from shared.domain.settings import Precision

RECORD = "family.json"
SWAP = "swap"
"""How the name of a graph begins that takes an adapter."""
FILES = ("adapter.safetensors", "adapter.json", "adapter.onnx_adapter")
DOMAIN_FILES = ("prompt.md", "schema.json", "grammar.ebnf", "example.txt")


class AdapterRecord(Strict):
    """A domain of a family: its files in adapters/ and domains/, and the SHA-256 of the two that its
    adapter was made from."""

    files: dict[str, FileRecord]
    trained: dict[str, str]


class FamilyRecord(BaseModel):
    """What any family.json says; whatever else it says is left out. `base_weights`: the weights_hash of
    what all adapters were trained on; `calibrated`: the domains whose text calibrated it; `shared`: the
    base's files, and the graphs to swap in."""

    version: int = 1
    base: str
    base_weights: str
    calibrated: list[str]
    precision: Precision
    shared: dict[str, FileRecord]
    adapters: dict[Annotated[str, Field(pattern=f"^(?:{NAME.pattern})$")], AdapterRecord]


def read_family(folder: Path) -> FamilyRecord:
    """The record in a family's folder; UserError where it is none."""
    return validate(read_json(folder / RECORD), FamilyRecord, paths.shown(folder / RECORD))


def adapter_file(name: str) -> str:
    """What a page takes of a domain's adapter."""
    return f"adapters/{name}{Path(FILES[0]).suffix}"
