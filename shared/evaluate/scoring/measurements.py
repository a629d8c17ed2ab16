"""The check's measurements: each system in each mode, the floor, and paired comparisons.

`<system>.<mode>.<metric>`, `floor.<metric>`, `parent_vs_base.<mode>.<metric>`,
`release_vs_parent.<mode>.<metric>`, `release_vs_base.<mode>.<metric>`,
`release_constrained_vs_free.<metric>`, `forcing.<name>` (shared.evaluate.scoring.forcing), `WORKS` and
`FORCED`; the metrics are those of shared.evaluate.scoring.summary. What was not asked for is there as
"not measured", so that a gate on it is no typo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.base.formatting import POINTS, interval, number
from shared.base.manifest import Measurement
from shared.base.tables import shown
from shared.domain.domain import Domain
from shared.domain.records import Record
from shared.evaluate.models.chat import Answer
from shared.evaluate.scoring.forcing import measure_forcing
from shared.evaluate.scoring.statistics import paired
from shared.evaluate.scoring.summary import (
    CHARACTERS,
    DANGEROUS,
    floor,
    missing,
    samples,
    summarise,
)
from shared.evaluate.scoring.verdict import Verdict, judge
from shared.evaluate.systems import MODES, NAMES, Mode, Name

Judged = dict[tuple[Name, Mode], list[Verdict]]
NOT_PAIRED = (CHARACTERS, DANGEROUS, "fenced", "degenerate", "empty", "refusal")
SPEED = "decode_tokens_per_second"

COMPARISONS: dict[str, tuple[tuple[Name, Mode], tuple[Name, Mode]]] = {
    **{f"parent_vs_base.{m}": (("parent", m), ("base", m)) for m in MODES},
    **{f"release_vs_parent.{m}": (("release", m), ("parent", m)) for m in MODES},
    **{f"release_vs_base.{m}": (("release", m), ("base", m)) for m in MODES},
    "release_constrained_vs_free": (("release", "constrained"), ("release", "free")),
}
"""Name → (ours, other); the difference is ours less the other's."""

FORCED = "forced_vs_token_by_token"
"""Its `field_score`: the release's, held to the schema, with forced text less that without."""
WORKS = ("better_than_one_answer", "better_than_base")
"""Whether the release's field score is shown to lie above one fixed answer's, and above its base's."""


