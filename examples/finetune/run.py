"""From records to models/<domain>/merged and adapter/, each visible only when it is whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from examples.finetune.packing import encode
from examples.finetune.records import Training, training_records
from examples.finetune.train import Course, Recipe, train, with_adapter
from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import swap_in
from shared.base.hashing import sha256_json
from shared.base.manifest import tool_versions
from shared.base.progress import say
from shared.domain.domain import Domain, load_domain
from shared.evaluate.models.chat import Chat
from shared.source.embedded import PACKAGE, embedded_model
from shared.source.model import load_model
from shared.source.source import OPTIONAL_FILES, TOKENIZER_FILES, weights_hash

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
NOTE = "finetune.json"


@dataclass(frozen=True)
class Job:
    """What the command line asked for. `base`: a model folder; the embedded model if None."""

    domain: str
    records: Path
    heldout: tuple[Path, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    base: Path | None = None
    replace: bool = False


def finetune(job: Job) -> Path:
    """Train, merge, write; gives back models/<domain>/merged. UserError where that is taken."""
    domain = load_domain(job.domain)
    target = paths.models(domain.name)
    training = training_records(domain, job.records, job.heldout)
    base = job.base or embedded_model(PACKAGE)
    key = _key(domain, training, job.recipe, base)
    _need_room(target, job.replace)
    if _is_done(target, key):
        say(f"      unchanged: {paths.shown(target / 'merged')}")
        return target / "merged"
    left = f", {len(training.left_out)} left out" if training.left_out else ""
    say(
        f"      {len(training.records)} training records{left}; {job.recipe.minutes:.0f} min at most"
    )
    chat = Chat(base)
    examples = [encode(chat, domain.prompt, record) for record in training.records]
    # float32: on a CPU bfloat16 is slower, and Adam's small steps vanish in it
    model = with_adapter(load_model(base, "float32"), job.recipe)
    course = train(model, examples, job.recipe, _state(key))
    _write(model, base, target, _note(job, training, course, key))
    _state(key).unlink()
    return target / "merged"


def _key(domain: Domain, training: Training, recipe: Recipe, base: Path) -> str:
    records = [record.model_dump() for record in training.records]
    parts = [domain.prompt, records, asdict(recipe), weights_hash(base)]
    return sha256_json([parts, tool_versions("torch", "transformers", "peft")])[:16]


def _state(key: str) -> Path:
    return paths.build() / "finetune" / f"{key}.safetensors"


def _need_room(target: Path, replace: bool) -> None:
    merged = target / "merged"
    if merged.exists() and not replace and not _is_ours(target):
        raise UserError(
            f"{paths.shown(merged)}: holds a model that this example did not write; "
            "--replace puts the new one in its place"
        )


def _is_done(target: Path, key: str) -> bool:
    return _is_ours(target) and _read_note(target)["key"] == key


def _is_ours(target: Path) -> bool:
    """Whether merged/ holds the very weights that the note in adapter/ tells of."""
    try:
        return bool(weights_hash(target / "merged") == _read_note(target)["merged"])
    except (OSError, ValueError, KeyError, UserError):  # no model, or no note on it
        return False


def _read_note(target: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((target / "adapter" / NOTE).read_bytes())
    return note


def _note(job: Job, training: Training, course: Course, key: str) -> dict[str, Any]:
    losses = course.losses or []
    return {
        "key": key,
        "base": BASE if job.base is None else job.base.name,
        "records": len(training.records),
        "left_out_as_near_copies_of_held_out_records": list(training.left_out),
        "recipe": asdict(job.recipe),
        "steps": course.step,
        "examples_seen": course.step * job.recipe.examples_per_pack,
        "seconds": round(course.seconds, 1),
        "losses_nats_per_token": losses,
    }


def _write(model: Any, base: Path, target: Path, note: dict[str, Any]) -> None:
    """merged/ in bfloat16 with the base's tokenizer files, adapter/ with the note on the run.

    The note names merged's hash, so that a model of another hand is never taken for this one.
    """
    import torch

    target.mkdir(parents=True, exist_ok=True)
    adapter, merged = target / ".adapter.partial", target / ".merged.partial"
    for folder in (adapter, merged):
        shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = note["base"]
    model.save_pretrained(adapter, save_embedding_layers=False)  # else it asks the Hub
    (adapter / "README.md").write_text(_words(note), encoding="utf-8")
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(merged)
    for name in (*TOKENIZER_FILES, *OPTIONAL_FILES):
        if (base / name).is_file() and not (merged / name).exists():
            shutil.copyfile(base / name, merged / name)
    note = {**note, "merged": weights_hash(merged)}
    (adapter / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    swap_in(adapter, target / "adapter")
    swap_in(merged, target / "merged")


def _words(note: dict[str, Any]) -> str:
    """The adapter's card, in place of peft's form to be filled in."""
    losses = note["losses_nats_per_token"]
    last = losses[-10:]
    return (
        f"---\nbase_model: {note['base']}\nlibrary_name: peft\n---\n\n"
        f"LoRA matrices for {note['base']}, trained by DocIntel's examples/finetune on "
        f"{note['records']} records: {note['steps']} steps, {note['examples_seen']:,} examples, "
        f"{note['seconds'] / 60:.1f} minutes; loss {losses[0]:.3f} nats a token of answer in the "
        f"first step, {sum(last) / len(last):.3f} over the last {len(last)}. "
        f"{NOTE} has the recipe and every step's loss; the merged model lies in ../merged.\n"
    )
