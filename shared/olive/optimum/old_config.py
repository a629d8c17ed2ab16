"""A model's config.json as transformers 4 reads it: transformers 5 moved what a position means.

transformers 5 writes `rope_parameters`, which 4.57 does not know and passes over in silence: the
model would rotate by the default theta and be wrong without a word. So the configuration is read by
the transformers of this environment, with all of its defaults, and said again in the old words.
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.text import first_line
from shared.olive.graph.architecture import check_config
from shared.source.contract import is_untied

DROPPED = ("auto_map", "quantization_config", "_name_or_path", "transformers_version")
FROZEN = ("dynamic", "longrope")
"""Kinds of rotary embedding that choose by the length at hand: a traced graph has chosen already."""


def read_config(folder: Path) -> Any:
    """transformers' configuration object; RungFailed for one that the export would get wrong.

    What the streaming recipe refuses is refused here too, also where this graph might be right: two
    recipes of a rung must be builds of the same model.
    """
    where = paths.shown(folder / "config.json")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise RungFailed(f"{where}: {first_line(error)}") from None
    check_config(config, where)
    if config.tie_word_embeddings and is_untied(folder):
        config.tie_word_embeddings = False
    rope = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise RungFailed(f"{where}: rope_parameters: one for each kind of layer is not exported")
    if rope.get("rope_type") in FROZEN:
        raise RungFailed(f"{where}: rope_parameters: {rope['rope_type']} cannot be traced")
    return config


def write_old_config(config: Any, folder: Path) -> None:
    """Write `config` to `folder`/config.json in transformers 4's words."""
    text = json.dumps(translated(config.to_dict()), indent=2)
    (folder / "config.json").write_text(text, encoding="utf-8")


def translated(config: dict[str, Any]) -> dict[str, Any]:
    """transformers 5's keys in transformers 4's words.

    >>> translated({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}})
    {'rope_theta': 100000.0, 'rope_scaling': None}
    """
    old = {key: value for key, value in config.items() if key not in DROPPED}
    if "dtype" in old:
        old["torch_dtype"] = old.pop("dtype")
    if "rope_parameters" in old:
        rope = dict(old.pop("rope_parameters") or {})
        for key in ("rope_theta", "partial_rotary_factor"):
            if key in rope:
                old[key] = rope.pop(key)
        plain = rope.get("rope_type", "default") == "default"
        old["rope_scaling"] = None if plain else rope
    return old
