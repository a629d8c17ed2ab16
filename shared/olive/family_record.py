"""family.json, as data: what the domains of a family share, and the files of each one's adapter.

>>> read_family(Path("models/families/docintel-smollm3")).calibrated
['legal', 'medical']
"""

from pathlib import Path

from pydantic import BaseModel

from shared.base import paths
from shared.base.manifest import FileRecord, Strict
from shared.base.parsing import read_json, validate
from shared.domain.settings import Precision

RECORD = "family.json"
SWAP = "swap"
"""How the name of a graph begins that takes an adapter."""


class AdapterRecord(Strict):
    """An adapter of a family: its files in adapters/, and the SHA-256 of the two it was made from."""

    files: dict[str, FileRecord]
    trained: dict[str, str]


class FamilyRecord(BaseModel):
    """What any family.json says; whatever else it says is left out. `base_weights`: the weights_hash of
    what all adapters were trained on; `calibrated`: the domains whose text calibrated it; `shared`: the
    files of onnx/."""

    version: int = 1
    base: str
    base_weights: str
    calibrated: list[str]
    precision: Precision
    shared: dict[str, FileRecord]
    adapters: dict[str, AdapterRecord]


def read_family(folder: Path) -> FamilyRecord:
    """The record in a family's folder; UserError where it is none."""
    return validate(read_json(folder / RECORD), FamilyRecord, paths.shown(folder / RECORD))
