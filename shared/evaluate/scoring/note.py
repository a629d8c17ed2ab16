"""A clinical note read into facts: what is denied, on which side, whose it is, and how much.

After NegEx (Chapman et al., J. Biomed. Inform. 34, 2001, 301): a cue denies the words in its scope,
until something ends it. Where the scope is doubtful a word counts as both said and denied, and so
contradicts nothing. note.toml has the words, all English.

>>> sorted(facts("No fever. Left knee pain for 3 days.").quantities, key=str)
[Quantity(kind='time', value=Fraction(3, 1), written='3')]
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from shared.evaluate.scoring.note_tokens import (
    MARKS,
    Quantity,
    Token,
    Variants,
    cues,
    opposites,
    tokens,
)

ARTICLES = ("a", "an", "the")
BETWEEN = (*ARTICLES, "her", "his", "their", "my", "foster", "step", "adopt")
SAID, DENIED, DOUBTFUL = frozenset({False}), frozenset({True}), frozenset({False, True})
HARMLESS = {"acts", "places", "limits", "not_sides", "beside", "body", "degrees", "speaks"}
"""Kinds of cue that are words of the note all the same."""


@dataclass
class Facts:
    """What a note says of each stem, over all places where it stands.

    `denied`: said (False), denied (True) or both; `sides`: "" for none; `relatives`: whether it is
    a relative's; `amounts`: the quantities that go with a stem, by (stem, kind); `opposed`: whether a
    stem is denied a word that has an opposite, by (stem, word).
    """

    tokens: tuple[Token, ...]
    denied: dict[str, set[bool]] = field(default_factory=lambda: defaultdict(set))
    sides: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    relatives: dict[str, set[bool]] = field(default_factory=lambda: defaultdict(set))
    amounts: dict[tuple[str, str], set[Quantity]] = field(default_factory=lambda: defaultdict(set))
    opposed: dict[tuple[str, str], set[bool]] = field(default_factory=lambda: defaultdict(set))

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
        """Whether the number stands in the note, whatever it is said of; 0.05 is also "oh five"."""
        spoken = quantity.written.removeprefix("0.") if quantity.written.startswith("0.0") else ""
        return (
            quantity in self.quantities
            or _digits(quantity.written) in self.numbers
            or spoken in self.numbers
        )


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


@lru_cache(maxsize=20_000)
def facts(text: str, variants: Variants = ()) -> Facts:
    """Read a note; the phrases of each of `variants` count as the first of them."""
    read = tokens(text, variants)
    found = Facts(tuple(token for token in read if token not in (*MARKS, *ARTICLES)))
    start = 0
    for place, token in enumerate([*read, "."]):
        if token == ".":
            _Statement(read[start:place], found).read()
            start = place + 1
    return found


def _of(word: str, scope: frozenset[bool]) -> frozenset[bool]:
    """A part of the body is never denied."""
    return DOUBTFUL if scope == DENIED and "body" in cues(word) else scope


@dataclass
class _Mention:
    """A word at one place of a statement, and what is said of it there."""

    word: str
    denied: frozenset[bool]
    family: bool
    side: str


def is_small(token: Token) -> bool:
    """Whether nothing is said or denied of the token itself: a number, a cue, "and"."""
    joins = token in ("and", "or", "nor")
    return isinstance(token, Quantity) or joins or bool(cues(token) - HARMLESS)


class _Statement:
    """One statement, read from left to right."""

    def __init__(self, tokens: Sequence[Token], found: Facts) -> None:
        self.tokens, self.found = tokens, found
        self.scope = SAID  # of the words to come
        self.denies = False  # a negation, and no mere doubt
        self.lists = False  # the scope goes on over commas
        self.fresh = False  # nothing denied yet since the cue
        self.opens = True  # a part begins
        self.family = self.nothing_theirs = False
        self.side = ""
        self.mentions: list[_Mention] = []
        self.part: list[_Mention] = []
        self.parts = [self.part]

    def read(self) -> None:
        for place, token in enumerate(self.tokens):
            if token == ",":
                self._comma(place)
            elif token == ":":
                self.scope = self.scope if self.fresh else SAID
            elif isinstance(token, Quantity):
                self.scope = SAID if self.opens else self.scope
                self.opens = False
            elif token in ("and", "or", "nor"):
                self._join(token)
            else:
                self._word(token, place)
        self._attach()
        for mention in self.mentions:
            self.found.denied[mention.word] |= mention.denied
            self.found.relatives[mention.word].add(mention.family)
            self.found.sides[mention.word].add(mention.side)
        self._amounts()
        self._opposed()

    def _comma(self, place: int) -> None:
        """ "No fever, chills or cough" goes on; "no fever, mild cough" may or may not."""
        listed = self.denies and any(token in ("or", "nor") for token in self.tokens[place:])
        if self.scope != SAID:
            self.scope = DENIED if self.lists or listed else DOUBTFUL if self.denies else SAID
        self.fresh, self.opens, self.part = False, True, []
        self.parts.append(self.part)
        self._attach()

    def _join(self, word: str) -> None:
        if self.scope != SAID:
            listed = self.lists or (self.denies and word != "and")
            self.scope = DENIED if listed else DOUBTFUL
        self.opens = True

    def _word(self, token: str, place: int) -> None:
        cue, following = cues(token), self._next(place)
        ends = "ends" in cue and not self._beside(place)
        if ends or (self.opens and cue & {"verbs", "acts", "family"}):
            self.scope, self.lists = SAID, False
            goes_on = self.nothing_theirs or not cue & {"verbs", "acts"}
            self.family = self.family and goes_on and not ends
        if self.scope == DENIED and self.fresh and "degrees" in cue:
            self.scope = DOUBTFUL  # "no severe pain" leaves room for pain
        if "negates" in cue:
            self._negation(token, cue, place)
        elif "quits" in cue:
            self.scope, self.lists, self.denies = DOUBTFUL, False, False
            self._deny(self.part if "after" in cue else (), DOUBTFUL)
        elif "places" in cue and self.scope == DENIED and not self.fresh:
            self.scope = DOUBTFUL
            self._deny(self.part if "limits" in cue else (), DOUBTFUL)
        elif "family" in cue:
            self._relative(place, following)
        elif "sides" in cue and "not_sides" not in cues(following):
            self._attach()
            self.side = token
        elif not is_small(token) or "sides" in cue:
            self._content(token)
        self.opens = False

    def _next(self, place: int) -> Token:
        return self.tokens[place + 1] if place + 1 < len(self.tokens) else ","

    def _beside(self, place: int) -> bool:
        """ "With the patient", "after her brother's": who stands here is not whom it is said of."""
        before = [token for token in self.tokens[:place] if token not in BETWEEN]
        return bool(before) and "beside" in cues(before[-1])

    def _done(self, place: int) -> bool:
        """ "Not yet given": what was not done stands before it."""
        ahead = (t for t in self.tokens[place + 1 :] if t not in ("yet", "been"))
        return "done" in cues(next(ahead, "")) and bool(self.mentions)

    def _deny(self, mentions: Sequence[_Mention], scope: frozenset[bool]) -> None:
        for mention in mentions:
            mention.denied = _of(mention.word, scope)

    def _negation(self, token: str, cue: frozenset[str], place: int) -> None:
        """ "Strep test negative" denies what stands before it; "pain does not spread" perhaps does."""
        following = self._next(place)
        helped = place > 0 and "verbs" in cues(self.tokens[place - 1])
        passive = not helped and token in ("not", "never") and self._done(place)
        if following == "," or ("after" in cue and following != "for") or (passive and self.part):
            self._deny(self.part, DENIED)
        elif passive:  # "prescribed, never taken"
            self._deny(self.mentions, DOUBTFUL)
        elif helped or following == "for":
            self._deny(self.part, DOUBTFUL)
        self.scope, self.lists = DOUBTFUL if passive else DENIED, "lists" in cue
        self.denies = self.fresh = True

    def _relative(self, place: int, following: Token) -> None:
        """ "Gout in her father" is his; "lives with her mother" and "mother denies fever" are not."""
        if self._beside(place) or "speaks" in cues(following):
            return
        self.family = self.nothing_theirs = True
        for mention in self.part:
            mention.family = True

    def _content(self, word: str) -> None:
        """ "No knee injection" denies no knee."""
        mention = _Mention(word, _of(word, self.scope), self.family, self.side)
        self.mentions.append(mention)
        self.part.append(mention)
        self.side, self.fresh, self.nothing_theirs = "", False, False

    def _attach(self) -> None:
        """A side that nothing followed, as in "weakness on the left", is the last word's."""
        if self.side and self.mentions:
            self.mentions[-1].side = self.side
        self.side = ""

    def _amounts(self) -> None:
        """Each quantity goes with the nearest word that means something; of two, the earlier."""
        heads = [(i, t) for i, t in enumerate(self.tokens) if t in self.found.denied]
        for place, token in enumerate(self.tokens):
            if isinstance(token, Quantity) and heads:
                _, word = min(heads, key=lambda head: (abs(head[0] - place), head[0]))
                self.found.amounts[str(word), token.kind].add(token)

    def _opposed(self) -> None:
        """ "Potassium low" denies that it is high, as "not high" does."""
        for part in self.parts:
            for mention in part:
                if mention.word in opposites():
                    word, flipped = opposites()[mention.word]
                    denied = {is_denied != flipped for is_denied in mention.denied}
                    for other in (other for other in part if other.word not in opposites()):
                        self.found.opposed[other.word, word] |= denied
