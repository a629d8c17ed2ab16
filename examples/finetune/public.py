"""`python -m examples.finetune.public`: public training rows in the form of our schemas.

    python -m examples.finetune.public --domain financial --records train.jsonl
    python -m examples.finetune --domain financial --records build/public/financial/train.jsonl

Fields of theirs that our schema has not go; ours that they have not are filled where the row says what
they are: `unit` by the only currency sign, `period` by the only year asked about, `quote` by the whole
text or its first sentence, which teaches to copy word for word, not to be short. Left out, and counted:
rows of which that cannot be said, and hearsay rows whose gold contradicts our prompt.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from benchmarks.party_admissions import contradictions
from benchmarks.public_sets import rows_of, write_set
from examples.finetune.records import plain_words
from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.progress import say
from shared.domain.domain import Domain, load_domain
from shared.evaluate.scoring.normalise import to_number

SIGNS = {"$": "USD", "€": "EUR", "£": "GBP"}
OTHER_MONEY = re.compile(
    r"[A-Z]\$|[¥₹₩₽]|\b(?:AUD|CAD|CHF|CNY|DKK|HKD|INR|JPY|NOK|NZD|RMB|SEK|SGD|ZAR)\b"
)
MONEY = ("thousand", "million", "billion")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
OVER_TIME = re.compile(
    r"(?i)\b(?:chang\w+|increas\w+|decreas\w+|gr[eo]w\w*|fall|fell|ris[ei]\w*|rose|differ\w*|averag\w+"
    r"|after|before|since|until|from)\b"
)
QUESTION = "Question:"
SENTENCE = re.compile(r"(?<=[.;:!?])\s+")


class Unsure(Exception):
    """A row does not say what a field of ours is."""


def converted(domain: Domain, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that can be given in our form."""
    against = {name for name, _ in contradictions(rows)}
    found = []
    for row in rows:
        if row["id"] not in against and (gold := gold_of(domain, row)) is not None:
            found.append({**row, "gold": gold})
    return found


def gold_of(domain: Domain, row: dict[str, Any]) -> dict[str, Any] | None:
    """The row's gold with each field of our schema, in its order; None where one cannot be filled."""
    theirs, text = row["gold"], row["input"]
    try:
        gold = {
            field: theirs[field] if field in theirs else FILLED[field](text, theirs)
            for field in domain.schema["properties"]
        }
    except (Unsure, KeyError):
        return None
    return gold if jsonschema.Draft202012Validator(domain.schema).is_valid(gold) else None


def quote(text: str, gold: dict[str, Any]) -> str:
    """The text, or its first sentence that is short enough for the schema."""
    longest = 300
    fits = (part for part in (text.strip(), *SENTENCE.split(text.strip())) if len(part) <= longest)
    try:
        return next(fits)
    except StopIteration:
        raise Unsure from None


def unit(text: str, gold: dict[str, Any]) -> str | None:
    """The currency of an amount; its sign is the only one in the text."""
    if not _is_number(gold) or gold["scale"] == "percent":
        return None
    signs = [name for sign, name in SIGNS.items() if sign in text]
    if gold["scale"] not in MONEY or len(signs) != 1 or OTHER_MONEY.search(text):
        raise Unsure  # an amount per share, or a count
    return signs[0]


def period(text: str, gold: dict[str, Any]) -> str | None:
    """The one year that the question names, and the table has; None for words and changes over time."""
    document, _, question = text.rpartition(QUESTION)
    years = set(YEAR.findall(question))
    if not _is_number(gold) or len(years) > 1:
        return None
    if OVER_TIME.search(question) or not years or not years <= set(YEAR.findall(document)):
        raise Unsure
    return years.pop()


FILLED = {"quote": quote, "unit": unit, "period": period}
"""Field of ours → what it is in a row that has not got it."""


def _is_number(gold: dict[str, Any]) -> bool:
    """Years that a question asks for are words."""
    values = [to_number(value) for value in gold["answer"]]
    years = all(YEAR.fullmatch(value) for value in gold["answer"]) and gold["scale"] == "none"
    return all(value is not None for value in values) and not years


def write_rows(domain: Domain, file: Path) -> Path:
    """build/public/<domain>/train.jsonl, from a public set's train.jsonl.

    Without held-out texts: the domain's own, and those of an eval.jsonl beside it.
    """
    rows, target = rows_of(file), paths.build() / "public" / domain.name / "train.jsonl"
    judged = [r.input for r in domain.records]
    for beside in {target.with_name("eval.jsonl"), file.with_name("eval.jsonl")}:
        judged += [row["input"] for row in rows_of(beside)] if beside.is_file() else []
    texts = {plain_words(text) for text in judged}
    found = [row for row in converted(domain, rows) if plain_words(row["input"]) not in texts]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found]
    say(f"      {paths.shown(target)}: {len(found)} of {len(rows)} rows")
    return write_text(target, "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--domain", required=True)
    parser.add_argument("--records", type=Path, required=True, help="a public set's train.jsonl")
    asked = parser.parse_args()
    try:
        domain, sets = load_domain(asked.domain), asked.records.resolve().parent
        if sets.name == domain.name and (sets / "eval.jsonl").is_file():
            write_set(
                domain, sets.parent
            )  # lies beside the rows then, and near copies are held apart
        print(paths.shown(write_rows(domain, asked.records)))
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
