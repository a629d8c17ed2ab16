"""A clinical note read into facts: what is denied, on which side, whose it is, and how much.

After NegEx (Chapman et al., J. Biomed. Inform. 34, 2001, 301): a cue denies the words in its scope,
until something ends it. Where the scope is doubtful a word counts as both said and denied, and so
contradicts nothing. note.toml has the words, all English.

>>> sorted(facts("No fever. Left knee pain for 3 days.").quantities, key=str)
[Quantity(kind='time', value=Fraction(3, 1), written='3')]
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path

import snowballstemmer

from shared.base.manifest import Strict
from shared.base.parsing import read_toml
from shared.evaluate.scoring.normalise import DASHES, digits

FILE = Path(__file__).with_name("note.toml")
NUMBER = r"\d{1,30}(?:,\d{3}){0,9}(?:\.\d{1,30})?"
ARTICLES = ("a", "an", "the")
BETWEEN = (*ARTICLES, "her", "his", "their", "my", "foster", "step", "adopt")
SAID, DENIED, DOUBTFUL = frozenset({False}), frozenset({True}), frozenset({False, True})
HARMLESS = {"acts", "places", "not_sides", "beside", "body"}
"""Kinds of cue that are words of the note all the same."""
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
    quits: str
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


@dataclass
class Facts:
    """What a note says of each stem, over all places where it stands.

    `denied`: said (False), denied (True) or both; `sides`: "" for none; `relatives`: whether it is
    a relative's; `amounts`: the quantities that go with a stem, by (stem, kind).
    """

    tokens: tuple[Token, ...]
    denied: dict[str, set[bool]] = field(default_factory=lambda: defaultdict(set))
    sides: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    relatives: dict[str, set[bool]] = field(default_factory=lambda: defaultdict(set))
    amounts: dict[tuple[str, str], set[Quantity]] = field(default_factory=lambda: defaultdict(set))

    @property
    def quantities(self) -> set[Quantity]:
        return {token for token in self.tokens if isinstance(token, Quantity)}

    @property
    def numbers(self) -> set[str]:
        """The digits of every number, units aside, and of up to three in a row: "one forty-two"."""
        found = [
            _digits(token.written) if isinstance(token, Quantity) else token
            for token in self.tokens
            if isinstance(token, Quantity) or token.isdigit()
        ]
        return {"".join(found[i : i + n]) for i in range(len(found)) for n in (1, 2, 3)}

    def names(self, quantity: Quantity) -> bool:
        """Whether the number stands in the note, whatever it is said of."""
        return quantity in self.quantities or _digits(quantity.written) in self.numbers


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


@lru_cache(maxsize=20_000)
def facts(text: str, variants: Variants = ()) -> Facts:
    """Read a note; the phrases of each of `variants` count as the first of them."""
    tokens = list(_tokens(_spelled_alike(text, variants)))
    found = Facts(tuple(t for t in tokens if t not in (".", ",", *ARTICLES)))
    start = 0
    for place, token in enumerate([*tokens, "."]):
        if token == ".":
            _Statement(tokens[start:place], found).read()
            start = place + 1
    return found


class _Statement:
    """One statement, read from left to right."""

    def __init__(self, tokens: Sequence[Token], found: Facts) -> None:
        self.tokens, self.found = tokens, found
        self.scope = SAID  # of the words to come
        self.denies = False  # a negation, and no mere doubt
        self.lists = False  # the scope goes on over commas
        self.fresh = False  # nothing denied yet since the cue
        self.opens = True  # a part begins
        self.family = False
        self.side = self.last = ""
        self.part: list[str] = []

    def read(self) -> None:
        for place, token in enumerate(self.tokens):
            if token == ",":
                self._comma(place)
            elif isinstance(token, Quantity):
                self.scope = SAID if self.opens else self.scope
                self.opens = False
            elif token in ("and", "or", "nor"):
                self._join(token)
            else:
                self._word(token, place)
        self._attach()
        self._amounts()

    def _comma(self, place: int) -> None:
        """ "No fever, chills or cough" goes on; "no fever, mild cough" may or may not."""
        listed = self.denies and any(token in ("or", "nor") for token in self.tokens[place:])
        if self.scope != SAID:
            self.scope = DENIED if self.lists or listed else DOUBTFUL if self.denies else SAID
        self.fresh, self.opens, self.part = False, True, []
        self._attach()

    def _join(self, word: str) -> None:
        if self.scope != SAID:
            listed = self.lists or (self.denies and word != "and")
            self.scope = DENIED if listed else DOUBTFUL
        self.opens = True

    def _word(self, token: str, place: int) -> None:
        cue = _cues(token)
        following = self.tokens[place + 1] if place + 1 < len(self.tokens) else ","
        if "ends" in cue or (self.opens and cue & {"verbs", "acts", "family"}):
            self.scope, self.lists = SAID, False
            self.family = self.family and not cue & {"ends", "verbs", "acts"}
        if "negates" in cue:
            self._negation(cue, place, following)
        elif "quits" in cue:
            self.scope, self.lists, self.denies = DOUBTFUL, False, False
        elif "places" in cue and self.scope == DENIED and not self.fresh:
            self.scope = DOUBTFUL
        elif "family" in cue:
            self._relative(place)
        elif "sides" in cue and "not_sides" not in _cues(following):
            self._attach()
            self.side = token
        elif not cue - HARMLESS or "sides" in cue:
            denied = self.scope == DENIED and "body" in cue
            self._content(token, DOUBTFUL if denied else self.scope)
        self.opens = False

    def _negation(self, cue: frozenset[str], place: int, following: Token) -> None:
        """ "Strep test negative" denies what stands before it; "pain does not spread" perhaps does."""
        helped = place > 0 and "verbs" in _cues(self.tokens[place - 1])
        behind = following == "," or ("after" in cue and following != "for")
        if behind or helped or following == "for":
            for word in self.part:
                self.found.denied[word] = set(DENIED if behind else DOUBTFUL)
        self.scope, self.lists = DENIED, "lists" in cue
        self.denies = self.fresh = True

    def _relative(self, place: int) -> None:
        """ "Gout in her father" is his; who "lives with her foster mother" has nothing of hers."""
        before = [token for token in self.tokens[:place] if token not in BETWEEN]
        if before and "beside" in _cues(before[-1]):
            return
        self.family = True
        for word in self.part:
            self.found.relatives[word] = {True}

    def _content(self, word: str, scope: frozenset[bool]) -> None:
        """ "No knee injection" denies no knee."""
        self.found.denied[word] |= scope
        self.found.relatives[word].add(self.family)
        self.found.sides[word].add(self.side)
        self.part.append(word)
        self.last, self.side, self.fresh = word, "", False

    def _attach(self) -> None:
        """A side that nothing followed, as in "weakness on the left", is the last word's."""
        if self.side and self.last:
            self.found.sides[self.last] = {self.side}
        self.side = ""

    def _amounts(self) -> None:
        """Each quantity goes with the nearest word that means something; of two, the earlier."""
        heads = [(i, t) for i, t in enumerate(self.tokens) if t in self.found.denied]
        for place, token in enumerate(self.tokens):
            if isinstance(token, Quantity) and heads:
                _, word = min(heads, key=lambda head: (abs(head[0] - place), head[0]))
                self.found.amounts[str(word), token.kind].add(token)


