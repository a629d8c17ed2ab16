"""Measurements with intervals over many verdicts, and the floor that a fixed answer reaches.

A measurement's name is one of `RATES`, `dangerous`, `characters`, `field.<name>`, the same with
`.nonnull` or `.<second figure>`, `field_score` or `field_score_nonnull`; under the same name `samples`
gives the series behind it, record by record, for paired comparisons.
"""

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jsonschema

from shared.base.manifest import Measurement
from shared.base.parsing import nearest
from shared.domain.records import Record
from shared.domain.settings import FieldScoring
from shared.evaluate.scoring.field_score import score
from shared.evaluate.scoring.statistics import mean, rate
from shared.evaluate.scoring.verdict import Verdict, is_judged, judge

RATES = {
    "json_validity": "json",
    "schema_compliance": "schema",
    "fenced": "fenced",
    "degenerate": "degenerate",
    "empty": "empty",
    "refusal": "refusal",
}
"""Measurement → the verdict's attribute."""

CHARACTERS = "characters"
DANGEROUS = "dangerous"
CANDIDATES = 200
"""So many of the most frequent gold values of a field are tried as the constant answer."""

Series = list[float | None]


def summarise(verdicts: Sequence[Verdict], how: str) -> dict[str, Measurement]:
    """Every measurement of these verdicts: value, n and 95 % interval.

    Shares and fields whose scores are all 0 or 1 have Wilson's interval, means a bootstrap one, or
    none where all samples are equal. `.nonnull` takes in only records whose gold for the field is
    not null; where that is all of them it is there all the same, so that a gate finds it.
    """
    return {name: _measurement(name, series, how) for name, series in _all(verdicts).items()}


def stands_twice(found: Mapping[str, Measurement], name: str) -> bool:
    """Whether it is the figure over non-null gold where gold is never null: of a field, or of all."""
    whole, part = found.get(re.sub(r"[._]nonnull$", "", name)), found.get(name)
    if not name.endswith("nonnull") or whole is None or part is None or part.n is None:
        return False
    return (part.n, part.value) == (whole.n, whole.value)


def samples(verdicts: Sequence[Verdict], name: str) -> Series:
    """The series behind a measurement, one entry a record; None where the record does not count."""
    series = _all(verdicts)
    if name not in series:
        raise ValueError(f"no measurement is named {name!r}; {nearest(name, list(series))}")
    return series[name]


def missing(scoring: Mapping[str, FieldScoring], reason: str) -> dict[str, Measurement]:
    """Every name that `summarise` could give, unmeasured, so that a gate on it is no typo."""
    second = [f"field.{name}.{how.also}" for name, how in scoring.items() if how.also]
    fields = [f"field.{name}{end}" for name in scoring for end in ("", ".nonnull")]
    names = [*RATES, DANGEROUS, CHARACTERS, *fields, *second, "field_score", "field_score_nonnull"]
    return {name: Measurement.missing(reason, _unit(name)) for name in names}


def constant_answer(
    records: Sequence[Record], schema: dict[str, Any], scoring: Mapping[str, FieldScoring]
) -> dict[str, Any]:
    """The fixed answer that scores best on these very records, made of their own gold values.

    For each field that gold value with the best mean score over the records judged for it: for
    `exact` the most frequent one, for free text the one nearest to all others, for a quote perhaps a
    word of one. A field that no record is judged for is left out. Where the fields put together break
    the schema, the best of the whole gold answers.
    """
    if not records:
        raise ValueError("there are no records")
    names = [name for name in schema.get("properties", {}) if name in scoring]
    of_field = {n: [r for r in records if is_judged(n, scoring[n], r, schema)] for n in names}
    picks = {n: _best_value(n, scoring[n], judged) for n, judged in of_field.items() if judged}
    required = [n for n in schema.get("required", []) if n in picks or n not in names]
    answer = {k: v for k, v in picks.items() if v is not None or k in required}
    if jsonschema.Draft202012Validator(schema | {"required": required}).is_valid(answer):
        return answer
    whole = _frequent(record.gold for record in records)
    return max(whole, key=lambda gold: _field_score(gold, records, schema, scoring))


