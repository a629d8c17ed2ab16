"""A base and its adapter as one model folder, without weights of its own.

>>> joined_folder(Path("models/base"), read_adapter(Path("models/legal/adapter")))
PosixPath('.../build/joined/0d5c…')

In it lie the base's configuration, a tokenizer and a note of where the weights are
(`shared.source.weights.parts`); what does not know of the note finds no weights there, rather than the
base's. `shared.source.model` merges them as they are read. A note without an adapter is `asked_as`'s.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.hashing import sha256_files
from shared.base.parsing import read_json, read_text
from shared.base.stage import Plan, Produced, run_stage
from shared.source.adapter import Adapter
from shared.source.weights import JOINED

FROM_BASE = ("config.json", "generation_config.json", "LICENSE")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json"),
)
TEMPLATE = "chat_template.jinja"


def joined_folder(base: Path, adapter: Adapter) -> Path:
    """The folder, made where it is not there yet; NotDone inside `only_what_is_done`."""
    return _joined(base, adapter.folder, str(adapter.folder.resolve()))


def asked_as(base: Path, tuned: Path) -> Path:
    """The base's own weights with the tokenizer and chat template of what was tuned on it: a base that
    has no template cannot be asked by itself."""
    return _joined(base, tuned, None)


def _joined(base: Path, beside: Path, adapter: str | None) -> Path:
    files = _files(base, beside)
    plan = Plan(
        "joined",
        inputs={name: sha256_files(place, [name])[name] for name, place in files.items()},
        settings={
            "base": str(base.resolve()),
            "adapter": adapter,
            "from": {name: str(place.resolve()) for name, place in files.items()},
        },
        code=(__name__,),
    )

    def produce(work: Path) -> Produced:
        for name, place in files.items():
            shutil.copyfile(place / name, work / name)
        (work / JOINED).write_text(json.dumps(plan.settings), encoding="utf-8")
        return Produced()

    return run_stage(plan, produce).folder


def _files(base: Path, adapter: Path) -> dict[str, Path]:
    """File → the folder that it is taken from: a tokenizer or chat template that was saved beside the
    adapter is what it was trained with. A template stands in a file of its own, which wins over the
    base's, or in tokenizer_config.json, over which a file of the base's would win."""
    own = all((adapter / name).is_file() for name in TOKENIZER[:2])
    told = bool(_template_in(adapter))
    own_file = (adapter / TEMPLATE).is_file()
    if told and not (own or own_file) and _template_in(adapter) != _template_in(base):
        raise RungFailed(
            f"{paths.shown(adapter / TOKENIZER[0])}: missing beside tokenizer_config.json, whose "
            "chat_template the adapter was trained with; save the fast tokenizer there"
        )
    template = adapter if (told and own) or own_file else base
    wanted = {
        **dict.fromkeys(FROM_BASE, base),
        **dict.fromkeys(TOKENIZER, adapter if own else base),
        TEMPLATE: template,
    }
    return {name: place for name, place in wanted.items() if (place / name).is_file()}


def _template_in(folder: Path) -> Any:
    """The chat_template of a folder's tokenizer_config.json, where no file of its own has another."""
    if (folder / TEMPLATE).is_file():
        return read_text(folder / TEMPLATE)
    file = folder / TOKENIZER[1]
    found = read_json(file) if file.is_file() else {}
    return found.get("chat_template") if isinstance(found, dict) else None
