"""Figures as a person reads them: no exponents, three figures, whole numbers from a thousand on."""

from __future__ import annotations

import math

import pytest

from shared.base.formatting import number

READ = [
    (True, "", "yes"),
    (0.9754, "share", "97.5 %"),
    (1_746_913_490, "B", "1.747 GB"),
    (86_400_000, "B", "86.4 MB"),
    (3.14159, "s", "3.14 s"),
    (0.05612, "nats", "0.0561 nats"),
    (999.4, "s", "999 s"),
    (999.7, "s", "1,000 s"),
    (1550.2, "s", "1,550 s"),
    (42_407, "tokens", "42,407 tokens"),
    (math.nan, "s", "nan s"),
    ("webgpu", "", "webgpu"),
]


@pytest.mark.parametrize(("value", "unit", "words"), READ)
def test_a_figure_is_read_as(value: bool | float | str, unit: str, words: str) -> None:
    assert number(value, unit) == words
