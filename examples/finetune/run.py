"""From records to an adapter, and to the merged model, each visible only when it is whole."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from examples.finetune.packing import encode
from examples.finetune.records import Training, training_records
from examples.finetune.released import released_hash, take_released
from examples.finetune.train import Course, Recipe, train, with_adapter
from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import swap_in, write_json
from shared.base.hashing import sha256_file, sha256_json
from shared.base.manifest import tool_versions
from shared.base.progress import say
from shared.domain.domain import Domain, load_domain
from shared.evaluate.models.chat import Chat
from shared.source.adapter import CONFIG, WEIGHTS
from shared.source.embedded import PACKAGE, embedded_model
from shared.source.model import load_model
from shared.source.source import OPTIONAL_FILES, TOKENIZER_FILES, weights_hash
from shared.source.training import RECORD

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
NOTE = "finetune.json"
TRAINED_ON = "released 4-bit base"


@dataclass(frozen=True)
class Job:
    """What the command line asked for. `base`: a model folder; the embedded model if None.

    `to`: where the adapter alone goes; if None, it and the merged model go into models/<domain>.
    `data`: names and licences of what is trained on, for the card. `start`: an adapter that this
    example wrote, whose weights are gone on from. `released`: a family's folder, whose 4-bit base it
    is trained for."""

    domain: str
    records: tuple[Path, ...]
    heldout: tuple[Path, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    base: Path | None = None
    replace: bool = False
    to: Path | None = None
    data: tuple[str, ...] = ()
    start: Path | None = None
    released: Path | None = None


def finetune(job: Job) -> Path:
    """Train and write; gives back `to`, or models/<domain>/merged. UserError where that is taken."""
    if not 0 < job.recipe.minutes < math.inf:
        raise UserError(f"--minutes: a number above 0 is wanted, not {job.recipe.minutes:g}")
    if job.released and not job.to:
        raise UserError("--on-released-base: such an adapter stands alone; say where with --to")
    domain = load_domain(job.domain)
    target = paths.models(domain.name)
    training = training_records(domain, job.records, job.heldout)
    base = job.base or embedded_model(PACKAGE)
    key = _key(domain, training, job, base)
    goal = job.to or target / "merged"
    adapter, ours = (
        job.to or target / "adapter",
        _is_ours_alone(job.to) if job.to else _is_ours(target),
    )
    _need_room(goal, ours or job.replace)
    if adapter.exists() and not _is_ours_alone(adapter) and (job.to or not job.replace):
        raise UserError(
            f"{paths.shown(adapter)}: holds files that this example did not write; move it away"
        )
    if ours and _is_done(adapter, key):
        say(f"      unchanged: {paths.shown(goal)}")
        return goal
    left = f", {len(training.left_out)} left out" if training.left_out else ""
    say(
        f"      {len(training.records)} training records{left}; {job.recipe.minutes:.0f} min at most"
    )
    chat = Chat(base)
    examples = [encode(chat, domain.prompt, record) for record in training.records]
    # float32 weights: Adam's small steps vanish in bfloat16; products are in it where the CPU has them
    model = load_model(base, "float32")
    model = with_adapter(take_released(model, job.released) if job.released else model, job.recipe)
    if job.start:
        begin_with(model, job.start)
    course = train(model, examples, job.recipe, _state(key))
    note = _note(job, training, course, key)
    if job.to:
        write_adapter(model, base, job.to, note)
    else:
        _write(model, base, target, note)
    _state(key).unlink()
    return goal


def begin_with(model: Any, adapter: Path) -> None:
    """Put an adapter's matrices in the place of the fresh ones; UserError where they do not fit."""
    import torch
    from safetensors.torch import load_file

    found = load_file(adapter / WEIGHTS)
    fresh = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    if {n: t.shape for n, t in found.items()} != {n: p.shape for n, p in fresh.items()}:
        raise UserError(f"{paths.shown(adapter)}: has not the matrices that this recipe trains")
    with torch.no_grad():
        for name, parameter in fresh.items():
            parameter.copy_(found[name])


def _key(domain: Domain, training: Training, job: Job, base: Path) -> str:
    records = [record.model_dump() for record in training.records]
    parts = [domain.prompt, records, asdict(job.recipe), weights_hash(base)]
    if job.start:
        _refuse_start(job.start, job.to)
        parts.append(sha256_file(job.start / WEIGHTS))
    if job.released:
        parts.append(released_hash(job.released, base))
    return sha256_json([parts, tool_versions("torch", "transformers", "peft")])[:16]


def _refuse_start(start: Path, to: Path | None) -> None:
    if not (start / NOTE).is_file() or not (start / WEIGHTS).is_file():
        raise UserError(f"{paths.shown(start)}: holds no adapter that this example wrote")
    if to and to.resolve() == start.resolve():
        raise UserError(f"{paths.shown(start)}: cannot be begun with and written at once; copy it")


def _state(key: str) -> Path:
    return paths.build() / "finetune" / f"{key}.safetensors"


def _need_room(goal: Path, may_replace: bool) -> None:
    if goal.exists() and not may_replace:
        raise UserError(
            f"{paths.shown(goal)}: holds a model that this example did not write; "
            "--replace puts the new one in its place"
        )


