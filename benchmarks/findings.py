"""`python -m benchmarks.findings`: what the tables of docs/measured/ come to, for docs/measured.md.

Reads those pages and nothing else, so that anyone can renew the findings without measuring again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evaluated import PAGES
from shared.base import paths
from shared.base.errors import UserError
from shared.base.tables import table

FIDELITY, FREE, HELD, PAIRS = "", "Free decoding", "Held to the schema", "Pair by pair"
"""What stands before each table of a page; the first one has nothing before it."""
SYSTEMS = ("one fixed answer", "base", "16-bit parent", "4-bit release")
TOKENS = {
    "same likeliest token": "same likeliest token",
    "KL divergence from the 16-bit model, mean": "KL divergence",
    "this model's perplexity over the 16-bit model's": "perplexity ratio",
}
"""Row of the first table → column of the findings."""
VALID, SCORE, SPEED = (
    "satisfies schema.json",
    "field score",
    "decode, one prompt at a time, on the CPU",
)
MODES = (
    "satisfies schema.json",
    *("release, free", "release, held", "16-bit parent, held", "release − parent, held"),
    *("decode on the CPU, free", "decode on the CPU, held"),
)
LOST, LEARNT = "release − parent, constrained", "parent − base, constrained"
UNTOLD = "no difference shown"
CELLS = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Page:
    """One page of docs/measured/: title, and tables on our own records by (table, row, column)."""

    path: Path
    title: str
    cells: dict[tuple[str, str, str], str]

    def cell(self, table_name: str, row: str, column: str) -> str:
        """Without the interval in brackets; empty where the page has no such cell.

        `column` is what the column's head begins with.
        """
        found = [
            text
            for (name, first, head), text in self.cells.items()
            if (name, first) == (table_name, row) and head.startswith(column)
        ]
        return found[0].partition(" (")[0] if found else ""


def read_page(path: Path) -> Page:
    """UserError where it has no title, or no table of how alike release and parent are."""
    text = path.read_text(encoding="utf-8").partition("\n## Public records")[0]
    cells: dict[tuple[str, str, str], str] = {}
    name, heads = FIDELITY, list[str]()
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = []
            name = line.rstrip(":") if line.rstrip(":") in (FREE, HELD, PAIRS) else name
            continue
        row = [cell.strip() for cell in CELLS.split(line)[1:-1]]
        if not heads:
            heads = row
        elif set(row[0]) - set("-:"):
            label = f"{row[0]}: {row[1]}" if name == PAIRS else row[0]
            cells |= {(name, label, head): cell for head, cell in zip(heads, row, strict=True)}
    if not text.startswith("# ") or not any(key[0] == FIDELITY for key in cells):
        raise UserError(f"{paths.shown(path)}: no page that benchmarks.evaluated writes")
    return Page(path, text.splitlines()[0].removeprefix("# "), cells)


def findings(folder: Path = PAGES) -> str:
    """Markdown: a sentence and a table for each of three questions."""
    pages = [read_page(path) for path in sorted(folder.glob("*.md"))]
    if not pages:
        raise UserError(f"{paths.shown(folder)}: no page; run `python -m benchmarks.evaluated`")
    parts = [
        "## Is it still the same model?",
        table(("", *TOKENS.values()), [(page.title, *_tokens(page)) for page in pages]),
        "## Does it still do the work?",
        _sentence(pages),
        table(("field score", *SYSTEMS, "release − parent"), [_scores(page) for page in pages]),
        "## What does holding to the schema do?",
        table(MODES, [_modes(page) for page in pages]),
        f"All tables: {', '.join(f'[{page.title}](measured/{page.path.name})' for page in pages)}.",
    ]
    return "\n\n".join(parts)


def _tokens(page: Page) -> list[str]:
    return [page.cell(FIDELITY, row, "value") for row in TOKENS]


def _scores(page: Page) -> tuple[str, ...]:
    scores = (page.cell(HELD, SCORE, system) for system in SYSTEMS)
    return (page.title, *scores, _verdict(page, LOST, SCORE))


def _modes(page: Page) -> tuple[str, ...]:
    valid = (page.cell(HELD, VALID, SYSTEMS[-2]), _verdict(page, LOST, VALID))
    cells = [page.cell(mode, row, SYSTEMS[-1]) for row in (VALID, SPEED) for mode in (FREE, HELD)]
    return (page.title, *cells[:2], *valid, *cells[2:])


def _verdict(page: Page, pair: str, metric: str) -> str:
    """The comparison of two systems in a word; a pair that no row has could not be told apart."""
    return page.cell(PAIRS, f"{pair}: {metric}", "in a word") or UNTOLD


def _sentence(pages: list[Page]) -> str:
    """In how many of the pages something can be said at all; no figure that is not in the table."""

    def times(pair: str, word: str) -> int:
        return sum(_verdict(page, pair, SCORE) == word for page in pages)

    return (
        f"Held to the schema, of {len(pages)}: the 4-bit release is worse than its 16-bit parent in "
        f"{times(LOST, 'worse')}, better in {times(LOST, 'better')}, and in {times(LOST, UNTOLD)} no "
        f"difference is shown. The parent is better than its base in {times(LEARNT, 'better')}. Where "
        "the release is not above what one fixed answer would score, the model has not learnt the "
        "work, and what it lost of it cannot be seen here."
    )


def main() -> None:
    print(findings())


if __name__ == "__main__":
    main()
