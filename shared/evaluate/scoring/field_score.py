"""The metrics of `[metrics]`: 0 to 1 for one field of one answer, compared with gold.

A gold null is answered rightly by null alone, by every metric. What `drop` and `lower` remove is
removed from both sides.

>>> score(FieldScoring(metric="number"), ["$1,840"], ["1840"], "")
1.0
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from decimal import Decimal
from typing import Any

from shared.domain.settings import FieldScoring, same
from shared.evaluate.scoring import normalise
from shared.evaluate.scoring.clinical import clinical_f1, contradictions


def score(scoring: FieldScoring, found: Any, gold: Any, text: str) -> float:
    """0 to 1 for the value found, compared with gold; `text` is the record's input, for `verbatim`."""
    if gold is None or found is None:
        return float(gold is found)
    return float(SCORERS[scoring.metric](scoring, found, gold, text))


def second_score(scoring: FieldScoring, found: Any, gold: Any) -> float:
    """The figure that `also` asks for: F1 of the tokens as the metric normalises them."""
    if gold is None or found is None:
        return float(gold is found)
    return _token_f1(scoring, found, gold, "")


def f1(found: Iterable[Hashable], gold: Iterable[Hashable]) -> float:
    """2·|both| / (|found| + |gold|) with multiplicity; 1 where both are empty."""
    ours, theirs = Counter(found), Counter(gold)
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


def _plain(scoring: FieldScoring, value: Any) -> Any:
    """The value with each string in it normalised."""
    if isinstance(value, str):
        return normalise.plain(value, lower=scoring.lower, drop=scoring.drop)
    if isinstance(value, list):
        return [_plain(scoring, item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(scoring, item) for key, item in value.items()}
    return value


def _exact(scoring: FieldScoring, found: Any, gold: Any, text: str) -> bool:
    return same(_plain(scoring, found), _plain(scoring, gold))


def _set_f1(scoring: FieldScoring, found: Any, gold: Any, text: str) -> float:
    if not (isinstance(found, list) and isinstance(gold, list)):
        return 0.0
    ours, theirs = ({_key(item) for item in _plain(scoring, value)} for value in (found, gold))
    return f1(ours, theirs)


def _key(item: Any) -> Hashable:
    """Equal exactly where `same` says so, and hashable."""
    if isinstance(item, dict):
        return frozenset((name, _key(value)) for name, value in item.items())
    if isinstance(item, list):
        return tuple(map(_key, item))
    return (bool, item) if isinstance(item, bool) else item


def _token_f1(scoring: FieldScoring, found: Any, gold: Any, text: str) -> float:
    ours, theirs = _items(scoring, found), _items(scoring, gold)
    if ours is None or theirs is None:
        return 0.0
    return f1((t for item in ours for t in item), (t for item in theirs for t in item))


def _number(scoring: FieldScoring, found: Any, gold: Any, text: str) -> bool:
    ours, theirs = _items(scoring, found), _items(scoring, gold)
    if ours is None or theirs is None:
        return False
    return ours == theirs if scoring.ordered else Counter(ours) == Counter(theirs)


def _verbatim(scoring: FieldScoring, found: Any, gold: Any, text: str) -> float:
    """F1 of the words with gold's, so that the right place counts; 0 where a quote is none."""
    return _token_f1(scoring, found, gold, text) if _quoted(scoring, found, text) else 0.0


def _quoted(scoring: FieldScoring, found: Any, text: str) -> bool:
    """Whether every quote stands in the text: whole words, so that a letter out of one is no quote."""
    quotes = found if isinstance(found, list) else [found]
    if not quotes or not all(isinstance(quote, str) for quote in quotes):
        return False
    place = f" {' '.join(_plain(scoring, text).split())} "
    return all(_stands_in(" ".join(_plain(scoring, quote).split()), place) for quote in quotes)


def _stands_in(quote: str, place: str) -> bool:
    start = place.find(quote) if quote else -1
    while start >= 0:
        before, after = place[start - 1], place[start + len(quote)]
        inside = (before.isalnum() and quote[0].isalnum()) or (
            after.isalnum() and quote[-1].isalnum()
        )
        if not inside:
            return True
        start = place.find(quote, start + 1)
    return False


def _items(scoring: FieldScoring, value: Any) -> list[tuple[Hashable, ...]] | None:
    """The tokens of a string or number, or of each in a list; None where anything else is in it.

    A number stands for itself only under the metric `number`; else it is not text.
    """
    items = value if isinstance(value, list) else [value]
    found = [_tokens(scoring, item) for item in items]
    return None if any(item is None for item in found) else [i for i in found if i is not None]


def _tokens(scoring: FieldScoring, item: Any) -> tuple[Hashable, ...] | None:
    numbers = scoring.metric == "number"
    if isinstance(item, str):
        text = normalise.digits(_plain(scoring, item))
        return tuple(normalise.tokens(text, scoring.decimals) if numbers else normalise.words(text))
    if numbers and isinstance(item, int | float) and not isinstance(item, bool):
        value = Decimal(item) if isinstance(item, int) else Decimal(repr(item))
        return (normalise.rounded(value, scoring.decimals),)
    return None


def _clinical(scoring: FieldScoring, found: Any, gold: Any, text: str) -> float:
    if not (isinstance(found, str) and isinstance(gold, str)):
        return 0.0
    likeness = clinical_f1(found, gold, text, scoring.variants)
    return likeness if likeness and not dangers(scoring, found, gold, text) else 0.0


def dangers(scoring: FieldScoring, found: Any, gold: Any, text: str) -> list[str]:
    """In what the answer contradicts gold; only the metric `clinical` looks."""
    notes = isinstance(found, str) and isinstance(gold, str)
    if scoring.metric != "clinical" or not notes:
        return []
    return contradictions(found, gold, text, scoring.variants)


Scorer = Callable[[FieldScoring, Any, Any, str], float]
SCORERS: dict[str, Scorer] = {
    "exact": _exact,
    "set_f1": _set_f1,
    "token_f1": _token_f1,
    "number": _number,
    "verbatim": _verbatim,
    "clinical": _clinical,
}
