"""What forced text changed: counted, put down to one of two reasons, and told on the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shared.domain.domain import load_domain
from shared.evaluate.models.chat import Answer
from shared.evaluate.scoring.forcing import MEASURED, forcing_words, measure_forcing
from shared.evaluate.scoring.measurements import FORCED, Answers, measure
from shared.release.card.quality import quality_note, quality_tables

SAME = Answer('{"a": 1}', 9, [5, 6, 7, 8, 9, 2], forced=[0, 1, 4, 5])
PLAIN = replace(SAME, forced=[])
ROUNDED = Answer('{"a": 2}', 9, [5, 6, 3, 8, 9, 2])
SPELT = Answer('{"a": 3}', 9, [4, 4, 6, 3, 8, 9, 2])


def words(*stepwise: Answer) -> str:
    found = measure_forcing([SAME] * len(stepwise), stepwise, "")
    return forcing_words({f"forcing.{name}": m for name, m in found.items()})


def test_runs_are_the_tokens_that_the_model_was_asked_for() -> None:
    assert (SAME.model_runs, SAME.decoded) == (2, 3), "the first run wrote three"
    assert (PLAIN.model_runs, PLAIN.decoded) == (6, 5)
    assert "2 model runs an answer, 6 token by token" in words(PLAIN)


def test_where_every_value_is_the_same_no_reason_is_given() -> None:
    otherwise = replace(SPELT, text='{ "a":1}')
    assert words(PLAIN, otherwise).endswith(
        "2 of 2 answers have the values that they have token by token."
    )


def test_a_value_differs_by_rounding_or_by_a_token_that_the_model_would_not_have_chosen() -> None:
    text = words(PLAIN, ROUNDED, SPELT, SPELT)
    assert "1 of 4 answers have the values that they have token by token." in text
    assert "Of the other 3, 1 part after the very same tokens, so by rounding alone" in text
    assert "2 where the model would have begun a forced text with another token." in text


def test_an_answer_that_was_cut_off_is_compared_by_its_text() -> None:
    cut = Answer('{"a": ', 9, [5, 6, 7])
    assert "0 of 1 answers" in words(cut)


def test_the_card_tells_it_with_the_difference_in_the_field_score(root: Path) -> None:
    domain = load_domain("legal")
    answers = Answers(domain, domain.records[:4], "our own held-out records")
    absent = measure(answers, answers.judged())
    assert {absent[f"forcing.{name}"].reason for name in MEASURED} == {"not asked for"}
    assert forcing_words(absent) == ""
    answers.given["release", "constrained"] = [SAME] * 4
    answers.stepwise = [PLAIN] * 3 + [ROUNDED]
    found = measure(answers, answers.judged())
    assert set(found) == set(absent)
    assert found[f"{FORCED}.field_score"].n == 4
    assert "release, forced text − token by token" in quality_tables(found, {})
    note = quality_note({"records": 4, "origin": "ours", "forcing": forcing_words(found)})
    assert "**Forced text.** What the schema leaves no choice about" in note
