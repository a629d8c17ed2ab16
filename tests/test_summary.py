"""Verdicts become measurements with intervals; a fixed answer shows what they are worth."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.base.manifest import Measurement
from shared.base.tables import shown, table
from shared.domain.domain import domain_names, load_domain
from shared.domain.records import Record
from shared.domain.settings import FieldScoring
from shared.evaluate.scoring.statistics import mean, rate
from shared.evaluate.scoring.summary import (
    constant_answer,
    floor,
    missing,
    samples,
    stands_twice,
    summarise,
)
from shared.evaluate.scoring.verdict import Verdict, judge

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["law", "sale", "loan"]},
        "place": {"type": ["string", "null"]},
        "note": {"type": "string"},
    },
    "required": ["kind", "place", "note"],
    "additionalProperties": False,
}
SCORING = {
    "kind": FieldScoring(metric="exact"),
    "place": FieldScoring(metric="exact"),
    "note": FieldScoring(metric="token_f1"),
}
ON_LAW = SCORING | {"place": FieldScoring(metric="exact", where={"kind": "law"})}


def record(number: int, kind: str, place: str | None, note: str) -> Record:
    return Record(id=f"r{number}", input="x", gold={"kind": kind, "place": place, "note": note})


RECORDS = [
    record(1, "sale", None, "goods sold for cash"),
    record(2, "sale", None, "goods sold on credit"),
    record(3, "sale", None, "goods sold"),
    record(4, "sale", None, "land"),
    record(5, "loan", None, "money lent"),
    record(6, "law", "Ohio", "courts"),
    record(7, "law", "Ohio", "judges"),
    record(8, "law", "Utah", "juries"),
]


def verdicts(answers: list[Any], scoring: dict[str, FieldScoring] = SCORING) -> list[Verdict]:
    texts = [a if isinstance(a, str) else json.dumps(a) for a in answers]
    return [judge(t, r, SCHEMA, scoring) for t, r in zip(texts, RECORDS, strict=False)]


GOLDS = [r.gold for r in RECORDS]


class TestASummary:
    def test_of_gold_is_full_marks_everywhere(self) -> None:
        found = summarise(verdicts(GOLDS), "gold")
        full = ("json_validity", "schema_compliance", "field_score", "field.note", "field.place")
        assert {found[name].value for name in full} == {1.0}
        assert {found[name].value for name in ("fenced", "degenerate", "empty", "refusal")} == {0.0}
        assert found["json_validity"].how == "gold"

    def test_counts_each_way_of_going_wrong(self) -> None:
        answers = ["", "I cannot.", f"```json\n{json.dumps(GOLDS[2])}\n```", "[1]", "la " * 30]
        found = summarise(verdicts(answers), "x")
        shares = {name: found[name].value for name in ("empty", "refusal", "fenced", "degenerate")}
        assert shares == {"empty": 0.2, "refusal": 0.2, "fenced": 0.2, "degenerate": 0.4}
        assert (found["json_validity"].value, found["schema_compliance"].value) == (0.4, 0.2)

    def test_gives_shares_wilsons_interval(self) -> None:
        answers = [GOLDS[i] if i < 6 else "no" for i in range(8)]
        found = summarise(verdicts(answers), "x")["json_validity"]
        expected = rate([True] * 6 + [False] * 2)
        assert (found.value, found.low, found.high, found.n) == (
            expected.value, expected.low, expected.high, 8,
        )  # fmt: skip

    def test_gives_graded_scores_a_bootstrap_interval(self) -> None:
        answers = [gold | {"note": "goods sold"} for gold in GOLDS]
        found = summarise(verdicts(answers), "x")["field.note"]
        expected = mean([v for v in samples(verdicts(answers), "field.note") if v is not None])
        assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)

    def test_gives_no_interval_where_there_can_be_none(self) -> None:
        found = summarise(verdicts(["no", "no"]), "x")["characters"]
        assert (found.value, found.unit, found.n, found.low, found.high) == (
            2.0, "characters", 2, None, None,
        )  # fmt: skip

    def test_tells_gold_that_is_not_null_apart(self) -> None:
        answers = [gold | {"place": None} for gold in GOLDS]
        found = summarise(verdicts(answers), "x")
        assert (found["field.place"].value, found["field.place"].n) == (5 / 8, 8)
        assert (found["field.place.nonnull"].value, found["field.place.nonnull"].n) == (0.0, 3)
        assert found["field_score_nonnull"].value == pytest.approx((5 * 1 + 3 * 2 / 3) / 8)

    def test_leaves_null_gold_out_of_the_nonnull_average(self) -> None:
        found = summarise(verdicts([gold | {"place": "Ohio"} for gold in GOLDS]), "x")
        assert found["field_score"].value == pytest.approx((5 * 2 / 3 + 2 + 2 / 3) / 8)
        assert found["field_score_nonnull"].value == pytest.approx((5 + 2 + 2 / 3) / 8)

    def test_has_nonnull_even_where_it_is_all_records_and_knows_that_it_stands_twice(self) -> None:
        everywhere, on_law = (
            summarise(verdicts(GOLDS), "x"),
            summarise(verdicts(GOLDS, ON_LAW), "x"),
        )
        assert everywhere["field.kind.nonnull"] == everywhere["field.kind"]
        assert stands_twice(everywhere, "field.kind.nonnull")
        assert stands_twice(on_law, "field.place.nonnull")
        assert not stands_twice(everywhere, "field.place.nonnull")
        assert not stands_twice(everywhere, "field.place")

    def test_judges_a_field_only_on_its_own_records(self) -> None:
        found = summarise(verdicts(GOLDS, ON_LAW), "x")
        assert (found["field.place"].n, found["field.kind"].n) == (3, 8)

    def test_averages_the_fields_of_each_record_first(self) -> None:
        answers = [gold | {"kind": "loan"} for gold in GOLDS]
        found = summarise(verdicts(answers, ON_LAW), "x")["field_score"]
        assert found.value == pytest.approx((4 * 1 / 2 + 1 + 3 * 2 / 3) / 8)

    def test_keeps_second_figures_out_of_the_average(self) -> None:
        scoring = SCORING | {"note": FieldScoring(metric="number", also="token_f1")}
        answers = [gold | {"note": "goods sold"} for gold in GOLDS]
        found = summarise(verdicts(answers, scoring), "x")
        assert found["field.note"].value == 1 / 8
        assert found["field.note.token_f1"].value == pytest.approx((4 / 6 * 2 + 1) / 8)
        assert found["field_score"].value == pytest.approx((2 + 1 / 8) / 3)

    def test_of_no_verdicts_measures_nothing(self) -> None:
        found = summarise([], "x")
        assert found["json_validity"].value is None
        assert found["json_validity"].reason == "there are no answers"

    def test_of_a_field_judged_nowhere_says_so(self) -> None:
        found = summarise(verdicts(GOLDS[:5], ON_LAW), "x")
        assert found["field.place"].reason == "no record is judged for it"
        everywhere = summarise(verdicts(GOLDS[:5]), "x")["field.place.nonnull"]
        assert everywhere.reason == "no judged record has a gold that is not null"

    def test_names_nothing_that_missing_does_not(self) -> None:
        for name in domain_names():
            domain = load_domain(name)
            metrics = domain.chain.metrics
            made = floor(domain.records[:5], domain.schema, metrics, "x")
            unmeasured = missing(metrics, "the model does not load")
            assert made.keys() == unmeasured.keys()
            assert {m.reason for m in unmeasured.values()} == {"the model does not load"}
            assert all(m.unit == unmeasured[k].unit for k, m in made.items())


class TestSamples:
    def test_are_the_records_in_their_order(self) -> None:
        found = verdicts([GOLDS[0], "no", *GOLDS[2:]], ON_LAW)
        assert samples(found, "json_validity") == [1, 0, 1, 1, 1, 1, 1, 1]
        assert samples(found, "field.place") == [None] * 5 + [1, 1, 1]
        assert samples(found, "field.kind.nonnull") == [1, 0, 1, 1, 1, 1, 1, 1]

    def test_lie_behind_every_measurement(self) -> None:
        found = verdicts([GOLDS[0], "no", *GOLDS[2:]])
        for name, measurement in summarise(found, "x").items():
            values = [v for v in samples(found, name) if v is not None]
            expected = pytest.approx(sum(values) / len(values)) if values else None
            assert measurement.value == expected
            assert measurement.n == (len(values) or None)

    def test_of_an_unknown_name_are_an_error_with_the_nearest(self) -> None:
        with pytest.raises(ValueError, match=r"did you mean 'field\.place'"):
            samples(verdicts(GOLDS), "field.plaice")


class TestTheConstantAnswer:
    def test_has_each_fields_most_frequent_value(self) -> None:
        answer = constant_answer(RECORDS, SCHEMA, SCORING)
        assert (answer["kind"], answer["place"]) == ("sale", None)

    def test_has_the_free_text_nearest_to_all_others(self) -> None:
        assert constant_answer(RECORDS, SCHEMA, SCORING)["note"] == "goods sold"

    def test_has_the_word_that_stands_in_most_quotes_where_no_quote_stands_in_two_texts(
        self,
    ) -> None:
        notes = ("courts hear of it", "a judge knows of it", "it is heard by juries")
        quotes = [
            Record(
                id=note, input=f"In law {note}.", gold={"kind": "law", "place": None, "note": note}
            )
            for note in notes
        ]
        scoring = SCORING | {"note": FieldScoring(metric="verbatim")}
        assert constant_answer(quotes, SCHEMA, scoring)["note"] == "it"

    def test_leaves_out_what_no_record_is_judged_for_and_keeps_the_best_of_the_others(self) -> None:
        """Public records lack fields that the schema requires: null in their place broke it."""
        required = SCHEMA | {"required": ["kind", "note"]}
        partial = [
            r.model_copy(update={"gold": {k: v for k, v in r.gold.items() if k != "note"}})
            for r in RECORDS
        ]
        answer = constant_answer(partial, required, SCORING)
        whole = constant_answer(RECORDS, required, SCORING)
        assert answer == {k: v for k, v in whole.items() if k != "note"}

    def test_is_fitted_where_a_field_is_judged(self) -> None:
        assert constant_answer(RECORDS, SCHEMA, ON_LAW)["place"] == "Ohio"

    def test_is_a_whole_gold_answer_where_the_fields_do_not_go_together(self) -> None:
        law = {"properties": {"kind": {"const": "law"}, "place": {"type": "string"}}}
        other = {"properties": {"kind": {"not": {"const": "law"}}, "place": {"type": "null"}}}
        schema = SCHEMA | {"anyOf": [law, other]}
        answer = constant_answer(RECORDS, schema, ON_LAW)
        assert answer == {"kind": "sale", "place": None, "note": "goods sold"}

    def test_leaves_out_what_gold_leaves_out(self) -> None:
        schema = SCHEMA | {"required": ["kind"], "properties": SCHEMA["properties"] | {"note": {}}}
        bare = [Record(id=str(i), input="x", gold={"kind": "sale"}) for i in range(3)]
        assert constant_answer(bare, schema, SCORING) == {"kind": "sale"}

    @pytest.mark.parametrize("name", ["contracts", "financial", "legal", "medical"])
    def test_satisfies_the_schema_of_every_domain_we_ship(self, name: str) -> None:
        domain = load_domain(name)
        found = floor(domain.records, domain.schema, domain.chain.metrics, "x")
        assert found["schema_compliance"].value == 1.0


class TestTheFloor:
    def test_of_a_skewed_set_is_high(self) -> None:
        """Nineteen of twenty alike: whoever always says the same is right 19 times in 20."""
        skewed = [record(i, "law" if i == 7 else "sale", None, "x") for i in range(20)]
        found = floor(skewed, SCHEMA, SCORING, "twenty records")
        assert found["field.kind"].value == 0.95
        assert found["field_score"].value == pytest.approx((19 + 2 / 3) / 20)
        assert found["json_validity"].value == 1.0

    def test_is_flattered_by_null_until_the_field_is_judged_where_it_counts(self) -> None:
        assert floor(RECORDS, SCHEMA, SCORING, "x")["field.place"].value == 5 / 8
        assert floor(RECORDS, SCHEMA, SCORING, "x")["field.place.nonnull"].value == 0.0
        assert floor(RECORDS, SCHEMA, ON_LAW, "x")["field.place"].value == 2 / 3

    def test_is_reached_by_no_other_fixed_gold_answer(self) -> None:
        found = floor(RECORDS, SCHEMA, SCORING, "x")
        for gold in GOLDS:
            theirs = summarise(verdicts([gold] * 8), "x")
            for name in ("field.kind", "field.place", "field.note", "field_score"):
                assert float(theirs[name].value or 0) <= float(found[name].value or 0) + 1e-12

    def test_says_what_it_is(self) -> None:
        how = floor(RECORDS, SCHEMA, SCORING, "eight records")["field.kind"].how
        assert how == "one fixed answer, the best for these records; eight records"

    def test_of_no_records_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no records"):
            floor([], SCHEMA, SCORING, "x")


class TestAMeasurementIsShown:
    def test_with_its_interval_and_n(self) -> None:
        m = Measurement(value=0.625, unit="share", n=50, low=0.4836, high=0.7512)
        assert shown(m) == "62.5 % (48–75 %, n = 50)"

    def test_with_a_decimal_where_the_interval_is_narrow(self) -> None:
        m = Measurement(value=0.987, unit="share", n=900, low=0.9771, high=0.9926)
        assert shown(m) == "98.7 % (97.7–99.3 %, n = 900)"

    def test_with_n_alone_where_there_is_no_interval(self) -> None:
        assert shown(Measurement(value=1.0, unit="share", n=3)) == "100.0 % (n = 3)"

    def test_in_its_own_unit(self) -> None:
        m = Measurement(value=102.6, unit="characters", n=45, low=98.1, high=107.9)
        assert shown(m) == "103 characters (98.1–108, n = 45)"

    def test_with_one_measure_of_its_uncertainty_not_two(self) -> None:
        m = Measurement(value=0.2, unit="nats/token", standard_error=0.03, low=0.14, high=0.26)
        assert shown(m) == "0.2 nats/token (0.14–0.26)"
        assert shown(m.model_copy(update={"low": None})) == "0.2 nats/token ± 0.03"


def test_a_table_for_the_terminal_steers_no_terminal() -> None:
    assert "\x1b" not in table(("a",), [["x\x1b[2Jy"]], "rounded_outline")
