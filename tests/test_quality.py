"""What three systems answered becomes figures, pairs, exceptions, advice, tables; two releases meet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.base.errors import UserError
from shared.base.manifest import FILE_NAME, Manifest, Measurement
from shared.cli.show import comparison_text, sample_text
from shared.domain.domain import Domain, load_domain
from shared.domain.records import Record
from shared.evaluate.check import ANSWERS, RECORDS
from shared.evaluate.compare import Checked, newest_check, write_newest
from shared.evaluate.models.chat import Answer
from shared.evaluate.scoring.measurements import Answers, advice, exceptions, measure, works
from shared.release.card.quality import quality_note, quality_tables
from shared.release.folder import check_of

SAME = "no difference shown"
NOISE = "Well, the court said"


def answer(text: str, tokens: int = 20) -> Answer:
    return Answer(text, 300, list(range(tokens)), 0.5, 0.5)


def right(record: Record) -> Answer:
    return answer(json.dumps(record.gold))


@pytest.fixture
def domain(root: Path) -> Domain:
    return load_domain("legal")


@pytest.fixture
def answers(domain: Domain) -> Answers:
    """20 records: the base talks, the parent is right, the release is right on every second one."""
    records = domain.records[:20]
    made = Answers(domain, records, "our own held-out records")
    good, bad = [right(r) for r in records], [answer(NOISE) for _ in records]
    half = [g if i % 2 else b for i, (g, b) in enumerate(zip(good, bad, strict=True))]
    made.given = {
        ("base", "free"): bad,
        ("parent", "free"): good,
        ("release", "free"): half,
        ("parent", "constrained"): good,
        ("release", "constrained"): good,
    }
    made.why_not = {("base", "constrained"): "the base could not be had"}
    return made


class TestTheFigures:
    def test_are_each_systems_own(self, answers: Answers) -> None:
        found = measure(answers, answers.judged())
        assert found["base.free.json_validity"].value == 0
        assert found["parent.free.field_score"].value == 1
        assert found["release.free.json_validity"].value == 0.5
        assert found["release.free.json_validity"].n == 20

    def test_tell_the_speed_of_the_release_alone(self, answers: Answers) -> None:
        """The others answer in batches, so that their seconds are no one prompt's."""
        found = measure(answers, answers.judged())
        assert found["release.free.decode_tokens_per_second"].value == pytest.approx(38)
        assert "parent.free.decode_tokens_per_second" not in found

    def test_say_why_a_system_has_none(self, answers: Answers) -> None:
        found = measure(answers, answers.judged())
        assert found["base.constrained.json_validity"].reason == "the base could not be had"
        pair = found["parent_vs_base.constrained.field_score"]
        assert pair.reason == "base constrained: the base could not be had"

    def test_say_that_a_system_was_not_asked_for(self, answers: Answers) -> None:
        del answers.given["parent", "free"]
        found = measure(answers, answers.judged())
        assert found["release_vs_parent.free.field_score"].value is None
        assert "not asked for" in (found["release_vs_parent.free.field_score"].reason or "")

    def test_are_there_under_every_name_whatever_was_asked(self, answers: Answers) -> None:
        """A gate on what was not asked for must not look like a typo."""
        whole = set(measure(answers, answers.judged()))
        answers.given, answers.why_not = {}, {}
        assert whole == set(measure(answers, answers.judged()))

    def test_are_there_under_every_name_whatever_the_sample(self, answers: Answers) -> None:
        """A gate on `.nonnull` must not fall with the records that happen to be taken."""
        whole = set(measure(answers, answers.judged()))
        one = [i for i, r in enumerate(answers.records) if None not in r.gold.values()][:1]
        answers.records = [answers.records[i] for i in one]
        answers.given = {who: [given[i] for i in one] for who, given in answers.given.items()}
        found = measure(answers, answers.judged())
        assert one and set(found) == whole
        assert "gold not null" not in quality_tables(found, {}).replace("field score, gold", "")

    def test_compare_in_the_direction_of_the_name(self, answers: Answers) -> None:
        found = measure(answers, answers.judged())
        worse = found["release_vs_parent.free.field_score"]
        better = found["parent_vs_base.free.field_score"]
        assert (worse.value, worse.how) == (-0.5, "worse")
        assert (better.value, better.how) == (1, "better")
        same = found["release_vs_parent.constrained.field_score"]
        assert (same.value, same.how) == (0, "no difference shown")


