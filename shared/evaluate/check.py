"""Stage 5, check: onnxruntime-genai on the CPU answers held-out records; the answers are measured.

Two systems answer the same records: the release with the domain's prompt, and the plain base model
without it. Bad answers are a measurement, not a crash. Each answer is appended to answers.jsonl as
soon as it is there, so that a killed run loses at most one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.domain import Domain, Record, Rung
from shared.evaluate.answers import Verdict, judge
from shared.hashing import sha256_json
from shared.manifest import Measurement, tool_versions
from shared.progress import bar, say
from shared.stage import Done, Plan, Produced, run_stage

ANSWERS = "answers.jsonl"
RELEASE, BASE = "release", "base"
RATES = ("json_validity", "fenced", "schema_compliance", "degenerate", "field_accuracy")


@dataclass(frozen=True)
class Selection:
    """Which records are answered, and the name of the set that they come from."""

    records: tuple[Record, ...]
    origin: str


def sample(records: Sequence[Record], count: int) -> tuple[Record, ...]:
    """`count` records, evenly spread over the file, the same ones each time."""
    if count >= len(records):
        return tuple(records)
    return tuple(records[i * len(records) // count] for i in range(count))


def check_stage(
    domain: Domain, rung: Rung, package: Done, selection: Selection, *, force: bool = False
) -> Done:
    """Answer and judge; see `_measurements` for what is measured."""
    settings = {
        "prompt": domain.prompt,
        "schema": domain.schema,
        "metrics": {name: how.model_dump() for name, how in domain.chain.metrics.items()},
        "max_new_tokens": domain.chain.check.max_new_tokens,
        "base": rung.base if rung.prompt_only else None,
        "origin": selection.origin,
    }
    records = sha256_json([record.model_dump() for record in selection.records])
    plan = Plan(
        "check",
        inputs={"package": package.manifest.key, "records": records},
        settings=settings,
        tools=tool_versions("onnxruntime-genai", "transformers", "jsonschema"),
        code=4,
    )
    run = _Check(domain, rung, package.folder, selection)
    return run_stage(plan, run.produce, force=force, keep_partial=True)


@dataclass(frozen=True)
class _Check:
    domain: Domain
    rung: Rung
    package: Path
    selection: Selection

    def produce(self, work: Path) -> Produced:
        say("      loading the model in onnxruntime-genai")
        from shared.evaluate.genai import Answerer

        try:
            answerer = Answerer(self.package)
        except Exception as error:
            reason = f"onnxruntime-genai cannot load the package: {str(error).splitlines()[0]}"
            return Produced(self._nothing_loaded(reason))
        answers = self._answer_all(answerer, work / ANSWERS)
        return Produced(self._measurements(answers), facts=self._facts(answers))

    def _systems(self) -> dict[str, str | None]:
        """System → its system prompt. The base model is at hand only where the rung is the base."""
        plain = {BASE: None} if self.rung.prompt_only else {}
        return {RELEASE: self.domain.prompt, **plain}

    def _answer_all(self, answerer: Any, file: Path) -> list[dict[str, Any]]:
        answers = _read_answers(file)
        known = {(a["system"], a["id"]) for a in answers}
        wanted = [
            (system, prompt, record)
            for system, prompt in self._systems().items()
            for record in self.selection.records
            if (system, record.id) not in known
        ]
        if answers:
            say(f"      {len(answers)} answers kept from a run that was cut short")
        with file.open("a", encoding="utf-8") as out, bar("answers", len(wanted)) as step:
            for system, prompt, record in wanted:
                answer = self._answer(answerer, system, prompt, record)
                out.write(json.dumps(answer, ensure_ascii=False) + "\n")
                out.flush()
                answers.append(answer)
                step(f"{system} {record.id}")
        return answers

    def _answer(
        self, answerer: Any, system: str, prompt: str | None, record: Record
    ) -> dict[str, Any]:
        ids = answerer.chat.prompt_ids(prompt, record.input)
        answer = answerer.answer(ids, self.domain.chain.check.max_new_tokens)
        verdict = judge(answer.text, record, self.domain.schema, self.domain.chain.metrics)
        return {"system": system, "id": record.id, **asdict(answer), "verdict": asdict(verdict)}

    def _measurements(self, answers: list[dict[str, Any]]) -> dict[str, Measurement]:
        found = {"loads": Measurement(value=True, how="a session was created and answered")}
        for system in (RELEASE, BASE):
            prefix = "" if system == RELEASE else "base_"
            mine = [a for a in answers if a["system"] == system]
            for name, measurement in self._rates(mine).items():
                found[prefix + name] = measurement
        return found

    def _nothing_loaded(self, reason: str) -> dict[str, Measurement]:
        """Every measurement is there, so that gates can tell "not measured" from a typo."""
        names = [p + name for p in ("", "base_") for name in (*RATES, "decode_tokens_per_second")]
        missing = {name: Measurement.missing(reason) for name in names}
        return {"loads": Measurement(value=False, reason=reason), **missing}

    def _rates(self, answers: list[dict[str, Any]]) -> dict[str, Measurement]:
        if not answers:
            reason = f"the weights of {self.rung.base} are not at hand to be asked"
            return {name: Measurement.missing(reason, "share") for name in RATES}
        verdicts = [Verdict(**a["verdict"]) for a in answers]
        how = f"greedy, {self.selection.origin}, onnxruntime-genai on the CPU"
        fields = [s for v in verdicts for s in v.fields.values() if s is not None]
        samples: dict[str, Sequence[float]] = {
            "json_validity": [v.json for v in verdicts],
            "fenced": [v.fenced for v in verdicts],
            "schema_compliance": [v.schema for v in verdicts],
            "degenerate": [v.degenerate for v in verdicts],
            "field_accuracy": fields,
        }
        rates = {
            name: Measurement(value=statistics.fmean(s), unit="share", how=how, n=len(s))
            for name, s in samples.items()
        }
        return rates | {"decode_tokens_per_second": _speed(answers)}

    def _facts(self, answers: list[dict[str, Any]]) -> dict[str, Any]:
        """What a reader wants to see: the set's name, and one real answer."""
        example = next(a for a in answers if a["system"] == RELEASE)
        return {
            "origin": self.selection.origin,
            "records": len(self.selection.records),
            "example": {"id": example["id"], "answer": example["text"]},
        }


def _speed(answers: list[dict[str, Any]]) -> Measurement:
    """Decode tokens/s over all answers with two tokens or more (the first belongs to prefill)."""
    long = [a for a in answers if len(a["output_ids"]) > 1]
    tokens = sum(len(a["output_ids"]) - 1 for a in long)
    seconds = sum(a["decode_seconds"] for a in long)
    if not seconds:
        return Measurement.missing("every answer was one token long", "tokens/s")
    return Measurement(value=tokens / seconds, unit="tokens/s", how="CPU, greedy", n=len(long))


def _read_answers(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that a killed run may have ended in the middle of a line."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    file.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]
