"""The metric `number`: the same numbers, however written, and the same words around them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from shared.evaluate.scoring.field_score import score
from shared.evaluate.scoring.normalise import tokens
from tests.test_scoring import TATQA, by


class TestNumber:
    """TAT-QA: commas, currency signs, parentheses for negatives, percent signs; two decimals."""

    @pytest.mark.parametrize(
        ("found", "gold"),
        [
            (["1840", "$1,512"], ["1,840", "1,512"]),
            (["2018", "2019"], ["2019", "2018"]),
            (["-168"], ["(168)"]),
            (["12.5%"], ["12.50"]),
            (["18.2741"], ["18.27"]),
            (["27"], ["27.0"]),
            (["14.80 billion"], ["$14.8 billion"]),
            (["77 Million"], ["RMB77 million"]),
            (["The Black-Scholes model."], ["Black-Scholes model"]),
            (["in 2,019."], ["in 2019"]),
            ([12.5], ["12.5"]),
            ([3], ["3.00"]),
            ("12.5", ["12.5"]),
            (["Seven"], ["7"]),
            (["twenty-five million"], ["25,000,000"]),
            (["fifteen days"], ["15 days"]),
            (["$1.5bn"], ["1.5 bn"]),
            ([".5 million"], ["0.5 million"]),
            (["EPS of .75"], ["EPS of 0.75"]),
            (["4.5%–5.5%"], ["4.5-5.5"]),
            (["filed (12/31/2019)"], ["filed 12/31/2019"]),
            (["...5"], ["5"]),
        ],
    )
    def test_takes_one_answer_in_many_spellings(self, found: Any, gold: Any) -> None:
        assert score(TATQA, found, gold, "") == 1.0

    @pytest.mark.parametrize(
        ("found", "gold"),
        [
            (["168"], ["(168)"]),
            (["18.28"], ["18.27"]),
            (["1840"], ["1,840", "1,512"]),
            (["1840", "1840"], ["1840"]),
            (["14.8 million"], ["$14.8 billion"]),
            (["148"], ["14.8"]),
            (["1,5"], ["15"]),
            ([True], ["1"]),
            ([None], ["1"]),
            ([], ["1"]),
            ([float("inf")], ["1"]),
            (["Item 1A"], ["Item 1"]),
            (["Section 2(a)"], ["Section 2"]),
            (["$15bn"], ["$1.5bn"]),
            (["2.5x"], ["25x"]),
            (["5bps"], ["-5bps"]),
            (["$5m"], ["-$5m"]),
            (["1/11/2020"], ["11/1/2020"]),
            (["45–55%"], ["4.5–5.5%"]),
            (["5 million"], [".5 million"]),
            (["75 per share"], [".75 per share"]),
        ],
    )
    def test_keeps_different_answers_apart(self, found: Any, gold: Any) -> None:
        assert score(TATQA, found, gold, "") == 0.0

    def test_takes_numbers_in_any_order_unless_the_order_counts(self) -> None:
        ordered = TATQA.model_copy(update={"ordered": True})
        assert score(TATQA, ["3", "1", "2"], ["1", "2", "3"], "") == 1.0
        assert score(ordered, ["3", "1", "2"], ["1", "2", "3"], "") == 0.0
        assert score(ordered, ["1.00", "two", "$3"], ["1", "2", "3"], "") == 1.0
        assert score(ordered, ["1", "2"], ["1", "2", "3"], "") == 0.0

    def test_rounds_only_where_decimals_are_set(self) -> None:
        assert by("number", "0.0012", "0.0014") == 0.0
        assert score(TATQA, "0.0012", "0.0014", "") == 1.0

    def test_takes_numbers_of_thousands_of_digits(self) -> None:
        long = "9" * 5000 + ".125"
        assert score(TATQA, long, long, "") == 1.0
        assert score(TATQA, json.loads("9" * 4000), "9" * 4000, "") == 1.0

    def test_leaves_words_and_numbers_in_their_order(self) -> None:
        assert tokens("from 3 to $4") == ["from", Decimal(3), "to", Decimal(4)]
        assert by("number", "from 4 to 3", "from 3 to 4") == 0.0
