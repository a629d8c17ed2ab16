"""Stage 5, check: three systems answer held-out records, freely and schema-constrained.

Bad answers are a measurement, not a crash. Every answer is kept as it came (answer_store.py);
this stage's folder has them with their verdicts, and the records beside them.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.base.errors import RungFailed
from shared.base.hashing import sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.progress import say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.domain.grammar.schema import grammar
from shared.domain.records import Record, spread
from shared.domain.settings import Rung
from shared.evaluate.answer_store import Store
from shared.evaluate.scoring.forcing import forcing_words
from shared.evaluate.scoring.measurements import Answers, Judged, advice, exceptions, measure
from shared.evaluate.systems import (
    MODES,
    NAMES,
    Mode,
    Name,
    Refused,
    Runner,
    System,
    all_systems,
    base_label,
)
from shared.source.source import Source

ANSWERS = "answers.jsonl"
RECORDS = "records.jsonl"

FIRST = 8
"""Records that are answered before a time budget is divided; fewer are not worth scoring."""
SHARE = 0.9
"""Of a budget; the rest is for loading, and for records longer than the first."""
WORTH_LOADING = 1.25
"""How many times the records there must be time for before everyone is loaded once more."""


@dataclass(frozen=True)
class Selection:
    """Which records are answered, by whom and how; `own`: they are the domain's, not a file's.

    `device`: where PyTorch answers; `minutes`: --time-budget, what all answers may take together.
    """

    records: tuple[Record, ...]
    origin: str
    own: bool = True
    systems: tuple[Name, ...] = NAMES
    modes: tuple[Mode, ...] = MODES
    device: str = "auto"
    minutes: float | None = None


def check_stage(
    domain: Domain,
    rung: Rung,
    source: Source,
    package: StageResult,
    selection: Selection,
    *,
    force: bool = False,
) -> StageResult:
    """Answer, judge and compare; shared.evaluate.scoring.measurements says what is measured."""
    systems = all_systems(domain, rung, source, package, selection.systems)
    settings = {
        "prompt": domain.prompt,
        "schema": domain.schema,
        "grammar": grammar(domain.schema),  # the order of the fields, which a key does not see
        "metrics": {name: how.model_dump() for name, how in domain.chain.metrics.items()},
        "max_new_tokens": domain.chain.check.max_new_tokens,
        "systems": {n: systems[n].weights or systems[n].absent for n in selection.systems},
        "base_label": base_label(rung),
        "modes": selection.modes,
        "origin": selection.origin,
        "own": selection.own,
        "device": selection.device,
        "minutes": selection.minutes,
    }
    records = sha256_json([record.model_dump() for record in selection.records])
    plan = Plan(
        "check",
        inputs={"package": package.manifest.key, "records": records},
        settings=settings,
        tools=tool_versions(
            *("onnxruntime-genai", "transformers", "torch", "xgrammar", "jsonschema", "scipy"),
            *("text2num", "snowballstemmer"),
        ),
        code=(__name__,),
    )
    run = _Check(domain, selection, systems, base_label(rung), force)
    return run_stage(plan, run.produce, force=force)


@dataclass(frozen=True)
class _Check:
    domain: Domain
    selection: Selection
    systems: dict[Name, System]
    base_label: str
    force: bool = False

    def produce(self, work: Path) -> Produced:
        if self.force:
            for store in self._stores():
                store.forget()
        resumed = any(store.all(self.selection.records) for store in self._stores())
        answers, loads = self._answers()
        judged = answers.judged()
        _write_answers(work / ANSWERS, answers, judged)
        lines = (json.dumps(r.model_dump(), ensure_ascii=False) for r in answers.records)
        (work / RECORDS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        found = measure(answers, judged)
        facts = self._facts(answers, judged, found)
        return Produced({"loads": loads, **found}, facts=facts, resumed=resumed)

    def _stores(self) -> Iterator[Store]:
        """Where the answers lie that this run asks for; an earlier one may have given them."""
        selection = self.selection
        for system in (self.systems[name] for name in selection.systems):
            for mode in selection.modes if not system.absent else ():
                for forcing in (True, False) if system.name == "release" else (True,):
                    yield system.store(mode, self.domain, selection.device, forcing=forcing)

    def _answers(self) -> tuple[Answers, Measurement]:
        """The answers to all records, or to as many as there is time for; and whether it loads.

        With a budget the first few are answered by everyone, and what their answers took (as the store
        remembers it, so that a run that goes on decides alike) tells how many more there is time for;
        again, as long as that adds enough to load the models again.
        """
        selection = self.selection
        asked, order = len(selection.records), spread(range(len(selection.records)))
        count = asked if selection.minutes is None else min(asked, FIRST)
        while True:
            records = tuple(selection.records[i] for i in sorted(order[:count]))
            answers = Answers(self.domain, records, selection.origin, own=selection.own)
            loads = self._ask_all(answers)
            more = affordable(answers, asked, selection.minutes)
            if (more < WORTH_LOADING * count and more < asked) or count == asked:
                return answers, loads
            say(f"      time for {more} of {asked} records")
            count = more

    def _ask_all(self, answers: Answers) -> Measurement:
        """Every system in turn, the release first: it is what is released. Whether that loads."""
        loads = Measurement.missing("the release was not asked")
        for name in reversed(self.selection.systems):
            try:
                self._ask(name, answers)
            except RungFailed as error:
                self._have_none((name,), str(error), answers)
                if name == "release":
                    others = [other for other in self.selection.systems if other != name]
                    self._have_none(others, "not asked, as the release cannot be loaded", answers)
                    return Measurement(value=False, reason=str(error))
            else:
                if name == "release":
                    loads = Measurement(value=True, how="a session was created and answered")
        return loads

    def _have_none(self, names: Sequence[Name], why: str, answers: Answers) -> None:
        answers.why_not |= {(name, mode): why for name in names for mode in self.selection.modes}

    def _ask(self, name: Name, answers: Answers) -> None:
        """What the schema's grammar refuses concerns that mode alone. RungFailed: it cannot load."""
        system = self.systems[name]
        if system.absent:
            raise RungFailed(system.absent)
        with closing(Runner(system, self.domain, answers.records, self.selection.device)) as runner:
            for mode in self.selection.modes:
                try:
                    store = runner.run(mode)
                except Refused as error:
                    answers.why_not[name, mode] = str(error)
                    continue
                answers.given[name, mode] = store.all(answers.records)
                if (name, mode) == ("release", "constrained"):
                    stepwise = runner.run(mode, forcing=False)
                    answers.stepwise = stepwise.all(answers.records)

    def _facts(
        self, answers: Answers, judged: Judged, found: dict[str, Measurement]
    ) -> dict[str, Any]:
        """What a reader wants to see. Text of a file that was given from elsewhere is kept out."""
        given = answers.given.get(("release", self.selection.modes[-1]), [])
        ours = ((r, a) for r, a in zip(answers.records, given, strict=False) if answers.is_ours(r))
        example = next(({"id": r.id, "answer": a.text} for r, a in ours), None)
        held = [len(found) for (_, mode), found in answers.given.items() if mode == "constrained"]
        who, asked = dict.fromkeys(name for name, _ in answers.given), len(self.selection.records)
        return {
            "origin": answers.origin,
            "records": len(answers.records),
            "computed": {name: self.systems[name].computed(self.selection.device) for name in who},
            "systems": list(self.selection.systems),
            "modes": list(self.selection.modes),
            "base_label": self.base_label,
            "advice": advice(found),
            "forcing": forcing_words(found),
            "constrained_answers": sum(held),
            "exceptions": exceptions(answers, judged),
            **({"example": example} if example else {}),
            **({"cut": self._cut(len(answers.records))} if len(answers.records) < asked else {}),
        }

    def _cut(self, count: int) -> str:
        asked, minutes = len(self.selection.records), self.selection.minutes
        return f"{count} of {asked}, evenly spread, cut by --time-budget {minutes:g}"


def affordable(answers: Answers, asked: int, minutes: float | None) -> int:
    """How many of the `asked` records there is time for, by what these answers took."""
    given = [answer for found in (*answers.given.values(), answers.stepwise) for answer in found]
    spent = sum(answer.prefill_seconds + answer.decode_seconds for answer in given)
    if minutes is None or not spent:
        return asked
    return min(asked, int(len(answers.records) * SHARE * 60 * minutes / spent))


def _write_answers(file: Path, answers: Answers, judged: Judged) -> None:
    """One line an answer: system, mode, record, what was said, and the verdict."""
    with file.open("w", encoding="utf-8") as out:
        for (name, mode), verdicts in judged.items():
            given = answers.given[name, mode]
            for record, answer, verdict in zip(answers.records, given, verdicts, strict=True):
                line = {"system": name, "mode": mode, "id": record.id, **asdict(answer)}
                out.write(json.dumps({**line, "verdict": asdict(verdict)}) + "\n")
