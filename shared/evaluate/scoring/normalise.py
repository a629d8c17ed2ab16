"""Normalisation before comparison: case, phrases, how a number is written.

Two published rules are followed. Words: SQuAD's evaluate-v1.1.py (Rajpurkar et al. 2016): lower
case, no ASCII punctuation, no articles. Numbers: TAT-QA's tatqa_metric.py (Zhu et al. 2021):
thousands separators, currency signs and percent signs go, parentheses mean a negative. Numbers in
words, which neither equates with digits, become digits first (`digits`).
"""

import re
import string
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal

from text_to_num import alpha2digit

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
DASHES = str.maketrans(dict.fromkeys("−–—‐‑", "-"))
CURRENCY = re.compile(
    r"us\$|hk\$|[$€£¥₹]|(?<![a-z])(?:usd|eur|gbp|jpy|rmb|cny|hkd|inr|aud|cad|chf)(?![a-z])"
)
NUMBER = re.compile(
    r"[-+]?\s*(?P<open>\()?\s*[-+]?\s*"
    r"(?P<whole>\d{1,3}(?:,\d{2,3})*,\d{3}|\d+)?(?P<part>\.\d+)?\.?\s*(?P<close>\))?",
    re.ASCII,
)
EDGE = ".,;:!?\"'"
POINTS = re.compile(r"^(?:\.{2,}|\.(?=\D|$))")
"""Leading points, but not the one that .75 begins with."""
NUMERAL = re.compile(
    rf"(?<![\w.%)])[-+(]{{0,3}}(?:{CURRENCY.pattern})?[-+]?"
    r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)%?\)?",
    re.ASCII,
)
"""A number with letters, or another number, behind it: 1.5bn, 4.5-5.5%. None in Q1."""
ONE_WORD = re.compile(r"\d+(?:[/:]\d+)+|\d+(?:-\d+){2,}", re.ASCII)
"""Dates, times and fractions: other numbers in another order are another one."""

Token = str | Decimal


def plain(text: str, *, lower: bool, drop: Sequence[str]) -> str:
    """The text in lower case if asked; without the phrases of `drop`, each as whole words.

    White space is made even only where something is dropped, as dropping leaves gaps.
    """
    text = text.lower() if lower else text
    if not drop:
        return text
    text = " ".join(text.split())
    for phrase in drop:
        flags = re.IGNORECASE if lower else 0
        text = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", " ", text, flags=flags)
    return " ".join(text.split())


def digits(text: str) -> str:
    """The text with its numbers in words as digits: `twenty-five days` → `25 days`."""
    return str(alpha2digit(text, "en", threshold=0))


def words(text: str) -> list[str]:
    """SQuAD's tokens: lower case, without ASCII punctuation and articles, split at white space."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def tokens(text: str, decimals: int | None = None) -> list[Token]:
    """The words of a text, each that is a number as its value; a text that is one number is one."""
    whole = to_number(text, decimals)
    if whole is not None:
        return [whole]
    found: list[Token] = []
    for part in text.split():
        bare = POINTS.sub("", part.lstrip(EDGE.replace(".", ""))).rstrip(EDGE)
        value = to_number(bare, decimals)
        found += [value] if value is not None else _parted(bare, decimals)
    return found


def _parted(part: str, decimals: int | None) -> list[Token]:
    """The numbers of a part that is none by itself, and the words between them."""
    if ONE_WORD.fullmatch(bare := part.strip("()")):
        return [bare]
    found, end = list[Token](), 0
    text = part.lower().translate(DASHES)
    for match in NUMERAL.finditer(text):
        value = to_number(match[0], decimals)
        if value is None:
            continue
        found += [*_between(text[end : match.start()]), value]
        end = match.end()
    return found + _between(text[end:]) if found else list(words(part))


def _between(text: str) -> list[Token]:
    """Words within a part, its articles too: the a of 1A is none."""
    return [*text.translate(PUNCTUATION).split()]


def to_number(text: str, decimals: int | None = None) -> Decimal | None:
    """The value of a text that is a number and nothing else; None for any other text.

    >>> to_number("$(5,062)"), to_number("12.50 %"), to_number("25 days")
    (Decimal('-5062'), Decimal('12.50'), None)
    """
    bare = CURRENCY.sub(" ", text.lower().translate(DASHES)).replace("%", " ").strip()
    match = NUMBER.fullmatch(bare)
    if not match or bool(match["open"]) != bool(match["close"]):
        return None
    digits = (match["whole"] or "").replace(",", "") + (match["part"] or "")
    if not digits:
        return None
    value = rounded(Decimal(digits), decimals)
    return -value if value and ("-" in bare or match["open"]) else value


def rounded(value: Decimal, decimals: int | None) -> Decimal:
    """`value` with at most so many decimals, half to even; as it is where `decimals` is None."""
    exponent = value.as_tuple().exponent
    if decimals is None or not isinstance(exponent, int) or exponent >= -decimals:
        return value
    enough = Context(prec=len(value.as_tuple().digits) + decimals + 2, rounding=ROUND_HALF_EVEN)
    return value.quantize(Decimal(1).scaleb(-decimals), context=enough)
