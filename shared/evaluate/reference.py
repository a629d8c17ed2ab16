"""The 16-bit parent's predictions of held-out text, computed once for its weights and that text.

>>> reference = reference_stage(source, held_out(prompt, records), tokens=1024)
>>> for passage in passages(reference.folder): passage.ids, passage.first, passage.predicted

The text is a domain's chat: for each record the prompt, its input, and the answer that would be right.
What all records begin with (the instructions) is read once and not scored. Each passage is a file of
its own, so that a killed run goes on with the next; at no time are more logits held than those of CHUNK
positions, so that memory is the weights' and little more (docs/fidelity.md has the figures).
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.hashing import sha256_files, sha256_json
from shared.base.manifest import tool_versions
from shared.base.parsing import read_json
from shared.base.progress import bar, say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.evaluate.distribution import (
    KEEP_AT_MOST,
    TAIL,
    TruncatedDistribution,
    joined,
    truncate,
)
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.device import Computing, computing
from shared.evaluate.token_windows import HeldOut, Passage, passages_of
from shared.source.source import TOKENIZER_FILES, Source, weights_hash

CHUNK = 64
"""Positions whose logits are held at once: 33 MB in float32 with a vocabulary of 128,256."""


def reference_stage(
    source: Source, text: HeldOut, tokens: int, *, device: str = "auto", force: bool = False
) -> StageResult:
    """`build/reference/<key>/NNNN.npz`, one per record; they have `tokens` scored tokens, or more.

    `device`: one of shared.evaluate.models.device.DEVICES.
    """
    template, how = "chat_template.jinja", computing(source.folder, device)
    names = [*TOKENIZER_FILES, *([template] if (source.folder / template).exists() else [])]
    plan = Plan(
        "reference",
        inputs={
            "weights": weights_hash(source.folder),
            "tokenizer": sha256_json(sha256_files(source.folder, names)),
            "text": sha256_json([text.system, text.pairs]),
        },
        settings={
            "tokens": tokens,
            "tail": TAIL,
            "keep_at_most": KEEP_AT_MOST,
            "computed": str(how),
        },
        tools=tool_versions("torch", "transformers"),
        code=(__name__,),
    )
    return run_stage(
        plan,
        lambda work: _compute(source.folder, text, tokens, how, work),
        force=force,
        keep_partial=True,
    )


def passages(folder: Path) -> Iterator[Passage]:
    """The passages of a finished reference, in order, one in memory at a time."""
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            parts = [arrays[name] for name in TruncatedDistribution.__dataclass_fields__]
            ids, first, answer = arrays["ids"], int(arrays["first"]), int(arrays["answer"])
        yield Passage(ids, first, answer, TruncatedDistribution(*parts))


def _compute(folder: Path, text: HeldOut, tokens: int, how: Computing, work: Path) -> Produced:
    context = read_json(folder / "config.json").get("max_position_embeddings")
    todo = passages_of(Chat(folder), text, tokens, context)
    if not todo:
        where = f"{paths.shown(folder / 'config.json')}: max_position_embeddings"
        raise RungFailed(f"{where}: {context} tokens, which the prompt alone fills")
    missing = [(i, p) for i, p in enumerate(todo) if not (work / f"{i:04d}.npz").exists()]
    say(f"      reading {len(todo)} held-out records with the 16-bit parent")
    if missing:
        with bar("reference", len(missing)) as step:
            from shared.evaluate.models.torch import TorchModel

            parent = TorchModel(folder, how)
            for number, passage in missing:
                head = {"ids": passage.ids, "first": passage.first, "answer": passage.answer}
                save_arrays(work / f"{number:04d}.npz", head | vars(read(parent, passage)))
                step(f"record {number + 1}")
    for partial in work.glob(".*.npz"):
        partial.unlink()
    return Produced(
        facts={
            "origin": text.origin,
            "passages": len(todo),
            "tokens": sum(len(p.ids) - p.first for p in todo),
            "computed": str(how),
        }
    )


def read(model: Any, passage: Passage) -> TruncatedDistribution:
    """The model's predictions of the scored tokens, truncated."""
    found = predictions(model, passage)
    return joined([truncate(logits, following) for logits, following in found])


def predictions(model: Any, passage: Passage) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(logits [c, vocab], the tokens that follow [c]), c ≤ CHUNK, over the scored tokens.

    `model`: a TorchModel or an OnnxDecoder. What it has read of the passage's unscored beginning
    stays in its cache for the next passage.
    """
    shared = passage.first - 1
    if model.ids != passage.ids[:shared].tolist():
        model.rewind(0)
        for start in range(0, shared, CHUNK):
            model.feed(passage.ids[start : min(start + CHUNK, shared)].tolist())
    for start in range(shared, len(passage.ids) - 1, CHUNK):
        end = min(start + CHUNK, len(passage.ids) - 1)
        yield model.feed(passage.ids[start:end].tolist()), passage.ids[start + 1 : end + 1]
    model.rewind(shared)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an .npz that is whole, and on the disk itself, as soon as it has its name."""
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
