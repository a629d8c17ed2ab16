"""`python -m benchmarks.party_admissions`: public hearsay rows whose gold contradicts our prompt.

The public set calls every out-of-court statement hearsay; our prompt, after Rule 801(d)(2), makes a
party's own statement, offered by the other side, none. Named are rows with the gold "yes" of which
the text itself says so (`contradicts`), and those where the other side offers the words of a person
whose part it leaves open (`may contradict`). No text is shown. Such rows are nothing to train on.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.parsing import loads_strictly, read_text

SETS = paths.REPOSITORY.parent / "shared" / "eval"

NAME = r"(?:Corporation )?([A-Z][\w]*)(?: [A-Z]\w+)?"
DEFENDS = (rf"{NAME} is being (?:sued|prosecuted)", rf"{NAME} is sued", rf"suing {NAME}",
           r"sue (?:Corporation )([A-Z])\b")  # fmt: skip
OFFERED = (
    r"(?:plaintiffs?|prosecution|lawyers|{names})\b.*?\b(?:introduced?s?|testif\w+)\b(?P<what>.*)"
)
SPEECH = r"(?:admit|told|tell|stat|complain|wrote|ask|making plans|CEO)\w*"
SETS_OF = ("eval.jsonl", "train.jsonl")


def contradictions(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Id of each such row, and whether its text says whose statement it is."""
    for row in rows:
        gold = row["gold"]
        if (gold.get("issue"), gold.get("conclusion")) == ("hearsay", "yes"):
            stated = _stated(row["input"])
            if stated is not None:
                yield row["id"], stated


def _stated(text: str) -> bool | None:
    """Whether the speaker is named as the party against whom it is offered; None: no such offer."""
    offer = re.search(OFFERED.format(names=_other_side(text)), text, re.DOTALL)
    if offer is None:
        return None
    if any(_speaks(party, offer["what"]) for party in _defendants(text)):
        return True
    return False if re.search(rf"[A-Z]\w+ {SPEECH}", offer["what"]) else None


def _defendants(text: str) -> list[str]:
    return [found for pattern in DEFENDS for found in re.findall(pattern, text)]


def _other_side(text: str) -> str:
    """Names of those who sue."""
    found = re.findall(r"([A-Z]\w+) is suing|sued by ([A-Z]\w+)", text)
    return "|".join(re.escape(name) for pair in found for name in pair if name) or "plaintiffs"


def _speaks(party: str, what: str) -> bool:
    return bool(re.search(rf"\b{re.escape(party)}\b(?:'s)? (?:\w+ )?{SPEECH}", what))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, default=SETS, help="a folder with legal/eval.jsonl")
    asked = parser.parse_args()
    for name in SETS_OF:
        lines = read_text(asked.sets / "legal" / name).split("\n")
        rows = [loads_strictly(line) for line in lines if line.strip()]
        for found, stated in contradictions(rows):
            words = "contradicts" if stated else "may contradict"
            print(json.dumps({"file": name, "id": found, "gold": words}))


if __name__ == "__main__":
    main()