def _is_ours_alone(adapter: Path) -> bool:
    """Whether the folder holds nothing but an adapter that this example wrote, or nothing at all."""
    found = {path.name for path in adapter.glob("*")}
    written = {NOTE, RECORD, CONFIG, WEIGHTS, "README.md"}
    return adapter.is_dir() and found <= written and (NOTE in found or not found)


def _is_done(adapter: Path, key: str) -> bool:
    try:
        return bool(_read_note(adapter)["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _is_ours(target: Path) -> bool:
    """Whether merged/ holds the very weights that the note in adapter/ tells of."""
    try:
        return bool(weights_hash(target / "merged") == _read_note(target / "adapter")["merged"])
    except (OSError, ValueError, KeyError, UserError):  # no model, or no note on it
        return False


def _read_note(adapter: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((adapter / NOTE).read_bytes())
    return note


def _note(job: Job, training: Training, course: Course, key: str) -> dict[str, Any]:
    """Of all legs, where it was begun with another's weights: `legs` tells each one's own recipe."""
    before = _read_note(job.start) if job.start else {}
    steps = before.get("steps", 0) + course.step
    leg = {"to_step": steps, "records": len(training.records), "recipe": asdict(job.recipe)}
    first = {"to_step": before.get("steps"), **{k: before.get(k) for k in ("records", "recipe")}}
    seen = course.step * job.recipe.examples_per_pack
    return {
        "key": key,
        "base": BASE if job.base is None else job.base.name,
        **({"trained_on": TRAINED_ON} if job.released else {}),
        "records": max(len(training.records), before.get("records", 0)),
        "left_out_as_near_copies_of_held_out_records": list(training.left_out),
        "recipe": asdict(job.recipe),
        **({"legs": [*before.get("legs", [first]), leg]} if before else {}),
        "steps": steps,
        "examples_seen": before.get("examples_seen", 0) + seen,
        "data": list(dict.fromkeys([*before.get("data", []), *job.data])),
        "seconds": round(before.get("seconds", 0.0) + course.seconds, 1),
        "losses_nats_per_token": [*before.get("losses_nats_per_token", []), *(course.losses or [])],
    }


def _write(model: Any, base: Path, target: Path, note: dict[str, Any]) -> None:
    """merged/ in bfloat16 with the base's tokenizer files, adapter/ with the note on the run.

    The note names merged's hash, so that a model of another hand is never taken for this one.
    """
    import torch

    target.mkdir(parents=True, exist_ok=True)
    partial = target / ".merged.partial"
    shutil.rmtree(partial, ignore_errors=True)
    adapter = _partial_adapter(model, base, target / "adapter", note)
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(partial)
    for name in {*TOKENIZER_FILES, *OPTIONAL_FILES} - {RECORD}:
        if (base / name).is_file() and not (partial / name).exists():
            shutil.copyfile(base / name, partial / name)
    _write_note(adapter, {**note, "merged": weights_hash(partial)})
    swap_in(adapter, target / "adapter")
    swap_in(partial, target / "merged")


def write_adapter(model: Any, base: Path, folder: Path, note: dict[str, Any]) -> None:
    """The adapter alone, as a rung's `adapter` takes it: peft's two files in 16 bits, and the note."""
    partial = _partial_adapter(model, base, folder, note)
    _write_note(partial, note)
    swap_in(partial, folder)


def _partial_adapter(model: Any, base: Path, folder: Path, note: dict[str, Any]) -> Path:
    """Everything but the note, beside `folder`. float16: a matrix's numbers are small and near zero."""
    import torch
    from safetensors.torch import load_file, save_file

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = note["base"]
    model.save_pretrained(partial, save_embedding_layers=False)  # else it asks the Hub
    weights = load_file(partial / WEIGHTS)
    halves = {name: tensor.to(torch.float16) for name, tensor in weights.items()}
    save_file(halves, partial / WEIGHTS, {"format": "pt"})
    (partial / "README.md").write_text(_words(note), encoding="utf-8")
    write_json(partial / RECORD, {**_record(note), "base_weights": weights_hash(base)})
    return partial


def _write_note(adapter: Path, note: dict[str, Any]) -> None:
    (adapter / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _record(note: dict[str, Any]) -> dict[str, Any]:
    """What the card of a release tells of the training (shared.source.training)."""
    recipe = note["recipe"]
    return {
        "training_records": note["records"],
        "data": note["data"],
        "steps": note["steps"],
        "examples_seen": note["examples_seen"],
        **({"trained_on": note["trained_on"]} if "trained_on" in note else {}),
        "learning_rate": recipe["learning_rate"],
        "minutes": round(note["seconds"] / 60, 1),
        "seed": recipe["seed"],
    }


def _words(note: dict[str, Any]) -> str:
    """The adapter's card, in place of peft's form to be filled in."""
    losses = note["losses_nats_per_token"]
    last = losses[-10:]
    legs = f" It was trained in {len(note['legs'])} legs." if "legs" in note else ""
    return (
        f"---\nbase_model: {note['base']}\nlibrary_name: peft\n---\n\n"
        f"LoRA matrices for {note['base']}, trained by DocIntel's examples/finetune on "
        f"{note['records']} records: {note['steps']} steps, {note['examples_seen']:,} examples, "
        f"{note['seconds'] / 60:.1f} minutes; loss {losses[0]:.3f} nats a token of answer in the "
        f"first step, {sum(last) / len(last):.3f} over the last {len(last)}. "
        f"{NOTE} has the recipe and every step's loss.{legs}\n"
    )
