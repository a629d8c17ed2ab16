"""Blocks of a document that a command renews: what lies between two marks.

>>> put("a\\n<!-- x -->\\nold\\n<!-- end -->\\nb", "<!-- x -->", "new")
'a\\n<!-- x -->\\nnew\\n<!-- end -->\\nb'
"""

from __future__ import annotations

END = "<!-- end -->"


def put(text: str, mark: str, body: str) -> str:
    """`text` with `body` between `mark` and the END after it; ValueError where they are not there."""
    before, found, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"no block {mark} … {END}")
    return f"{before}{mark}\n{body}\n{END}{after}"