@dataclass
class Answers:
    """All answers to these records; `why_not`: why a system has none; `own`: see `Selection`.

    `stepwise`: the release's, held to the schema but asked for token by token, without forced text.
    """

    domain: Domain
    records: Sequence[Record]
    origin: str
    given: dict[tuple[Name, Mode], list[Answer]] = field(default_factory=dict)
    why_not: dict[tuple[Name, Mode], str] = field(default_factory=dict)
    own: bool = True
    stepwise: list[Answer] = field(default_factory=list)

    def is_ours(self, record: Record) -> bool:
        """Whether the record's text is our own: only of such may anything stand in a release."""
        return self.own and record.source is None and record.licence is None

    def judged(self) -> Judged:
        """A verdict for each answer, in the records' order."""
        return {who: self.verdicts(answers) for who, answers in self.given.items()}

    def verdicts(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One for each of these answers to the records."""
        schema, metrics = self.domain.schema, self.domain.chain.metrics
        return [
            judge(answer.text, record, schema, metrics)
            for record, answer in zip(self.records, answers, strict=True)
        ]


def measure(answers: Answers, judged: Judged) -> dict[str, Measurement]:
    """Every measurement of the check stage but `loads`."""
    schema, metrics = answers.domain.schema, answers.domain.chain.metrics
    found: dict[str, Measurement] = {}
    for name in NAMES:
        for mode in MODES:
            found |= _of_system(answers, judged, (name, mode))
    over = f"{answers.origin}, fitted on them"
    fixed = floor(answers.records, schema, metrics, over)
    found |= {f"floor.{name}": measurement for name, measurement in fixed.items()}
    for comparison in COMPARISONS:
        found |= _pairs(answers, judged, comparison)
    found |= _forcing(answers, judged)
    return found | works(found)


def works(found: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """WORKS, in the mode that is recommended."""
    mode = better_mode(found)
    score, one = (found[f"{name}.field_score"] for name in (f"release.{mode}", "floor"))
    above = (_shown_above(score, one), _shown_better(found[f"release_vs_base.{mode}.field_score"]))
    return dict(zip(WORKS, above, strict=True))


def _shown_better(pair: Measurement) -> Measurement:
    """Whether the paired difference is better in the word that stands on the card."""
    if pair.value is None:
        return Measurement.missing(pair.reason or "not measured")
    told, better = shown(pair), pair.how == "better"
    reason = None if better else f"not shown to be: {told}"
    return Measurement(value=better, how=told, n=pair.n, reason=reason)


def _shown_above(ours: Measurement, bound: Measurement) -> Measurement:
    """Whether the whole 95 % interval lies above the bound."""
    missing = next((m for m in (ours, bound) if m.value is None), None)
    if missing is not None:
        return Measurement.missing(missing.reason or "not measured")
    if ours.low is None or ours.high is None:
        return Measurement.missing("it has no interval")
    least = float(bound.value or 0)
    found = f"{number(ours.value, ours.unit)} ({interval(ours.low, ours.high, ours.unit)})"
    against = f"{found} against {number(least, ours.unit)}"
    above = is_above(ours, least) is True
    reason = None if above else f"not shown to be: {against}, n = {ours.n}"
    return Measurement(value=above, how=against, n=ours.n, reason=reason)


def is_above(ours: Measurement, bound: float) -> bool | None:
    """True or False where the whole interval lies on one side of the bound."""
    if ours.low is None or ours.high is None:
        return None
    return True if ours.low > bound else False if ours.high < bound else None


def _of_system(answers: Answers, judged: Judged, who: tuple[Name, Mode]) -> dict[str, Measurement]:
    how = f"{who[1]} greedy decoding, {answers.origin}"
    if who in judged:
        found = summarise(judged[who], how)
        if who[0] == "release":  # one prompt at a time; a batch's speed says nothing beside it
            found[SPEED] = _speed(answers.given[who])
    else:
        reason = answers.why_not.get(who, "not asked for")
        found = missing(answers.domain.chain.metrics, reason)
        if who[0] == "release":
            found[SPEED] = Measurement.missing(reason, "tokens/s")
    return {f"{who[0]}.{who[1]}.{name}": measurement for name, measurement in found.items()}


def _pairs(answers: Answers, judged: Judged, comparison: str) -> dict[str, Measurement]:
    """Ours less the other's, on the records that both are judged on."""
    ours, other = COMPARISONS[comparison]
    names = [n for n in missing(answers.domain.chain.metrics, "") if n not in NOT_PAIRED]
    absent = next((who for who in (ours, other) if who not in judged), None)
    if absent:
        reason = answers.why_not.get(absent, "not asked for")
        told = Measurement.missing(f"{' '.join(absent)}: {reason}", POINTS)
        return {f"{comparison}.{name}": told for name in names}
    return {f"{comparison}.{n}": compare(judged[ours], judged[other], n) for n in names}


def _forcing(answers: Answers, judged: Judged) -> dict[str, Measurement]:
    who: tuple[Name, Mode] = ("release", "constrained")
    reason = answers.why_not.get(who, "not asked for")
    found = measure_forcing(answers.given.get(who, []), answers.stepwise, reason)
    score = Measurement.missing(reason, POINTS)
    if answers.stepwise and who in judged:
        score = compare(judged[who], answers.verdicts(answers.stepwise), "field_score")
    return {f"forcing.{name}": m for name, m in found.items()} | {f"{FORCED}.field_score": score}


def compare(ours: Sequence[Verdict], other: Sequence[Verdict], name: str) -> Measurement:
    """The paired difference of one metric, with its interval; `how` is the plain word."""
    pairs = [
        (a, b)
        for a, b in zip(samples(ours, name), samples(other, name), strict=True)
        if a is not None and b is not None
    ]
    if not pairs:
        return Measurement.missing("no record is judged for it", POINTS)
    found = paired([a for a, _ in pairs], [b for _, b in pairs])
    return Measurement(
        value=found.difference,
        unit=POINTS,
        how=found.word,
        n=found.n,
        low=found.low,
        high=found.high,
    )


def _speed(answers: Sequence[Answer]) -> Measurement:
    """Decode tokens/s, forced ones among them, over all answers that the model ran for twice or more:
    what comes with the first run belongs to prefill."""
    long = [a for a in answers if a.decoded]
    tokens = sum(a.decoded for a in long)
    seconds = sum(a.decode_seconds for a in long)
    if not seconds:
        return Measurement.missing("every answer took one run of the model", "tokens/s")
    how = "CPU, greedy" + any(a.forced for a in long) * ", forced tokens counted too"
    return Measurement(value=tokens / seconds, unit="tokens/s", how=how, n=len(long))


def exceptions(answers: Answers, judged: Judged) -> list[dict[str, str]]:
    """Every constrained answer that breaks the schema all the same, and why."""
    limit = answers.domain.chain.check.max_new_tokens
    found = []
    for (name, mode), verdicts in judged.items():
        for record, verdict, answer in zip(
            answers.records, verdicts, answers.given[name, mode], strict=True
        ):
            if mode == "constrained" and not verdict.schema:
                cause = _cause(answer, verdict, limit, quoting=answers.is_ours(record))
                found.append({"system": name, "id": record.id, "cause": cause})
    return found


def _cause(answer: Answer, verdict: Verdict, limit: int, *, quoting: bool) -> str:
    """`quoting`: the cause may quote the answer, which may quote the record."""
    if not answer.output_ids:
        return f"its prompt of {answer.prompt_tokens} tokens does not fit into the context"
    if len(answer.output_ids) >= limit:
        return f"cut off after {limit} tokens"
    return (verdict.reason if quoting else verdict.rule) or "unknown"


def better_mode(found: Mapping[str, Measurement]) -> Mode:
    """Free where being held to the schema is shown to harm, or where only free answers were scored."""
    free, held = (found.get(f"release.{mode}.schema_compliance") for mode in MODES)
    if held is None or held.value is None:
        return "constrained" if free is None or free.value is None else "free"
    score, compliance = _held_less_free(found)
    harm = score == "worse" or (compliance == "worse" and score != "better")
    return "free" if harm else "constrained"


def _held_less_free(found: Mapping[str, Measurement]) -> list[str]:
    """In a word: held to the schema less free, in the field score and in satisfying the schema."""
    pairs = (
        found.get(f"release_constrained_vs_free.{n}") for n in ("field_score", "schema_compliance")
    )
    return [pair.how if pair else "" for pair in pairs]


def advice(found: Mapping[str, Measurement]) -> str:
    """Which mode a user should choose, from what was measured."""
    free, held = (found[f"release.{mode}.schema_compliance"] for mode in MODES)
    if free.value is None or held.value is None:
        return "Not measured in both modes, so no mode is recommended."
    score, compliance = _held_less_free(found)
    if score == "worse":
        return f"Decode freely: holding it to the schema made the answers worse.{_speeds(found)}"
    if better_mode(found) == "free":
        return (
            "Decode freely: held to the schema fewer of the answers satisfy it, as "
            f"more are cut off.{_speeds(found)}"
        )
    if "better" in (score, compliance):
        more = "are right" if compliance != "better" else "can be used"
        return f"Hold the decoding to the schema: more of the answers {more}.{_speeds(found)}"
    return (
        "No difference is shown between the two; holding it to the schema is the safer "
        f"choice.{_speeds(found)}"
    )


def _speeds(found: Mapping[str, Measurement]) -> str:
    """What being held to the schema costs, or gains, in decode speed; empty if not measured."""
    free, held = (found.get(f"release.{mode}.{SPEED}") for mode in MODES)
    if free is None or held is None or free.value is None or held.value is None:
        return ""
    pair = [number(found.value, found.unit) for found in (held, free)]
    return f" Held to it, {pair[0]} are decoded on the CPU, and freely {pair[1]}."
