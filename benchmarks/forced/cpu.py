"""onnxruntime-genai on the CPU: the check's answers, with forced text and token by token."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.forced.rows import DTYPE, Case, Rows
from shared.base.code import code_hash
from shared.base.progress import say
from shared.evaluate.models.chat import Chat, prompt_prefix
from shared.evaluate.models.forced import Forced
from shared.evaluate.models.genai import GenaiModel
from shared.evaluate.models.onnx import OnnxDecoder

RUNTIME = "shared.evaluate.models.genai"
WAYS = ("with forced text", "token by token")


def answer_key(case: Case, way: str, record: str) -> str:
    """`way`: one of WAYS, or "parting"."""
    return f"cpu/{code_hash(RUNTIME)[:8]}/{case.key}/{way}/{record}"


def measure(case: Case, rows: Rows, count: int) -> None:
    """Answer so many records both ways, and read once more where the two part."""
    model: GenaiModel | None = None
    for way in WAYS:
        missing = [r for r in case.records(count) if not rows.get(answer_key(case, way, r.id))]
        if not missing:
            continue
        model = model or GenaiModel(case.package, DTYPE)
        prompts = [case.prompt(model.chat, record) for record in missing]
        prefix, forcing = prompt_prefix(model.chat, case.domain.prompt), way == WAYS[0]
        given = model.answers(prompts, case.limit, case.grammar, prefix=prefix, forcing=forcing)
        for index, answer in given:
            row = {
                "ids": answer.output_ids,
                "forced": answer.forced,
                "text": answer.text,
                "seconds": answer.prefill_seconds + answer.decode_seconds,
                "load": os.getloadavg()[0],
            }
            rows.put(answer_key(case, way, missing[index].id), row)
            say(f"{case.key}, {way}: {missing[index].id}, {answer.model_runs} runs")
    _read_partings(case, rows, count)


def _read_partings(case: Case, rows: Rows, count: int) -> None:
    reader: Reader | None = None
    for record in case.records(count):
        ours, plain = (rows.get(answer_key(case, way, record.id)) for way in WAYS)
        key = answer_key(case, "parting", record.id)
        if ours["ids"] == plain["ids"] or rows.get(key):
            continue
        reader = reader or Reader.of(case)
        rows.put(key, reader.parting(record.input, ours, plain["ids"]))


def value(text: str) -> Any:
    """What an answer says; its text where it is no JSON (cut off)."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Reader:
    """Reads what one answer has before the first token that another has otherwise, on the CPU: its runs
    cut as with forced text, token by token, and in float32."""

    case: Case
    chat: Chat
    forced: Forced
    rounded: OnnxDecoder
    exact: OnnxDecoder

    @classmethod
    def of(cls, case: Case) -> Reader:
        chat, graph = Chat(case.package), case.package / "onnx" / f"model_{DTYPE}.onnx"
        forced = Forced.under(case.grammar, chat, case.stop)
        return cls(case, chat, forced, OnnxDecoder(graph), OnnxDecoder(graph, exact=True))

    def parting(self, text: str, ours: dict[str, Any], other: list[int]) -> dict[str, Any]:
        """Where `other` parts from the check's answer, and why.

        `asked`: the model was asked for that token in ours, too. `margins`: how much higher the logit
        of our token is than of the other's, by how it was read.
        """
        ids, place = ours["ids"], _parting(ours["ids"], other)
        if place is None:
            return {"place": min(len(ids), len(other)), "asked": False, "margins": {}}
        prompt = self.chat.prompt_ids(self.case.domain.prompt, text)
        cut = _cut(ids[:place], ours["forced"])
        reads = {
            "forced": _last(self.rounded, [prompt, *cut]),
            "stepwise": _last(self.rounded, [prompt, *([token] for token in ids[:place])]),
            "float32": _last(self.exact, [prompt + ids[:place]]),
        }
        one, two = ids[place], other[place]
        margins = {name: float(logits[one] - logits[two]) for name, logits in reads.items()}
        return {"place": place, "asked": place not in ours["forced"], "margins": margins}


def _parting(ids: Sequence[int], other: Sequence[int]) -> int | None:
    pairs = enumerate(zip(ids, other, strict=False))
    return next((place for place, (one, two) in pairs if one != two), None)


def _cut(ids: list[int], forced: Sequence[int]) -> list[list[int]]:
    """The answer's tokens by the runs that read them."""
    found: list[list[int]] = []
    for place, token in enumerate(ids):
        if place not in forced:
            found.append([])
        found[-1].append(token)
    return found


def _last(decoder: OnnxDecoder, runs: Sequence[list[int]]) -> np.ndarray:
    decoder.reset()
    for run in runs:
        logits = decoder.feed(run)[-1]
    return logits
