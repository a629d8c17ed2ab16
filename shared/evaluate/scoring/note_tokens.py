"""A note's text split into stems, quantities and the marks between them; note.toml has the words.

>>> list(tokens("No fever for 3 days.", ()))
['no', 'fever', 'for', Quantity(kind='time', value=Fraction(3, 1), written='3'), '.']
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from unicodedata import numeric

import snowballstemmer

from shared.base.manifest import Strict
from shared.base.parsing import read_toml
from shared.evaluate.scoring.normalise import DASHES, digits

FILE = Path(__file__).with_name("note.toml")
NUMBER = r"(?:\d{1,30}(?:,\d{3}){0,9}(?:\.\d{1,30})?|(?<![\w.])\.\d{1,30})"
MARKS = (".", ",", ":")
"""What ends a statement, what ends a part of one, and what ends a negation in it."""
RATE = "a day"
"""The kind of a quantity that says how often."""

Variants = tuple[tuple[str, ...], ...]


class Cues(Strict):
    """note.toml's [cues], each a list of words."""

    negates: str
    after: str
    lists: str
    ends: str
    verbs: str
    acts: str
    places: str
    limits: str
    degrees: str
    done: str
    quits: str
    speaks: str
    family: str
    body: str
    beside: str
    sides: str
    not_sides: str
    plain: str


class Words(Strict):
    """note.toml."""

    same: dict[str, str]
    units: dict[str, dict[str, list[str]]]
    factors: dict[str, Fraction]
    periods: dict[str, Fraction]
    opposites: dict[str, str]
    cues: Cues


@dataclass(frozen=True)
class Quantity:
    """A number in its kind's first unit, or two as in 120/80; `written`: as it stands there."""

    kind: str
    value: Fraction | str
    written: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.written} ({self.kind})" if self.kind else self.written


Token = str | Quantity


def tokens(text: str, variants: Variants) -> list[Token]:
    """Lower case, numbers in words as digits; the phrases of each of `variants` as the first."""
    return list(_tokens(_spelled_alike(text, variants)))


@cache
def _kinds_of_cue() -> dict[str, frozenset[str]]:
    kinds: dict[str, set[str]] = defaultdict(set)
    for kind, text in _words().cues.model_dump().items():
        for word in text.split():
            kinds[_stem(word)].add(kind)
    return {stem: frozenset(found) for stem, found in kinds.items()}


def cues(token: Token) -> frozenset[str]:
    """The kinds of cue that a stem is."""
    return _kinds_of_cue().get(token, frozenset()) if isinstance(token, str) else frozenset()


@cache
def opposites() -> dict[str, tuple[str, bool]]:
    """Stem of a word that has an opposite → the first of its pair, and whether it denies that."""
    return {
        _stem(word): (_stem(pair[0].split()[0]), pair.index(side) == 1)
        for pair in _words().opposites.items()
        for side in pair
        for word in side.split()
    }


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    return str(_stemmer().stemWord(word))


@cache
def _stemmer() -> "snowballstemmer.stemmer":
    return snowballstemmer.stemmer("english")


def _spelled_alike(text: str, variants: Variants) -> str:
    """Lower case; variants, numbers in words, "3 to 4 days" and "last year" in one spelling each."""
    text = text.lower().translate(DASHES).replace("’", "'")
    times = "|".join(name for name, (kind, _) in _units().items() if kind == "time")
    text = re.sub(rf"-(?=(?:{times})\b)", " ", text.replace("n't", " not"))
    text = _clock(digits(_replaced(text, variants)))
    text = re.sub(r"(\d*)([¼½¾])", lambda m: f"{int(m[1] or 0) + numeric(m[2])}", text)
    text = _replaced(text, tuple((one, other) for other, one in _words().same.items()))
    ranges = rf"({NUMBER}) ?(?:-|to|or) ?({NUMBER})(?P<unit> ?-?(?:{_unit_names()})\b)"
    text = re.sub(ranges, r"\1\g<unit> \2\g<unit>", text)
    often = r"(times?|\d \w+|packs?|glass(?:es)?|bottles?) an? (?=(?:day|week|month|year)\b)"
    text = re.sub(often, r"\1 per ", text)
    return re.sub(rf"(?<!\w)(?:an?|last|past|previous) (?=(?:{times})\b)", "1 ", text)


