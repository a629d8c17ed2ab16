"""What the 16-bit parent predicts on held-out text, computed once for its weights and that text.

>>> reference = reference_stage(source, heldout, tokens=1024)
>>> for passage in passages(reference.folder): passage.ids, passage.scored, passage.cut

The text is a domain's chat: for each record the prompt, its input, and the answer that would be right.
What all records begin with (the instructions) is read once and not scored. Each passage is a file of
its own, so that a killed run goes on with the next; at no time are more logits held than those of CHUNK
positions, so that memory is the weights' and little more (docs/fidelity.md has the figures).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.base.hashing import sha256_files, sha256_json
from shared.base.manifest import tool_versions
from shared.base.progress import bar, say
from shared.base.stage import Done, Plan, Produced, run_stage
from shared.evaluate.distribution import KEEP_AT_MOST, TAIL, Cut, cut, joined
from shared.source.source import TOKENIZER_FILES, Source, weights_hash

CHUNK = 64
"""Positions whose logits are held at once: 33 MB in float32 with a vocabulary of 128,256."""

FLOAT32_BELOW_BYTES = 2_000_000_000
"""Smaller weights are computed with in float32, larger ones in bfloat16, which is what fits."""


@dataclass(frozen=True)
class HeldOut:
    """The text: a system prompt and (input, answer) pairs; `origin` names the set in words."""

    system: str
    pairs: tuple[tuple[str, str], ...]
    origin: str


@dataclass(frozen=True)
class Passage:
    """One record's token ids. `first`: the first that is scored; `answer`: where the answer begins.

    Token i is predicted at position i − 1; `cut` has those predictions from `first` to the end.
    """

    ids: np.ndarray
    first: int
    answer: int
    cut: Cut | None = None


def reference_stage(source: Source, text: HeldOut, tokens: int, *, force: bool = False) -> Done:
    """`build/reference/<key>/NNNN.npz`, one per passage, `tokens` scored tokens at most in all."""
    template = "chat_template.jinja"
    names = [*TOKENIZER_FILES, *([template] if (source.folder / template).exists() else [])]
    plan = Plan(
        "reference",
        inputs={
            "weights": weights_hash(source.folder),
            "tokenizer": sha256_json(sha256_files(source.folder, names)),
            "text": sha256_json([text.system, text.pairs]),
        },
        settings={"tokens": tokens, "tail": TAIL, "keep_at_most": KEEP_AT_MOST},
        tools=tool_versions("torch", "transformers"),
        code=(__name__,),
    )
    return run_stage(
        plan,
        lambda work: _compute(source.folder, text, tokens, work),
        force=force,
        keep_partial=True,
    )


def passages(folder: Path) -> Iterator[Passage]:
    """The passages of a finished reference, in order, one in memory at a time."""
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            parts = [arrays[name] for name in Cut.__dataclass_fields__]
            ids, first, answer = arrays["ids"], int(arrays["first"]), int(arrays["answer"])
        yield Passage(ids, first, answer, Cut(*parts))


def as_passages(chat: Any, text: HeldOut, tokens: int) -> list[Passage]:
    """Pairs evenly spread over the text, as many as it takes for `tokens` scored tokens."""
    asked = [chat.prompt_ids(text.system, question) for question, _ in text.pairs]
    shared = _common(asked)
    whole = []
    for prompt, (_, answer) in zip(asked, text.pairs, strict=True):
        ids = chat.tokenizer.encode(answer, add_special_tokens=False)
        ids = [*prompt, *ids, chat.tokenizer.eos_token_id]
        whole.append(Passage(np.array(ids, np.int64), shared, len(prompt)))
    average = sum(len(p.ids) - p.first for p in whole) / len(whole)
    count = min(len(whole), max(1, -int(-tokens // average)))
    spread = [whole[i * len(whole) // count] for i in range(count)]
    return list(_limited(spread, tokens))


def _limited(whole: Sequence[Passage], tokens: int) -> Iterator[Passage]:
    left = tokens
    for passage in whole:
        if left <= 0:
            return
        end = min(len(passage.ids), passage.first + left)
        yield Passage(passage.ids[:end], passage.first, min(passage.answer, end))
        left -= end - passage.first


def _common(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with; at least 1 (something must predict the first scored
    token) and less than the shortest row; a single row's half counts as instructions."""
    first = rows[0]
    shortest = min(map(len, rows)) - 1
    if len(rows) == 1:
        return max(1, shortest // 2)
    same = next((i for i in range(shortest) if any(r[i] != first[i] for r in rows)), shortest)
    return max(1, same)


def _compute(folder: Path, text: HeldOut, tokens: int, work: Path) -> Produced:
    from shared.evaluate.models.chat import Chat

    todo = as_passages(Chat(folder), text, tokens)
    missing = [(i, p) for i, p in enumerate(todo) if not (work / f"{i:04d}.npz").exists()]
    say(f"      reading {len(todo)} held-out records with the 16-bit parent")
    if missing:
        with bar("reference", len(missing)) as step:
            from shared.evaluate.models.parent import Parent

            parent = Parent(folder, dtype_of(folder))
            for number, passage in missing:
                _save(work / f"{number:04d}.npz", passage, read(parent, passage))
                step(f"record {number + 1}")
    for partial in work.glob(".*.npz"):
        partial.unlink()
    return Produced(
        facts={
            "origin": text.origin,
            "passages": len(todo),
            "tokens": sum(len(p.ids) - p.first for p in todo),
            "dtype": dtype_of(folder),
        }
    )


def dtype_of(folder: Path) -> str:
    """What the parent is computed in: "float32" or, for large weights, "bfloat16"."""
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return "float32" if size < FLOAT32_BELOW_BYTES else "bfloat16"


def read(model: Any, passage: Passage) -> Cut:
    """The model's predictions of the scored tokens, cut."""
    return joined([cut(logits, following) for logits, following in predictions(model, passage)])


def predictions(model: Any, passage: Passage) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(logits [c, vocab], the tokens that follow [c]), c ≤ CHUNK, over the scored tokens.

    `model` has `feed(ids)`, `rewind(length)`, `length` and `read`; what it has read of the passage's
    unscored beginning stays in its cache for the next passage.
    """
    shared = passage.first - 1
    if model.length != shared or not np.array_equal(model.read, passage.ids[:shared]):
        model.rewind(0)
        for start in range(0, shared, CHUNK):
            model.feed(passage.ids[start : min(start + CHUNK, shared)].tolist())
        model.read = passage.ids[:shared].copy()
    for start in range(shared, len(passage.ids) - 1, CHUNK):
        end = min(start + CHUNK, len(passage.ids) - 1)
        yield model.feed(passage.ids[start:end].tolist()), passage.ids[start + 1 : end + 1]
    model.rewind(shared)


def _save(path: Path, passage: Passage, found: Cut) -> None:
    partial = path.with_name(f".{path.name}")
    head: dict[str, Any] = {"ids": passage.ids, "first": passage.first, "answer": passage.answer}
    with partial.open("wb") as file:
        np.savez(file, **head, **vars(found))
    partial.replace(path)