class TestWhetherItWorks:
    """Two gates: the release knows more than one fixed answer, and than its base."""

    def works(self, ours: Measurement, other: Measurement) -> tuple[Any, str]:
        found = dict.fromkeys(("release.free.field_score", "release.constrained.field_score"), ours)
        pair = "release_vs_base.constrained.field_score"
        found |= {"floor.field_score": other, pair: ours}
        told = works(found)
        one = told["better_than_one_answer"]
        return one.value, one.reason or one.how

    def test_is_true_where_the_whole_interval_lies_above(self) -> None:
        ours = Measurement(value=0.8, low=0.72, high=0.88, unit="share", n=40)
        told = self.works(ours, Measurement(value=0.7, unit="share"))
        assert told == (True, "80.0 % (72–88 %) against 70.0 %")

    def test_is_false_where_its_lower_end_does_not(self) -> None:
        ours = Measurement(value=0.8, low=0.62, high=0.98, unit="share", n=4)
        told = self.works(ours, Measurement(value=0.7, unit="share"))
        assert told == (False, "not shown to be: 80.0 % (62–98 %) against 70.0 %, n = 4")

    def test_is_not_measured_without_an_interval_or_a_score(self) -> None:
        alone = Measurement(value=0.8, unit="share", n=1)
        assert self.works(alone, alone) == (None, "it has no interval")
        assert self.works(Measurement.missing("not asked for"), alone) == (None, "not asked for")

    @pytest.mark.parametrize(
        ("how", "better"), [("better", True), ("no difference shown", False), ("worse", False)]
    )
    def test_is_better_than_its_base_in_the_word_of_the_card_or_not_at_all(
        self, how: str, better: bool
    ) -> None:
        ours = Measurement(value=0.156, low=0.003, high=0.29, unit="points", n=32, how=how)
        scores = ("release.free.field_score", "release.constrained.field_score")
        found = dict.fromkeys((*scores, "floor.field_score"), Measurement(value=0.5))
        told = works(found | {"release_vs_base.constrained.field_score": ours})["better_than_base"]
        assert told.value is better
        assert told.how == "+15.6 points (+0.3 to +29.0, n = 32)"

    def test_of_these_answers_is_not_known_where_the_base_was_not_had(
        self, answers: Answers
    ) -> None:
        found = measure(answers, answers.judged())
        assert found["better_than_base"].value is None
        assert "the base could not be had" in (found["better_than_base"].reason or "")


class TestExceptions:
    def test_name_the_cause(self, answers: Answers, domain: Domain) -> None:
        limit = domain.chain.check.max_new_tokens
        given = list(answers.given["release", "constrained"])
        given[0] = answer('{"issue": "hear', limit)
        given[1] = answer("", 0)
        given[2] = answer('{"issue": "hearsay"}')
        answers.given["release", "constrained"] = given
        causes = {e["id"]: e["cause"] for e in exceptions(answers, answers.judged())}
        first, second, third = (record.id for record in answers.records[:3])
        assert causes[first] == f"cut off after {limit} tokens"
        assert causes[second] == "its prompt of 300 tokens does not fit into the context"
        assert "'conclusion' is a required property" in causes[third]
        assert len(causes) == 3

    @pytest.mark.parametrize("whose", ["a file's", "a public set's"])
    def test_quote_no_word_of_text_that_is_not_our_own(self, answers: Answers, whose: str) -> None:
        if whose == "a file's":
            answers.own = False
        else:
            answers.records = [r.model_copy(update={"source": "CUAD"}) for r in answers.records]
        given = list(answers.given["release", "constrained"])
        given[0] = answer('{"issue": "the secret clause"}')
        given[1] = answer('the secret clause, and "more')
        answers.given["release", "constrained"] = given
        first, second = (e["cause"] for e in exceptions(answers, answers.judged()))
        assert first in ("breaks required", "breaks properties.issue.enum")
        assert second == "not JSON"

    def test_are_none_where_all_satisfy_the_schema(self, answers: Answers) -> None:
        assert exceptions(answers, answers.judged()) == []


