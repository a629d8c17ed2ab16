"""The metric `clinical`: F1 of a note's words, and in what it contradicts gold.

What only one of the two says is no contradiction, and costs no more than its share of the F1.

>>> contradictions("Has received the vaccine.", "Has never received the vaccine.", "")
['vaccin: said, gold denies it']
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations

from shared.base.text import word_runs
from shared.evaluate.scoring.near_copy import altered
from shared.evaluate.scoring.note import Facts, facts
from shared.evaluate.scoring.note_tokens import RATE, Variants

LONGER = 1.25
"""An answer of more than so many times gold's words loses by its cube."""
COPIED = 8
"""So many of the input's words in a row are copied: a copy is no summary."""
SPEAKER = re.compile(r"(?m)^\w+: ")
"""Who speaks, at the beginning of a line of dialogue."""


def clinical_f1(found: str, gold: str, text: str, variants: Variants = ()) -> float:
    """F1 of stems and quantities, less for what is copied, or over `LONGER` times as long as gold."""
    ours, theirs = (Counter(facts(text, variants).tokens) for text in (found, gold))
    total = ours.total() + theirs.total()
    if not ours or not theirs:
        return float(not total)
    short = min(1.0, LONGER * theirs.total() / ours.total())
    return (1 - copied(found, gold, text)) * short**3 * 2 * (ours & theirs).total() / total


def copied(found: str, gold: str, text: str) -> float:
    """The share of the answer's runs of `COPIED` words that stand in the input and not in gold."""
    ours, theirs, source, spoken = (_runs(t) for t in (found, gold, text, SPEAKER.sub("", text)))
    return len(ours & (source | spoken) - theirs) / len(ours)


@lru_cache(maxsize=20_000)
def _runs(text: str) -> set[tuple[str, ...]]:
    return word_runs(text, COPIED)


def contradictions(found: str, gold: str, text: str, variants: Variants = ()) -> list[str]:
    """Each contradiction to gold, and each number that neither gold nor the input has."""
    ours, theirs, source = (facts(each, variants) for each in (found, gold, text))
    return [
        *_opposites(ours.denied, theirs.denied, ("said, gold denies it", "denied, gold says it")),
        *_opposites(ours.relatives, theirs.relatives, ("a relative's in gold", "a relative's")),
        *_opposite_words(ours, theirs),
        *_wrong_sides(ours, theirs),
        *_wrong_quantities(ours, theirs, source),
        *altered(ours, theirs),
    ]


def _opposites(
    ours: Mapping[str, set[bool]], theirs: Mapping[str, set[bool]], words: tuple[str, str]
) -> Iterator[str]:
    """Stems that are always so in one note and never in the other."""
    for stem in sorted(ours.keys() & theirs.keys()):
        if ours[stem].isdisjoint(theirs[stem]):
            yield f"{stem}: {words[True in ours[stem]]}"


def _opposite_words(ours: Facts, theirs: Facts) -> Iterator[str]:
    """What is normal, or high, in one note and the opposite of that in the other."""
    for thing, word in sorted(ours.opposed.keys() & theirs.opposed.keys()):
        if ours.opposed[thing, word].isdisjoint(theirs.opposed[thing, word]):
            yield f"{thing}: {word}, or its opposite, other than in gold"


def _wrong_sides(ours: Facts, theirs: Facts) -> Iterator[str]:
    """One side in another's place, or none where gold has one and the answer has it nowhere."""
    said, wanted = _all_sides(ours), _all_sides(theirs)
    if said - wanted and wanted - said:
        yield f"{', '.join(sorted(said - wanted))} stands for {', '.join(sorted(wanted - said))}"
    for stem in sorted(ours.sides.keys() & theirs.sides.keys()):
        here, there = ours.sides[stem], theirs.sides[stem]
        if "" in there or not here.isdisjoint(there):
            continue
        if "" not in here:
            yield f"{stem}: {', '.join(sorted(here))}, in gold {', '.join(sorted(there))}"
        elif here == {""} and there <= {"left", "right"} - said:
            yield f"{stem}: no side, in gold {', '.join(sorted(there))}"


def _all_sides(found: Facts) -> set[str]:
    """ "Bilateral" is both."""
    sides = set().union(*found.sides.values()) - {""}
    return {"left", "right"} if "bilater" in sides else sides


def _wrong_quantities(ours: Facts, theirs: Facts, source: Facts) -> Iterator[str]:
    """One quantity in another's place, two that changed places, and numbers out of nowhere."""
    lost = {quantity.kind for quantity in theirs.quantities - ours.quantities}
    for quantity in sorted(ours.quantities - theirs.quantities, key=str):
        if quantity.kind in lost:
            yield f"{quantity}: gold has another"
        elif quantity.kind != RATE and not (theirs.names(quantity) or source.names(quantity)):
            yield f"{quantity}: neither in gold nor in the input"
    yield from _changed_places(ours, theirs)


def _changed_places(ours: Facts, theirs: Facts) -> Iterator[str]:
    """Two words that have each other's quantities."""
    here, there = ours.amounts, theirs.amounts
    for one, other in combinations(sorted(here.keys() & there.keys()), 2):
        crossed = here[one] == there[other] and here[other] == there[one]
        if crossed and here[one].isdisjoint(here[other]):
            yield f"{one[0]} and {other[0]}: quantities changed places"