def floor(
    records: Sequence[Record],
    schema: dict[str, Any],
    scoring: Mapping[str, FieldScoring],
    how: str,
) -> dict[str, Measurement]:
    """What `constant_answer` reaches on the records that it was fitted on.

    Fitted on the very records it is judged on, each field's score is an upper bound of what
    repeating a gold value can get there: a hard floor, and an honest one to have to beat.
    """
    text = json.dumps(constant_answer(records, schema, scoring), ensure_ascii=False)
    verdicts = [judge(text, record, schema, scoring) for record in records]
    return summarise(verdicts, f"one fixed answer, the best for these records; {how}")


def _all(verdicts: Sequence[Verdict]) -> dict[str, Series]:
    """Every series by its measurement's name."""
    series: dict[str, Series] = {
        name: [float(getattr(v, attribute)) for v in verdicts] for name, attribute in RATES.items()
    }
    series[DANGEROUS] = [
        None if v.dangerous is None else float(bool(v.dangerous)) for v in verdicts
    ]
    series[CHARACTERS] = [float(v.characters) for v in verdicts]
    for name in dict.fromkeys(name for v in verdicts for name in v.fields):
        series[f"field.{name}"] = [v.fields.get(name) for v in verdicts]
        series[f"field.{name}.nonnull"] = [
            v.fields.get(name) if v.nonnull.get(name) else None for v in verdicts
        ]
        for second in dict.fromkeys(s for v in verdicts for s in v.second):
            if second.rpartition(".")[0] == name:
                series[f"field.{second}"] = [v.second.get(second) for v in verdicts]
    series["field_score"] = [_mean(v.fields.values()) for v in verdicts]
    series["field_score_nonnull"] = [
        _mean(value for name, value in v.fields.items() if v.nonnull[name]) for v in verdicts
    ]
    return series


def _measurement(name: str, series: Series, how: str) -> Measurement:
    values = [value for value in series if value is not None]
    if not values:
        return Measurement.missing(_why_none(name, series), _unit(name))
    graded = any(value not in (0, 1) for value in values) or name == CHARACTERS
    found = mean(values) if graded else rate([bool(value) for value in values])
    known = math.isfinite(found.low) and math.isfinite(found.high)
    return Measurement(
        value=found.value,
        unit=_unit(name),
        how=how,
        n=found.n,
        low=found.low if known else None,
        high=found.high if known else None,
    )


def _why_none(name: str, series: Series) -> str:
    if not series:
        return "there are no answers"
    if name == DANGEROUS:
        return "no field is judged by the metric clinical"
    if name.endswith("nonnull"):
        return "no judged record has a gold that is not null"
    return "no record is judged for it"


def _unit(name: str) -> str:
    return CHARACTERS if name == CHARACTERS else "share"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _best_value(name: str, scoring: FieldScoring, judged: Sequence[Record]) -> Any:
    """The gold value with the best mean score; of equals, the more frequent, then the earlier."""

    def total(value: Any) -> float:
        return sum(score(scoring, value, r.gold.get(name), r.input) for r in judged)

    golds = [record.gold.get(name) for record in judged]
    return max([*_frequent(golds), *_common_words(scoring, golds)], key=total)


def _common_words(scoring: FieldScoring, golds: Sequence[Any]) -> list[Any]:
    """Words of the gold quotes: a quote stands in one text only, a word of it in many."""
    quotes = [gold for gold in golds if isinstance(gold, str)]
    if scoring.metric != "verbatim":
        return []
    return _frequent(word for quote in quotes for word in quote.split())


def _frequent(values: Iterable[Any]) -> list[Any]:
    """The distinct values, most frequent first, `CANDIDATES` at most."""
    counts = Counter(json.dumps(value, sort_keys=True) for value in values)
    return [json.loads(text) for text, _ in counts.most_common(CANDIDATES)]


def _field_score(
    answer: Any,
    records: Sequence[Record],
    schema: dict[str, Any],
    scoring: Mapping[str, FieldScoring],
) -> float:
    text = json.dumps(answer)
    verdicts = [judge(text, record, schema, scoring) for record in records]
    return _mean(samples(verdicts, "field_score")) or 0.0