class TestAdvice:
    @pytest.mark.parametrize(
        ("free", "held", "score", "compliance", "words"),
        [
            (
                0.5,
                1.0,
                "better",
                "better",
                "Hold the decoding to the schema: more of the answers can",
            ),
            (1.0, 1.0, "better", SAME, "Hold the decoding to the schema: more of the answers are"),
            (0.9, 1.0, SAME, SAME, "the safer choice"),
            (0.5, 1.0, "worse", "better", "Decode freely"),
            (1.0, 1.0, "worse", SAME, "Decode freely"),
            (1.0, 0.5, SAME, "worse", "Decode freely: held to the schema fewer"),
            (1.0, 1.0, SAME, SAME, "the safer choice"),
            (None, 1.0, "better", SAME, "Not measured in both modes"),
        ],
    )
    def test_follows_from_what_is_shown_and_not_from_points(
        self, free: float | None, held: float, score: str, compliance: str, words: str
    ) -> None:
        def share(value: float | None) -> Measurement:
            missing = Measurement.missing("not asked for", "share")
            return missing if value is None else Measurement(value=value, unit="share")

        found = {
            "release.free.schema_compliance": share(free),
            "release.constrained.schema_compliance": share(held),
            "release_constrained_vs_free.field_score": Measurement(value=0.0, how=score),
            "release_constrained_vs_free.schema_compliance": Measurement(value=0, how=compliance),
        }
        assert words in advice(found)

    def test_names_what_it_costs_in_speed(self, answers: Answers) -> None:
        slow = [replace(a, decode_seconds=1.0) for a in answers.given["release", "constrained"]]
        answers.given["release", "constrained"] = slow
        text = advice(measure(answers, answers.judged()))
        assert "Held to it, 19 tokens/s are decoded on the CPU, and freely 38 tokens/s." in text


class TestTheTables:
    def facts(self, **more: object) -> dict[str, object]:
        return {
            "records": 20,
            "origin": "our own held-out records",
            "modes": ["free", "constrained"],
            "base_label": "base, no prompt",
            "advice": "Decode freely.",
            **more,
        }

    def test_stand_side_by_side_with_the_floor(self, answers: Answers) -> None:
        text = quality_tables(measure(answers, answers.judged()), self.facts())
        assert "one fixed answer" in text and "base, no prompt" in text
        row = next(line for line in text.splitlines() if "| field score " in line)
        assert row.count("n = 20") == 4
        assert "the base could not be had" in text

    def test_list_what_differs_and_count_what_does_not(self, answers: Answers) -> None:
        text = quality_tables(measure(answers, answers.judged()), self.facts())
        pairs = text[text.index("Pair by pair") :]
        assert "release − parent, free" in pairs and "-50.0 points" in pairs
        cells = [[c.strip() for c in line.split("|")[1:3]] for line in pairs.splitlines()]
        assert ["release − parent, constrained", "field score"] in cells
        assert ["release − parent, constrained", "valid JSON"] not in cells
        assert "differences were looked at" in pairs

    def test_list_every_exception(self) -> None:
        broken = [{"system": "release", "id": "r1", "cause": "cut off after 160 tokens"}]
        note = quality_note(self.facts(exceptions=broken))
        assert "release r1: cut off after 160 tokens" in note
        held = quality_note(self.facts(constrained_answers=60))
        assert "every answer of every system satisfied it (60 answers)" in held

    def test_say_nothing_of_answers_that_were_not_given(self) -> None:
        note = quality_note(self.facts(constrained_answers=0))
        assert "No answer was given held to the schema." in note and "satisfied" not in note


