"""Each metric on its own, what is evened out before comparing, and the section that names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from benchmarks.public_sets import SETS, mapped
from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.domain.records import Record
from shared.domain.settings import FieldScoring, Metric
from shared.evaluate.scoring.field_score import f1, score
from shared.evaluate.scoring.normalise import plain, to_number, words
from shared.evaluate.scoring.verdict import judge

DOMAINS = ("contracts", "financial", "legal", "medical")
JURISDICTION = FieldScoring(metric="exact", lower=True, drop=["state of", "the"])
TATQA = FieldScoring(metric="number", decimals=2)


def by(metric: Metric, found: Any, gold: Any, text: str = "") -> float:
    return score(FieldScoring(metric=metric), found, gold, text)


@pytest.mark.parametrize(
    "metric", ["exact", "set_f1", "token_f1", "number", "verbatim", "clinical"]
)
class TestEveryMetric:
    def test_gives_null_for_null_full_marks(self, metric: Metric) -> None:
        assert by(metric, None, None) == 1.0

    def test_gives_nothing_for_null_where_there_is_something(self, metric: Metric) -> None:
        assert by(metric, None, ["x"], "x") == 0.0

    def test_gives_nothing_for_something_where_there_is_null(self, metric: Metric) -> None:
        assert by(metric, ["x"], None, "x") == 0.0

    def test_gives_nothing_for_a_value_of_a_wild_type(self, metric: Metric) -> None:
        assert by(metric, {"x": [1, None]}, ["x"], "x") == 0.0


class TestExact:
    def test_is_the_same_value_and_nothing_near_it(self) -> None:
        assert by("exact", "yes", "yes") == 1.0
        assert by("exact", "Yes", "yes") == 0.0
        assert by("exact", " yes", "yes") == 0.0

    @pytest.mark.parametrize(
        "found", ["New York", "the State of New York", "NEW YORK", "State  of New York"]
    )
    def test_with_lower_and_drop_reads_one_jurisdiction_in_many_spellings(self, found: str) -> None:
        assert score(JURISDICTION, found, "New York", "") == 1.0

    @pytest.mark.parametrize("found", ["York", "New York State", "Netherlands", "Northern York"])
    def test_with_lower_and_drop_keeps_others_apart(self, found: str) -> None:
        assert score(JURISDICTION, found, "New York", "") == 0.0

    def test_drops_whole_words_only(self) -> None:
        assert plain("the Netherlands", lower=True, drop=["the"]) == "netherlands"

    def test_without_lower_drops_in_the_case_given(self) -> None:
        assert plain("The other", lower=False, drop=["the"]) == "The other"

    def test_takes_a_phrase_as_it_is_not_as_a_pattern(self) -> None:
        assert plain("a.c abc", lower=False, drop=["a.c"]) == "abc"


class TestSetF1:
    def test_cares_for_neither_order_nor_repetition(self) -> None:
        assert by("set_f1", ["b", "a", "a"], ["a", "b"]) == 1.0

    def test_counts_what_both_have(self) -> None:
        assert by("set_f1", ["a", "c"], ["a", "b", "d"]) == pytest.approx(2 / 5)

    def test_of_two_empty_lists_is_one(self) -> None:
        assert by("set_f1", [], []) == 1.0
        assert by("set_f1", ["a"], []) == 0.0

    def test_of_a_bare_value_is_nothing(self) -> None:
        assert by("set_f1", "a", ["a"]) == 0.0

    def test_keeps_types_apart_and_numbers_together(self) -> None:
        assert by("set_f1", [True], [1]) == 0.0
        assert by("set_f1", ["1"], [1]) == 0.0
        assert by("set_f1", [1.0], [1]) == 1.0

    def test_takes_items_that_are_objects(self) -> None:
        assert by("set_f1", [{"b": 1, "a": [2]}], [{"a": [2], "b": 1.0}]) == 1.0


class TestTokenF1:
    def test_drops_case_punctuation_and_articles_as_squad_does(self) -> None:
        assert words("The  cat's, a HAT!") == ["cats", "hat"]
        assert by("token_f1", "No known drug allergies.", "no known, drug allergies") == 1.0

    def test_is_the_harmonic_mean_of_precision_and_recall(self) -> None:
        # 2 of 3 tokens right, 2 of 4 found: 2 · (2/3 · 1/2) / (2/3 + 1/2)
        assert by("token_f1", "knee pain left", "pain in left hip") == pytest.approx(4 / 7)

    def test_counts_a_repeated_word_as_often_as_both_have_it(self) -> None:
        assert f1(["x", "x", "x"], ["x", "y"]) == pytest.approx(2 / 5)

    def test_of_text_that_vanishes_is_one_only_if_both_do(self) -> None:
        assert by("token_f1", "The.", "a") == 1.0
        assert by("token_f1", "The.", "b") == 0.0

    def test_of_a_number_is_nothing(self) -> None:
        assert by("token_f1", 7, "7") == 0.0

    def test_reads_numbers_in_words_as_digits(self) -> None:
        assert by("token_f1", "Seven children", "7 children") == 1.0
        assert by("token_f1", "one hundred and twenty days", "120 days") == 1.0
        assert by("token_f1", "eight children", "7 children") < 1.0


NUMBERS = {
    "1,840": "1840",
    "$1,407": "1407",
    "$ 100.1": "100.1",
    "(5,062)": "-5062",
    "$(5,062)": "-5062",
    "($5,062)": "-5062",
    "-$5": "-5",
    "−12.14": "-12.14",
    "–12.14": "-12.14",
    "12.5%": "12.5",
    "12.5 %": "12.5",
    "(3.1)%": "-3.1",
    "(3.1%)": "-3.1",
    "RMB77": "77",
    "USD 500": "500",
    "US$3": "3",
    "500 EUR": "500",
    "€1,234,567.80": "1234567.80",
    "12,34,567": "1234567",
    ".5": "0.5",
    "27.0": "27",
    "+4": "4",
    "-0.00": "0",
    "0": "0",
}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_a_number_is_read_however_it_is_written(text: str, value: str) -> None:
    assert to_number(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    ["", "$", "%", "-", ".", "(", "25 days", "1,5", "12,3456", "(5", "5)", "2019 2018", "1e5",
     "2018-2019", "twelve", "ASC606", "1.2.3", "RMB", "-(5", "１２"],
)  # fmt: skip
def test_what_is_more_or_less_than_a_number_is_none(text: str) -> None:
    assert to_number(text) is None


class TestVerbatim:
    TEXT = "The Seller shall  deliver\nthe goods; title passes (risk too)."

    def test_is_a_quote_of_the_input_with_any_white_space(self) -> None:
        assert by("verbatim", "deliver the goods", "deliver\nthe goods", self.TEXT) == 1.0
        assert by("verbatim", "(risk too).", "(risk  too).", self.TEXT) == 1.0

    @pytest.mark.parametrize("found", ["", " ", "Seller must deliver", "eller", "the good", "T", 5])
    def test_is_not_what_stands_nowhere_or_breaks_a_word(self, found: Any) -> None:
        gold = "The Seller shall deliver the goods"
        assert by("verbatim", found, gold, self.TEXT) == 0.0

    @pytest.mark.parametrize("found", [".", "the", "The", ";", "title passes (risk too)"])
    def test_of_a_mark_an_article_or_another_place_is_worth_nothing(self, found: str) -> None:
        assert by("verbatim", found, "shall deliver the goods", self.TEXT) < 0.2

    def test_that_is_longer_or_shorter_than_gold_is_worth_the_words_that_both_have(self) -> None:
        gold = "shall deliver the goods"
        assert by("verbatim", "Seller shall deliver", gold, self.TEXT) == pytest.approx(2 / 3)
        whole = by("verbatim", " ".join(self.TEXT.split()), gold, self.TEXT)
        assert 0 < whole < by("verbatim", "deliver the goods", gold, self.TEXT) < 1

    def test_of_a_list_needs_every_quote(self) -> None:
        gold = ["the goods", "title passes"]
        assert by("verbatim", ["the goods", "title passes"], gold, self.TEXT) == 1.0
        assert by("verbatim", ["the goods", "title stays"], gold, self.TEXT) == 0.0
        assert by("verbatim", [], gold, self.TEXT) == 0.0

    def test_minds_case_unless_told_otherwise(self) -> None:
        assert by("verbatim", "the seller", "The Seller", self.TEXT) == 0.0
        lower = FieldScoring(metric="verbatim", lower=True)
        assert score(lower, "the seller", "The Seller", self.TEXT) == 1.0

    def test_finds_a_whole_word_after_a_broken_one(self) -> None:
        assert by("verbatim", "art", "art", "a cart of art") == 1.0

    @pytest.mark.parametrize("name", ["contracts", "legal"])
    def test_of_a_mark_or_an_article_is_worth_nothing_on_our_records(self, name: str) -> None:
        for r in load_domain(name).records:
            assert max(by("verbatim", q, r.gold["quote"], r.input) for q in (".", "the")) < 0.2


class TestWhere:
    def test_judges_only_records_whose_gold_has_these_values(self) -> None:
        scoring = FieldScoring(metric="exact", where={"kind": "law", "old": True})
        assert scoring.judges({"kind": "law", "old": True})
        assert not scoring.judges({"kind": "law", "old": 1})
        assert not scoring.judges({"kind": "law"})

    def test_is_everywhere_by_default(self) -> None:
        assert FieldScoring(metric="exact").judges({})


Edit = Callable[[str, str, str], int]
PLACE = "domains/legal/fallback.toml:{line}: metrics"
MISTAKES = {
    "an unknown metric": (
        ('issue = "exact"', 'issue = "exat"'),
        f"{PLACE}.issue.metric: there is no such metric; did you mean 'exact'? (found 'exat')",
    ),
    "an unknown metric in a table": (
        ('parties_diverse = { metric = "exact"', 'parties_diverse = { metric = "tokenf1"'),
        f"{PLACE}.parties_diverse.metric: there is no such metric; did you mean 'token_f1'?",
    ),
    "a metric that is no word": (
        ('issue = "exact"', "issue = { metric = 1 }"),
        f"{PLACE}.issue.metric: there is no such metric; valid are: clinical, exact, number, set_f1",
    ),
    "an unknown key": (
        (
            'parties_diverse = { metric = "exact", where',
            'parties_diverse = { metric = "exact", wher',
        ),
        f"{PLACE}.parties_diverse.wher: unknown key; did you mean 'where'?",
    ),
    "no metric": (
        ('parties_diverse = { metric = "exact", ', "parties_diverse = { "),
        f"{PLACE}.parties_diverse.metric: required, but missing",
    ),
    "a metric for no field": (
        ('conclusion = "exact"', 'conclusoin = "exact"'),
        f"{PLACE}.conclusoin: schema.json has no such field; did you mean 'conclusion'?",
    ),
    "a field without a metric": (
        ('conclusion = "exact"', ""),
        ": metrics.conclusion: required, but missing: schema.json has this field",
    ),
    "a condition on no field": (
        ("where = { issue =", "where = { isue ="),
        f"{PLACE}.parties_diverse.where.isue: schema.json has no such field; did you mean 'issue'?",
    ),
    "a condition that no gold meets": (
        ('where = { issue = "diversity_jurisdiction" }', 'where = { issue = "diversity" }'),
        f"{PLACE}.parties_diverse.where.issue: no gold can have the value 'diversity'; "
        "did you mean 'diversity_jurisdiction'?",
    ),
    "an empty phrase to drop": (
        ('issue = "exact"', 'issue = { metric = "exact", drop = [""] }'),
        f"{PLACE}.issue.drop.0: String should have at least 1 character",
    ),
    "decimals for words": (
        ('issue = "exact"', 'issue = { metric = "exact", decimals = 2 }'),
        f"{PLACE}.issue: decimals goes with the metric number, not with exact",
    ),
    "an order for words": (
        ('issue = "exact"', 'issue = { metric = "token_f1", ordered = true }'),
        f"{PLACE}.issue: ordered goes with the metric number, not with token_f1",
    ),
    "a phrase with no variant": (
        ('issue = "exact"', 'issue = { metric = "clinical", variants = [["gout"]] }'),
        f"{PLACE}.issue.variants.0: Tuple should have at least 2 items",
    ),
    "variants for a metric that knows none": (
        ('issue = "exact"', 'issue = { metric = "number", variants = [["a", "b"]] }'),
        f"{PLACE}.issue: variants goes with the metric clinical, not with number",
    ),
    "the same figure twice": (
        ('issue = "exact"', 'issue = { metric = "token_f1", also = "token_f1" }'),
        f"{PLACE}.issue: also: names the metric that is there already",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_metrics_is_one_clear_sentence(
    edit: Edit, change: tuple[str, str], sentence: str
) -> None:
    line = edit("fallback.toml", *change)
    with pytest.raises(UserError) as caught:
        load_domain("legal")
    assert sentence.replace("{line}", str(line)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_name_is_short_for_a_table(edit: Edit) -> None:
    edit("fallback.toml", 'issue = "exact"', 'issue = { metric = "exact" }')
    assert load_domain("legal").chain.metrics["issue"] == FieldScoring(metric="exact")
    assert load_domain("legal").chain.metrics["conclusion"] == FieldScoring(metric="exact")


def public_records(name: str) -> tuple[Record, ...]:
    if not (SETS / name / "eval.jsonl").exists():
        pytest.skip("the public sets are not beside this checkout")
    return mapped(load_domain(name), SETS).records


@pytest.mark.parametrize("name", DOMAINS)
class TestGoldIsRight:
    """A scorer that marks gold wrong anywhere is itself wrong."""

    def test_on_our_own_records(self, name: str) -> None:
        domain = load_domain(name)
        assert self.judged(name, domain.records) == set(domain.schema["properties"])

    def test_on_the_public_records(self, name: str) -> None:
        assert self.judged(name, public_records(name))

    def judged(self, name: str, records: tuple[Record, ...]) -> set[str]:
        domain = load_domain(name)
        judged: set[str] = set()
        for record in records:
            answer = json.dumps(record.gold, ensure_ascii=False)
            verdict = judge(answer, record, domain.schema, domain.chain.metrics)
            whole = record.gold.keys() >= set(domain.schema["required"])
            assert verdict.json and verdict.schema == whole and not verdict.degenerate, record.id
            scores = {k: v for k, v in verdict.fields.items() if v is not None}
            assert set(scores.values()) == {1.0}, record.id
            assert {v for v in verdict.second.values() if v is not None} <= {1.0}, record.id
            judged |= scores.keys()
        return judged
