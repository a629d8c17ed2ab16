"""Training details from the weights' own card, adapter_config.json and a training.json beside it.

Nothing of it is measured here, and nothing of it is trusted: only short plain values are taken,
and no path of the machine they were trained on.
"""

import re
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.front_matter import read_front_matter
from shared.base.parsing import read_json, read_text

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(?:/[A-Za-z0-9][\w.+-]*)?(?: [\w.+-]+){0,8}")
LONGEST = 96
MOST = 12

ADAPTER = {
    "peft_type": "method",
    "r": "rank (r)",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target modules",
    "base_model_name_or_path": "adapted from",
}
RECORD = "training.json"
"""What a trainer wrote down: one JSON object. `base_weights`: shared.source.source.weights_hash of what
it was trained on, if it tells that; every other key is one for people."""
CARD = {"datasets": "data sets", "base_model": "base, by their own card"}


def training_details(folder: Path) -> dict[str, str]:
    """The details by name; empty where neither file is there or neither says anything.

    UserError where a JSON file is none. A card without front matter tells nothing.
    """
    told: dict[str, str] = {}
    if (folder / "adapter_config.json").is_file():
        told |= _named(read_json(folder / "adapter_config.json"), ADAPTER)
    if (folder / "README.md").is_file():
        told |= _named(_card(folder / "README.md"), CARD)
    record = _record(folder)
    words = {key: key.replace("_", " ") for key in record if NAME.fullmatch(key)}
    return told | _named(record, dict(list(words.items())[:MOST]))


def base_weights(folder: Path) -> str | None:
    """The hash of the base's weights that the folder's training.json tells, if it tells one."""
    found = _record(folder).get("base_weights")
    return None if found is None else str(found)


def _record(folder: Path) -> dict[str, Any]:
    found = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{paths.shown(folder / RECORD)}: must be one JSON object")
    return found


def _card(path: Path) -> dict[str, Any]:
    try:
        return read_front_matter(read_text(path))
    except (ValueError, UserError):
        return {}


def _named(values: Any, names: dict[str, str]) -> dict[str, str]:
    if not isinstance(values, dict):
        return {}
    told = {words: _plain(values.get(key)) for key, words in names.items()}
    return {words: text for words, text in told.items() if text}


def _plain(value: Any) -> str:
    """A number or a name as it stands, a list of them with commas; empty for anything else."""
    if isinstance(value, list) and len(value) > MOST:
        return ""  # a part of it would be read as the whole
    if isinstance(value, list):
        flat = [item for item in value if not isinstance(item, list)]
        return ", ".join(filter(None, map(_plain, flat)))
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value) if isinstance(value, str) else ""
    named = NAME.fullmatch(text) and text != "None"  # Python's, as peft's cards have it
    return text if named and len(text) <= LONGEST else ""
