"""LoRA on the CPU within a budget of minutes: the learning rate reaches zero when the time is up.

The state (adapter, optimiser, step, seconds) is saved every minute or so under build/finetune/, and
a killed run goes on from it with the same order of examples. LoRA: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from examples.finetune.packing import Example, pack
from shared.base.bfloat16 import is_bfloat16_fast
from shared.base.progress import say

SAVE_EVERY_SECONDS = 60.0
TELL_EVERY_SECONDS = 15.0
PACKS_ALIKE = 5


@dataclass(frozen=True)
class Recipe:
    """How to train. `first_layer`: LoRA goes into this layer and all above it, so that nothing is
    propagated back through those below."""

    minutes: float = 15.0
    epochs: float = 3.0
    rank: int = 8
    first_layer: int = 0
    learning_rate: float = 1e-3
    warm_up_steps: int = 5
    examples_per_pack: int = 10
    seed: int = 1


@dataclass
class Course:
    """How far a run is. `seconds`: time spent on steps, over all its processes."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] | None = None

    def __post_init__(self) -> None:
        self.losses = self.losses or []


def with_adapter(model: Any, recipe: Recipe) -> Any:
    """The model with fresh LoRA matrices in every linear layer from `first_layer` on."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(recipe.seed)
    layers = range(min(recipe.first_layer, model.config.num_hidden_layers - 1), 10_000)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=_linear_names(model),
        layers_to_transform=[i for i in layers if i < model.config.num_hidden_layers],
        layers_pattern="layers",
    )
    return get_peft_model(model, config)


def _linear_names(model: Any) -> list[str]:
    """The names of the linear layers, but for the head: q_proj, up_proj and so on."""
    modules = model.named_modules()
    names = {n.split(".")[-1] for n, m in modules if isinstance(m, torch.nn.Linear)}
    return sorted(names - {"lm_head"})


def train(model: Any, examples: Sequence[Example], recipe: Recipe, state: Path) -> Course:
    """Train the adapter in place; `state`: where a killed run finds its way. Loss in nats/token."""
    torch.set_num_threads(2)
    per_epoch = math.ceil(len(examples) / recipe.examples_per_pack)
    steps = max(1, round(recipe.epochs * per_epoch))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=recipe.learning_rate, weight_decay=0.0)
    course = _resume(state, trained, optimiser)
    saved = told = time.monotonic()
    model.train()
    while course.step < steps and course.seconds < recipe.minutes * 60:
        started = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * pace(course, steps, recipe)
        batch = examples_of(examples, course.step, recipe)
        loss = answer_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        now = time.monotonic()
        course.step, course.seconds = course.step + 1, course.seconds + now - started
        assert course.losses is not None
        course.losses.append(round(float(loss.detach()), 4))
        if now - told > TELL_EVERY_SECONDS:
            told = now
            say(_told(course, steps, recipe))
        if now - saved > SAVE_EVERY_SECONDS:
            saved = now
            _save(state, trained, optimiser, course)
    _save(state, trained, optimiser, course)
    return course


def answer_loss(model: Any, examples: Sequence[Example]) -> torch.Tensor:
    """Mean over the examples of the mean negative log-likelihood of the answer's tokens, in nats."""
    row = pack(examples)
    with attention(model, "packed"), torch.autocast("cpu", torch.bfloat16, is_bfloat16_fast()):
        logits = model(
            input_ids=row.ids,
            position_ids=row.positions,
            logits_to_keep=row.predicts,
            use_cache=False,
            pack=row,
        ).logits[0]
    losses = torch.nn.functional.cross_entropy(logits.float(), row.targets, reduction="none")
    return (losses * row.weights).sum()


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """The model with another of transformers' attention functions, for as long as that."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def pace(course: Course, steps: int, recipe: Recipe) -> float:
    """0 to 1: a linear warm-up, then half a cosine down to the end of the steps or of the time."""
    done = max(course.step / steps, course.seconds / (recipe.minutes * 60))
    warm = min(1.0, (course.step + 1) / recipe.warm_up_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def examples_of(examples: Sequence[Example], step: int, recipe: Recipe) -> list[Example]:
    """The examples of a step: each epoch in an order of its own, the same for the same seed. Within
    PACKS_ALIKE packs of that order those of like length stand together: less of a pack is padding."""
    size = recipe.examples_per_pack
    per_epoch = math.ceil(len(examples) / size)
    chance = random.Random(recipe.seed * 10_000 + step // per_epoch)
    order = chance.sample(range(len(examples)), len(examples))
    alike = size * PACKS_ALIKE
    windows = (order[first : first + alike] for first in range(0, len(order), alike))
    ordered = [i for window in windows for i in sorted(window, key=lambda i: examples[i].length)]
    firsts = chance.sample(range(0, len(order), size), per_epoch)
    first = firsts[step % per_epoch]
    return [examples[i] for i in ordered[first : first + size]]


def _told(course: Course, steps: int, recipe: Recipe) -> str:
    by_steps = course.seconds / course.step * (steps - course.step)
    left = min(by_steps, recipe.minutes * 60 - course.seconds)
    recent = (course.losses or [])[-10:]
    return (
        f"      step {course.step}/{steps}, loss {sum(recent) / len(recent):.3f} nats/token, "
        f"about {max(left, 0) / 60:.1f} min left"
    )


def _save(state: Path, trained: dict[str, Any], optimiser: Any, course: Course) -> None:
    """One safetensors file, replaced whole: the weights, Adam's moments, and the course."""
    tensors = {f"weight.{name}": p.detach().clone() for name, p in trained.items()}
    for name, parameter in trained.items():
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}.{name}"] = value.clone()
    state.parent.mkdir(parents=True, exist_ok=True)
    partial = state.with_suffix(".partial")
    save_file(tensors, partial, {"course": json.dumps(vars(course))})
    partial.replace(state)


def _resume(state: Path, trained: dict[str, Any], optimiser: Any) -> Course:
    from safetensors import safe_open

    if not state.exists():
        return Course()
    with safe_open(state, "pt") as file:
        course = Course(**json.loads(file.metadata()["course"]))
    tensors = load_file(state)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"weight.{name}"])
            optimiser.state[parameter] = {
                key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }
    say(f"      goes on from step {course.step}")
    return course
