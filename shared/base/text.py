"""Pieces of text: an error's first line, runs of words, and the block of a document between two marks.

>>> put_block("a\\n<!-- x -->\\nold\\n<!-- end -->\\nb", "<!-- x -->", "new")
'a\\n<!-- x -->\\nnew\\n<!-- end -->\\nb'
"""

import re

END = "<!-- end -->"
WHITE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005"
    "\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""What Python's strip, JavaScript's trim or C++'s isspace take for white space, at either end."""


def trimmed(text: str) -> str:
    """The text without what any runtime takes for white space at its ends, a byte-order mark too."""
    return text.strip(WHITE)


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message; the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def word_runs(text: str, length: int) -> set[tuple[str, ...]]:
    """All runs of `length` words, in lower case; of a shorter text, all of it."""
    words = re.findall(r"\w+", text.lower())
    last = max(1, len(words) - length + 1)
    return {tuple(words[i : i + length]) for i in range(last)}


def put_block(text: str, mark: str, body: str) -> str:
    """`text` with `body` between `mark` and the END after it; ValueError where they are not there."""
    before, found, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"no block {mark} … {END}")
    return f"{before}{mark}\n{body}\n{END}{after}"
