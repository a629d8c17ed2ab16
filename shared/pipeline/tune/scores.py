"""Does the lower KL divergence do the work better? Task scores of a few builds, pair by pair.

The builds answer the same held-out records, greedily, in onnxruntime-genai on the CPU; an answer's
score is the mean over its fields, as [metrics] of fallback.toml has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.base.hashing import sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.progress import bar
from shared.base.stage import Done, Plan, Produced, run_stage
from shared.domain.domain import Domain
from shared.domain.records import Record
from shared.evaluate.scoring.statistics import Paired, paired
from shared.evaluate.scoring.summary import samples, summarise
from shared.evaluate.scoring.verdict import Verdict, judge

SCORE = "field_score"
SHOWN = ("json_validity", "schema_compliance", SCORE)
VERDICTS = "verdicts.json"


@dataclass(frozen=True)
class TaskScore:
    """One build's measurements (SHOWN), and its field score less the best build's on each record."""

    measured: dict[str, Measurement]
    verdicts: list[Verdict]

    def against(self, other: TaskScore) -> Paired:
        """Our field score less the other's, over the records that both were scored on."""
        pairs = zip(samples(self.verdicts, SCORE), samples(other.verdicts, SCORE), strict=True)
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        return paired([a for a, _ in both], [b for _, b in both])


def task_score(domain: Domain, package: Done, records: Sequence[Record]) -> TaskScore:
    """Answers of a packaged build to `records`, judged; kept, and not asked for again."""
    plan = Plan(
        "tune-tasks",
        inputs={"package": package.manifest.key},
        settings={
            "records": sha256_json([record.model_dump() for record in records]),
            "prompt": domain.prompt,
            "schema": domain.schema,
            "metrics": {name: how.model_dump() for name, how in domain.chain.metrics.items()},
            "max_new_tokens": domain.chain.check.max_new_tokens,
        },
        tools=tool_versions("onnxruntime-genai", "transformers", "jsonschema", "scipy"),
        code=(__name__,),
    )
    done = run_stage(plan, lambda work: _answer(domain, package.folder, records, work))
    verdicts = [Verdict(**v) for v in json.loads((done.folder / VERDICTS).read_text())]
    return TaskScore(dict(done.manifest.measurements), verdicts)


def _answer(domain: Domain, package: Path, records: Sequence[Record], work: Path) -> Produced:
    from shared.evaluate.models.genai import Answerer

    answerer, verdicts = Answerer(package), []
    with bar("answers", len(records)) as step:
        for record in records:
            ids = answerer.chat.prompt_ids(domain.prompt, record.input)
            answer = answerer.answer(ids, domain.chain.check.max_new_tokens)
            verdicts.append(judge(answer.text, record, domain.schema, domain.chain.metrics))
            step(record.id)
    (work / VERDICTS).write_text(json.dumps([asdict(verdict) for verdict in verdicts]))
    found = summarise(verdicts, "greedy, unconstrained, onnxruntime-genai on the CPU")
    return Produced({name: found[name] for name in SHOWN})