def _clock(text: str) -> str:
    """ "A quarter to 3" is 2:45."""
    text = re.sub(r"\bquarter to (\d\d?)\b", lambda match: f"{int(match[1]) - 1}:45", text)
    text = re.sub(r"\bquarter (?:past|after) (\d\d?)\b", r"\1:15", text)
    return re.sub(r"\bhalf past (\d\d?)\b", r"\1:30", text)


def _replaced(text: str, variants: Variants) -> str:
    if not variants:
        return text
    pattern, first = _alternatives(variants)
    return pattern.sub(lambda match: first[match[0]], text)


@cache
def _alternatives(variants: Variants) -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern of all the phrases, the longest first, and what each becomes."""
    first = {phrase.lower(): each[0].lower() for each in variants for phrase in each}
    phrases = "|".join(map(re.escape, sorted(first, key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{phrases})(?!\w)"), first


def _tokens(text: str) -> Iterator[Token]:
    """Quantities, stems and `MARKS`."""
    for match in _pattern().finditer(text):
        if match["period"]:
            times, many = (match["times"] or "1").replace(",", ""), match["many"] or "1"
            value = Fraction(times) / (Fraction(many) * _words().periods[match["period"]])
            yield Quantity(RATE, value, times if match["times"] else many)
        elif match["pair"]:
            yield Quantity("of two", "/".join(re.findall(r"\d+", match["pair"])), match["pair"])
        elif match["number"]:
            yield _quantity(match["number"].replace(",", ""), match["unit"])
        elif match["word"]:
            yield _stem(match["word"].removesuffix("'s"))
        else:
            mark = match["mark"].strip()
            yield "," if mark in (",", "-", "(", ")") else mark if mark == ":" else "."


def _quantity(number: str, unit: str | None) -> Token:
    """A bare 1 is a word: as often as not it was a pronoun."""
    if unit is None:
        return number if number == "1" else Quantity("", Fraction(number), number)
    kind, factor = _units()[unit]
    return Quantity(kind, Fraction(number) * factor, number)


@cache
def _pattern() -> re.Pattern[str]:
    periods = "|".join(sorted(_words().periods, key=len, reverse=True))
    times = rf"(?P<times>{NUMBER}) ?(?:times?|x),? (?:per |each |every )?"
    every = r"(?:every|each|q|per|/) ?(?P<many>[1-9]\d?)? ?-?"
    return re.compile(
        rf"(?:(?:\b{times}|(?<![a-z]){every})(?=(?P<p>{periods})\b)|\b(?=(?P<q>\w+ly)\b))(?P<period>{periods})\b"
        rf"|(?P<pair>\d+ ?(?:/|over) ?\d+)"
        rf"|(?P<number>(?<=[a-z:] )-(?>{NUMBER})(?![ -]?(?:{_unit_names()})(?![a-z]))"
        rf"|(?!\d+(?:st|nd|rd|th|s)\b)(?>{NUMBER}))"
        rf"(?:[ -]?(?P<unit>{_unit_names()})(?![a-z]))?"
        r"|(?P<word>\w+(?:'s)?)|(?P<mark>[.,:;!?()\n]| - )"
    )


@cache
def _words() -> Words:
    return read_toml(FILE, Words)


@cache
def _units() -> dict[str, tuple[str, Fraction]]:
    """How a unit is written → its kind, and how many of the kind's first unit it is."""
    words = _words()
    return {
        spelling: (kind, words.factors.get(name, Fraction(1)))
        for kind, units in words.units.items()
        for name, spellings in units.items()
        for spelling in spellings
    }


@cache
def _unit_names() -> str:
    return "|".join(map(re.escape, sorted(_units(), key=len, reverse=True)))