def _spelled_alike(text: str, variants: Variants) -> str:
    """Lower case; variants, numbers in words, "3 to 4 days" and "last year" in one spelling each."""
    text = text.lower().translate(DASHES).replace("’", "'")
    times = "|".join(name for name, (kind, _) in _units().items() if kind == "time")
    text = re.sub(rf"-(?=(?:{times})\b)", " ", text.replace("n't", " not"))
    text = digits(_replaced(text, variants))
    text = _replaced(text, tuple((one, other) for other, one in _words().same.items()))
    ranges = rf"({NUMBER}) ?(?:-|to|or) ?({NUMBER})(?P<unit> ?-?(?:{_unit_names()})\b)"
    text = re.sub(ranges, r"\1\g<unit> \2\g<unit>", text)
    often = r"(times?|\d \w+|packs?|glass(?:es)?|bottles?) an? (?=(?:day|week|month|year)\b)"
    text = re.sub(often, r"\1 per ", text)
    return re.sub(rf"(?<!\w)(?:an?|last|past|previous) (?=(?:{times})\b)", "1 ", text)


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
    """Quantities, stems, "." for what ends a statement and "," for what ends a part of one."""
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
            yield "," if match["mark"].strip() in (",", "-") else "."


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
        rf"|(?P<number>{NUMBER})(?:[ -]?(?P<unit>{_unit_names()})(?![a-z]))?(?![a-z])"
        r"|(?P<word>\w+(?:'s)?)|(?P<mark>[.,;!?\n]| - )"
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


@cache
def _kinds_of_cue() -> dict[str, frozenset[str]]:
    kinds: dict[str, set[str]] = defaultdict(set)
    for kind, text in _words().cues.model_dump().items():
        for word in text.split():
            kinds[_stem(word)].add(kind)
    return {stem: frozenset(found) for stem, found in kinds.items()}


def _cues(token: Token) -> frozenset[str]:
    """The kinds of cue that a stem is."""
    return _kinds_of_cue().get(token, frozenset()) if isinstance(token, str) else frozenset()


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    return str(_stemmer().stemWord(word))


@cache
def _stemmer() -> "snowballstemmer.stemmer":
    return snowballstemmer.stemmer("english")