class TestCompareAndShow:
    def write(self, root: Path, key: str, answers: Answers) -> Path:
        """A finished check as the stage leaves it."""
        from shared.evaluate.check import _write_answers

        folder = root / "build" / "check" / key
        folder.mkdir(parents=True)
        judged = answers.judged()
        _write_answers(folder / ANSWERS, answers, judged)
        records = [json.dumps(r.model_dump()) + "\n" for r in answers.records]
        (folder / RECORDS).write_text("".join(records))
        facts = {"origin": answers.origin, "base_label": "base, no prompt"}
        manifest = Manifest(
            stage="check",
            key=key,
            inputs={},
            settings={
                "schema": answers.domain.schema,
                "metrics": {n: m.model_dump() for n, m in answers.domain.chain.metrics.items()},
            },
            tools={},
            outputs={},
            measurements=measure(answers, judged),
            facts=facts,
            wall_seconds=1.0,
            peak_rss_bytes=1,
            finished="2026-01-01T00:00:00+00:00",
        )
        (folder / FILE_NAME).write_text(manifest.model_dump_json())
        write_newest("legal", manifest)
        return folder

    def checks(self, root: Path, answers: Answers) -> tuple[Checked, Checked]:
        """`a` is right everywhere; `b` is the fixture's release, and has two records fewer."""
        from shared.evaluate.compare import read_checked

        self.write(root, "b", self.fewer(answers))
        answers.given["release", "free"] = answers.given["parent", "free"]
        self.write(root, "a", answers)
        return read_checked("a", "a"), read_checked("b", "b")

    def fewer(self, answers: Answers) -> Answers:
        given = {who: found[2:] for who, found in answers.given.items()}
        return replace(answers, records=answers.records[2:], given=given)

    def test_two_releases_meet_on_the_records_both_answered(
        self, root: Path, answers: Answers
    ) -> None:
        text = comparison_text(*self.checks(root, answers), ("mine", "yours"), "github")
        assert text.startswith("18 records that both answered")
        row = next(line for line in text.splitlines() if line.startswith("| field score "))
        assert "100.0 %" in row and "50.0 %" in row and "+50.0 points" in row and "better" in row

    def test_two_releases_are_judged_by_the_same_code_whatever_was_said_of_them_before(
        self, root: Path, answers: Answers
    ) -> None:
        a, b = self.checks(root, answers)
        first = comparison_text(a, b, ("mine", "yours"), "github")
        for line in b.lines:
            line["verdict"] = {"of": "other code"}
        assert comparison_text(a, b, ("mine", "yours"), "github") == first

    def test_two_releases_with_other_schemas_cannot_be_compared(
        self, root: Path, answers: Answers
    ) -> None:
        a, b = self.checks(root, answers)
        b.manifest.settings["schema"] = {"type": "object"}
        with pytest.raises(UserError, match=r"different schema\.json"):
            comparison_text(a, b, ("a", "b"), "github")

    def test_a_line_separator_in_an_answer_ends_no_line(self, root: Path, answers: Answers) -> None:
        text = "one\u2028two\x85three\u2029"
        answers.records = [r.model_copy(update={"input": text}) for r in answers.records]
        self.write(root, "k", answers)
        file = root / "build" / "check" / "k" / RECORDS
        lines = (json.dumps(r.model_dump(), ensure_ascii=False) for r in answers.records)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        shown = newest_check("legal").records
        assert len(shown) == 20 and {r["input"] for r in shown.values()} == {text}

    def test_a_release_of_another_checkout_has_its_check_there(
        self, root: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only the key of release.json is read here; what a whole one holds, test_release tells."""
        from shared.release import folder as release

        self.write(root, "there", answers)
        other, folder = root / "other", root / "models" / "legal" / "webgpu"
        folder.mkdir(parents=True)
        made = SimpleNamespace(manifests={"check": "there"})
        monkeypatch.setattr(release, "read_release", lambda folder: made)
        monkeypatch.setenv("DOCINTEL_ROOT", str(other))
        assert len(check_of(str(folder)).records) == 20
        (root / "build").rename(root / "gone")
        with pytest.raises(UserError, match="are not on this machine") as error:
            check_of(str(folder))
        assert "or name its folder in the checkout that released it" in str(error.value)

    def test_releases_without_a_common_record_cannot_be_compared(
        self, root: Path, answers: Answers
    ) -> None:
        a, b = self.checks(root, answers)
        with pytest.raises(UserError, match="no record is in both"):
            comparison_text(a, replace(b, records={}), ("a", "b"), "github")

    def test_a_record_is_shown_with_gold_and_every_answer(
        self, root: Path, answers: Answers
    ) -> None:
        self.write(root, "k", answers)
        record = answers.records[0]
        text = sample_text(newest_check("legal"), record.id, "github")
        assert record.input in text and json.dumps(record.gold) in text
        row = next(line for line in text.splitlines() if "base, no prompt, free" in line)
        assert "no JSON" in row and NOISE in row
        assert "satisfies the schema" in text

    def test_a_wrong_id_is_told_the_nearest(self, root: Path, answers: Answers) -> None:
        self.write(root, "k", answers)
        with pytest.raises(UserError, match=answers.records[0].id):
            sample_text(newest_check("legal"), answers.records[0].id + "x", "github")

    def test_a_domain_never_checked_says_what_to_run(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"run `\./inv check --domain legal`"):
            newest_check("legal")

    def test_what_was_never_released_cannot_be_compared(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"webgpu/release\.json: missing"):
            check_of("legal")
