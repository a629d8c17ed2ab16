"""What a card's form depends on, told without loading what renders it."""

from __future__ import annotations

from shared.base import paths
from shared.base.hashing import files_below, sha256_files, sha256_json


def code_hash() -> str:
    """Two checkouts with the same hash render the same card from the same release.json."""
    folder = paths.REPOSITORY / "shared"
    card = folder / "release" / "card"
    names = [f"release/card/{name}" for name in files_below(card) if name.endswith(".py")]
    return sha256_json(sha256_files(folder, [*names, "base/formatting.py", "base/tables.py"]))[:16]
