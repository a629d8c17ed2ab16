"""Our held-out records: enough of every kind, labelled twice, and no word gives an answer away."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.party_admissions import contradictions as admissions
from benchmarks.public_sets import SETS, Mapped, mapped, write_set
from benchmarks.record_statistics import (
    TOO_ALIKE,
    TRAINING_TOO_ALIKE,
    agreements,
    alike,
    class_fields,
    disagreements,
    given_away,
    judged,
    lengths,
    lengths_by_class,
    planted_found,
    read_labels,
    read_resolved,
)
from benchmarks.records import (
    RESOLVED,
    SECOND_LABELS,
    calibration_records,
    section,
    texts,
    training_texts,
)
from shared.base.errors import UserError
from shared.domain.domain import Domain, load_domain
from shared.domain.records import Record, read_records
from shared.evaluate.scoring.summary import floor
from shared.evaluate.scoring.verdict import judge
from shared.olive.calibration_text import refuse_common

DOMAINS = ("contracts", "financial", "legal", "medical")
ENOUGH, ENOUGH_CALIBRATION, OF_A_KIND = 120, 100, 10
SHORT, LONG = 40, 200
KAPPA = 0.8
CONTRADICTING = 0.02
"""Of a right second label and today's gold so many may be called a contradiction; gold as it was then
had two notes more that read as if something else was meant."""
FIELDS = [(name, field) for name in DOMAINS for field in class_fields(load_domain(name))]
CONDITIONAL = [
    (name, field)
    for name in DOMAINS
    for field, how in load_domain(name).chain.metrics.items()
    if how.where
]


@pytest.fixture(scope="module", params=DOMAINS)
def domain(request: pytest.FixtureRequest) -> Domain:
    return load_domain(request.param)


class TestTheRecordsOfADomain:
    def test_are_enough(self, domain: Domain) -> None:
        assert len(domain.records) >= ENOUGH
        assert len(calibration_records(domain)) >= ENOUGH_CALIBRATION

    def test_have_ids_that_say_nothing(self, domain: Domain) -> None:
        assert all(re.fullmatch(r"r\d{4}", record.id) for record in domain.records)
        order = [record.gold for record in sorted(domain.records, key=lambda r: r.id)]
        field = class_fields(domain)[0]
        same = sum(a[field] == b[field] for a, b in pairwise(order))
        assert same < len(order) / 2, "records of a class stand in a row"

    def test_are_short_and_long(self, domain: Domain) -> None:
        least, *_, most = lengths(domain.records)
        assert least <= SHORT and most >= LONG, lengths(domain.records)

    def test_are_invented(self, domain: Domain) -> None:
        assert not any(record.source or record.licence for record in domain.records)

    def test_are_each_answered_by_their_gold(self, domain: Domain) -> None:
        for record in domain.records:
            verdict = judge(json.dumps(record.gold), record, domain.schema, domain.chain.metrics)
            scores = {name: s for name, s in verdict.fields.items() if s is not None}
            assert set(scores.values()) == {1.0}, (record.id, scores)
            assert not verdict.dangerous, record.id

    def test_do_not_fit_in_what_calibrates(self, domain: Domain) -> None:
        calibration = calibration_records(domain)
        refuse_common(calibration, domain.records, "calibration.jsonl")
        found = alike(texts(domain.records), texts(calibration), most=5)
        assert found[0].value < TOO_ALIKE, found

    def test_do_not_fit_in_what_trains(self, domain: Domain) -> None:
        public = training_texts(domain.name, SETS)
        if not public:
            pytest.skip("the public sets are not beside this checkout")
        for own in (domain.records, calibration_records(domain)):
            found = alike(texts(own), public, most=5)
            assert found[0].value < TRAINING_TOO_ALIKE, found

    def test_are_labelled_twice(self, domain: Domain) -> None:
        labels = read_labels(domain.folder / SECOND_LABELS)
        assert labels.keys() >= {record.id for record in domain.records}
        resolved = read_resolved(domain.folder / RESOLVED)
        for field, found in agreements(domain, labels, resolved).items():
            print(f"{domain.name}, {field}: {found}")
            assert found.kappa is None or found.kappa >= KAPPA, (field, found)
            assert (found.dangerous or 0) <= 0.05 * found.n, (field, found)
        for field, found in agreements(domain, labels).items():
            assert (found.dangerous or 0) <= CONTRADICTING * found.n, (field, found)

    def test_are_read_again_wherever_the_two_labellings_differ(self, domain: Domain) -> None:
        named = {one.id for one in read_resolved(domain.folder / RESOLVED)}
        assert named <= {record.id for record in domain.records}
        found = disagreements(domain, read_labels(domain.folder / SECOND_LABELS))
        assert [(name, field) for name, field in found if name not in named] == []

    def test_are_labelled_again_where_the_text_changed_since(self, domain: Domain) -> None:
        changed = [one for one in read_resolved(domain.folder / RESOLVED) if one.other_text]
        again = {one.id: one.again for one in changed if one.again}
        assert again.keys() == {one.id for one in changed}
        assert list(disagreements(domain, again)) == []

    def test_have_the_same_gold_as_before_where_gold_stands(self, domain: Domain) -> None:
        gold = {record.id: record.gold for record in domain.records}
        for one in read_resolved(domain.folder / RESOLVED):
            if one.changed in ("nothing", "text"):
                assert gold[one.id] == one.gold, one.id
            else:
                assert gold[one.id] != one.gold, one.id

    def test_calibrate_with_every_class(self, domain: Domain) -> None:
        for field in class_fields(domain):
            held_out = {json.dumps(r.gold.get(field)) for r in domain.records}
            assert {json.dumps(r.gold.get(field)) for r in calibration_records(domain)} >= held_out


@pytest.mark.parametrize(("name", "field"), FIELDS)
class TestAClassField:
    def test_is_not_given_away_by_words(self, name: str, field: str) -> None:
        domain = load_domain(name)
        records = judged(domain, field)
        for value, n, words in lengths_by_class(records, field):
            print(f"{name}, {field}, {value}: {n} records, median {words} words")
        found = given_away([r.input for r in records], [r.gold.get(field) for r in records])
        assert max(found.bayes, found.keywords) < found.bound, found

    def test_has_every_value_of_the_schema(self, name: str, field: str) -> None:
        domain = load_domain(name)
        schema = domain.schema["properties"][field]
        wanted = {json.dumps(value) for value in schema.get("enum", [True, False])} - {"null"}
        found = Counter(json.dumps(r.gold.get(field)) for r in judged(domain, field))
        assert wanted <= found.keys(), wanted - found.keys()


@pytest.mark.parametrize(("name", "field"), CONDITIONAL)
def test_a_field_for_some_records_has_ten_of_them(name: str, field: str) -> None:
    records = judged(load_domain(name), field)
    assert len(records) >= OF_A_KIND
    values = Counter(json.dumps(record.gold.get(field)) for record in records)
    assert len(values) > 1, "every answer is the same"


def test_planted_errors_are_found_in_notes() -> None:
    for kind, (found, n) in planted_found(load_domain("medical"), "summary").items():
        missed = 1 if kind == "another unit" else 0  # a unit of bare numbers: "days 7 and 14"
        assert n >= 10 and found >= n - missed, (kind, found, n)


class TestWhatIsGivenAway:
    def test_is_all_where_a_word_names_the_class(self) -> None:
        given = [(f"the court grants it {i} red", 1) for i in range(10)]
        given += [(f"the court grants it {i} blue", 2) for i in range(10)]
        found = given_away(*zip(*given, strict=True))
        assert (found.n, found.classes, found.majority) == (20, 2, 0.5)
        assert found.bayes == found.keywords == 1.0

    def test_is_nothing_where_the_words_are_the_same(self) -> None:
        found = given_away(
            [f"word{i % 5} and more" for i in range(40)], [i // 20 for i in range(40)]
        )
        assert max(found.bayes, found.keywords) <= 0.5


RENT = {"a": "The tenant pays the rent on the first day of each month by bank transfer."}
CLAUSES = {
    "b1": "A supplier ships goods within ten working days of an order.",
    "b2": "The tenant pays the rent on the first of each month by transfer from a bank.",
    "b3": "Either side ends the agreement by a letter.",
}


class TestLikeness:
    def test_finds_the_text_that_tells_the_same(self) -> None:
        found = alike(RENT, CLAUSES, most=3)
        assert found[0].other == "b2" and found[0].value > 0.5 > 0.2 > found[1].value

    def test_leaves_out_a_texts_own_place(self) -> None:
        found = alike(CLAUSES, CLAUSES)[0]
        assert found.one != found.other and found.value < 0.5


def record(number: int, issue: str, conclusion: str) -> Record:
    gold = {"issue": issue, "conclusion": conclusion}
    return Record(id=f"r{number}", input="x", gold={**gold, "parties_diverse": None})


class TestTwoLabellers:
    def test_agree_by_cohens_kappa(self) -> None:
        # 20 yes–yes, 5 yes–no, 10 no–yes, 15 no–no: agreement 0.70, by chance 0.50, kappa 0.40
        pairs = [*[("yes", "yes")] * 20, *[("yes", "no")] * 5, *[("no", "yes")] * 10]
        pairs += [("no", "no")] * 15
        legal = load_domain("legal")
        records = tuple(record(i, "hearsay", ours) for i, (ours, _) in enumerate(pairs))
        labels = {f"r{i}": {"issue": "hearsay", "conclusion": b} for i, (_, b) in enumerate(pairs)}
        object.__setattr__(legal, "records", records)
        metrics = {k: v for k, v in legal.chain.metrics.items() if k in ("issue", "conclusion")}
        object.__setattr__(legal, "chain", legal.chain.model_copy(update={"metrics": metrics}))
        found = agreements(legal, labels)
        assert found["conclusion"].agreement == 0.7
        assert found["conclusion"].kappa == pytest.approx(0.4)
        assert found["issue"].kappa == 1.0


class TestPartyAdmissions:
    def of(self, text: str, conclusion: str = "yes") -> list[tuple[str, bool]]:
        gold = {"issue": "hearsay", "conclusion": conclusion}
        return list(admissions([{"id": "x", "input": text, "gold": gold}]))

    STATED = (
        "Ray is being sued by Nell over a wall. To prove that it was crooked, the plaintiffs introduce "
        "evidence that Ray told a neighbour so."
    )

    def test_are_named_where_the_other_side_offers_a_partys_own_words(self) -> None:
        assert self.of(self.STATED) == [("x", True)]

    def test_are_possible_where_the_text_leaves_open_who_spoke(self) -> None:
        text = "To prove that it rained, the prosecution introduces evidence that Lou told Kit so."
        assert self.of(text) == [("x", False)]

    def test_are_none_where_gold_says_so_or_a_bystander_spoke(self) -> None:
        assert self.of(self.STATED, conclusion="no") == []
        assert self.of("On the issue of rain, the fact that Lou told Kit that it rained.") == []


def test_the_document_has_every_figure_of_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.records._tokens", lambda domain: "Tokens: 1")
    text = "\n".join(section(load_domain("legal"), None))
    for words in ("held-out", "calibration", "naive Bayes", "`conclusion`", "most alike"):
        assert words in text
    assert "Public set" not in text


class TestAPublicSet:
    """Other people's records, in the form of our schema."""

    def mapped(self, root: Path, domain: Domain) -> Mapped:
        gold = {"issue": "hearsay", "conclusion": "yes", "parties_diverse": None, "style": "dry"}
        texts = {"p1": "Lou told Kit that it rained.", "p2": TestPartyAdmissions.STATED}
        rows = [{"id": i, "input": t, "gold": gold, "source": "s"} for i, t in texts.items()]
        file = root / "sets" / "legal" / "eval.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return mapped(domain, root / "sets")

    def test_loses_fields_and_rows_that_ours_cannot_have_and_says_which(self, root: Path) -> None:
        found = self.mapped(root, load_domain("legal"))
        assert [record.id for record in found.records] == ["p1"]
        assert (found.dropped, found.contradicting) == (["style"], ["p2"])
        assert "amount_met" in found.missing and "issue" not in found.missing

    def test_is_a_records_file_and_not_judged_on_what_it_lacks(self, root: Path) -> None:
        domain = load_domain("legal")
        self.mapped(root, domain)
        file, _ = write_set(domain, root / "sets")
        with pytest.raises(UserError, match="required"):
            read_records(file, domain.schema)
        (found,) = read_records(file, domain.schema, partial=True)
        verdict = judge(json.dumps(found.gold), found, domain.schema, domain.chain.metrics)
        assert verdict.fields["issue"] == 1.0 and not verdict.schema
        assert verdict.fields["amount_met"] is None
        fixed = floor([found], domain.schema, domain.chain.metrics, "x")
        assert fixed["field_score"].value == 1.0


@pytest.mark.parametrize("where", ["input", "gold"])
def test_half_a_character_is_refused_with_its_line(tmp_path: Path, where: str) -> None:
    line = {"id": "a", "input": "x", "gold": {"y": "z"}}
    line[where] = {"gold": {"y": "cut \ud83d"}, "input": "cut \ud83d"}[where]
    (tmp_path / "eval.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=r"eval\.jsonl.*1.*half a character"):
        read_records(tmp_path / "eval.jsonl", {})


def test_a_character_in_two_halves_is_one(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text('{"id": "a", "input": "\\ud83d\\ude00", "gold": {}}\n')
    assert read_records(tmp_path / "eval.jsonl", {})[0].input == "\U0001f600"
