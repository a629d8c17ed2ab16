"""Gold with a word of it altered: where two notes are nearly the same, what differs must be harmless.

A word that the note says of one thing and denies of another contradicts nothing by itself; in a copy
of the note it stands in gold's place, and a side, negation or number that differs there is an error.

>>> from shared.evaluate.scoring.note import facts
>>> gold = "Left kidney with a stone of the lower pole. Right kidney normal, right ureter not seen."
>>> list(altered(facts(gold.replace("Right kidney", "Left kidney")), facts(gold)))
["'left' stands for 'right'"]
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from shared.evaluate.scoring.note import Facts, is_small
from shared.evaluate.scoring.note_tokens import Quantity, Token, cues

NEAR = 0.9
"""From this F1 of their tokens on, one note is a near copy of the other."""

Part = Sequence[Token]


def altered(ours: Facts, theirs: Facts) -> Iterator[str]:
    """Each side, negation and number by which a near copy of gold differs from it in its place."""
    if not _near(ours.tokens, theirs.tokens):
        return
    matcher = SequenceMatcher(None, theirs.tokens, ours.tokens, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        was, now = theirs.tokens[start:end], ours.tokens[first:last]
        wrong = _sides(was, now) or _numbers(was, now)
        if not wrong and _negations(was, now):
            wrong = not _denied_in_both(theirs.tokens[:start], theirs.tokens[end:], ours, theirs)
        if kind != "equal" and wrong:
            yield f"{_words(now)} stands for {_words(was)}"


def _near(ours: Part, theirs: Part) -> bool:
    both = (Counter(ours) & Counter(theirs)).total()
    return 2 * both >= NEAR * (len(ours) + len(theirs)) and ours != theirs


def _sides(was: Part, now: Part) -> bool:
    """One side for another, or one more or less with no word of its own: a moved phrase has some."""
    one, other = ({t for t in part if "sides" in cues(t)} for part in (was, now))
    return one != other and all(map(is_small, was if one else now))


def _numbers(was: Part, now: Part) -> bool:
    """One number in another's place; a number that is merely left out is an omission."""
    one, other = ([t for t in part if _is_number(t)] for part in (was, now))
    return bool(one and other) and one != other and all(map(is_small, [*was, *now]))


def _negations(was: Part, now: Part) -> bool:
    """One more or less; "or" and "refuses" may stand for it."""
    one, other = (any("negates" in cues(t) for t in part) for part in (was, now))
    with_it, without = (was, now) if one else (now, was)
    replaced = any(t in ("or", "nor") or "quits" in cues(t) for t in without)
    return one != other and not replaced and all(map(is_small, with_it))


def _denied_in_both(before: Part, after: Part, ours: Facts, theirs: Facts) -> bool:
    """ "No fever, no cough" for "denies fever, cough"; and "pain denied", if none is lost or added."""
    beside = [after]
    if _count(ours) == _count(theirs):
        beside.append(before[::-1])
    words = [next((str(t) for t in part if _is_denied(t)), "") for part in beside]
    return any(ours.denied.get(word) == theirs.denied.get(word) == {True} for word in words)


def _is_denied(token: Token) -> bool:
    """Whether a negation can be meant for it: no part of the body is ever denied."""
    return not is_small(token) and "body" not in cues(token)


def _count(note: Facts) -> int:
    return sum("negates" in cues(token) for token in note.tokens)


def _is_number(token: Token) -> bool:
    return isinstance(token, Quantity) or token.isdigit()


def _words(part: Part) -> str:
    return repr(" ".join(map(str, part))) if part else "nothing"
