"""`python -m benchmarks.records`: docs/records.md, what our held-out records are like.

Our own records and, beside them and never pooled with them, the public ones (`--sets`, a folder with
<domain>/eval.jsonl and train.jsonl, which is not part of this repository).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.public_sets import SETS, mapped, rows_of
from benchmarks.record_statistics import (
    GIVE_AWAY,
    SURE,
    TOO_ALIKE,
    TRAINING_TOO_ALIKE,
    Agreement,
    Nearest,
    Resolved,
    agreements,
    alike,
    class_fields,
    disagreements,
    given_away,
    judged,
    lengths,
    lengths_by_class,
    planted_found,
    read_labels,
    read_resolved,
)
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.files import write_text
from shared.base.hashing import sha256_file
from shared.base.tables import table
from shared.domain.domain import Domain, domain_names, load_domain
from shared.domain.records import Record, read_records
from shared.source.embedded import PACKAGE, embedded_model
from shared.source.tokenizer import load_tokenizer

DOCUMENT = paths.REPOSITORY / "docs" / "records.md"
SECOND_LABELS = "labels.jsonl"
RESOLVED = "resolved.jsonl"
HEAD = f"""# The held-out records

Written by `python -m benchmarks.records`. The records in `domains/<domain>/eval.jsonl` are invented, in
our own words; every figure on a card that names our own records rests on them. Public records stand
apart and are never pooled with ours.

- **Words alone**: how often the field's value is guessed from nothing but which words occur, each
  record by all the others: naive Bayes (the best of three smoothings) and one keyword a text. The
  bound is the largest class's share + {100 * GIVE_AWAY:.0f} points, and {100 * SURE:.0f} % at most.
- **Second labelling**: `labels.jsonl`, answers given from prompt, schema and inputs alone, before gold
  was seen. Cohen's kappa with its 95 % interval, of values that the field's metric takes for equal;
  for free text the mean score of one against the other (of quotes the F1 of their words, as the text
  that they stood in may have changed), and how many notes the metric `clinical` calls a contradiction
  of gold. All of it on texts and gold as they were then; what was read again and changed afterwards
  stands below and in `resolved.jsonl`. Both labellers are language models: agreement says that the
  prompt decides the answer, not that a physician, a lawyer or an accountant would give the same. The
  rules of `clinical` were improved on those of these notes that it wrongly called contradictions: how
  often it is wrong on other people's notes is not known.
- **Planted errors**: gold with one number tenfold, or one unit, side or negation changed, against gold:
  how many the metric `clinical` calls a contradiction. All are near copies of gold, which are compared
  word by word; the same errors in other words are found less often, and how much less is not known.
- **Most alike**: the geometric mean of two measures from 0 to 1, characters (cosine of tf-idf over runs
  of three to five) and words (idf of those that both have, over idf of those that either has). The
  bound is {TOO_ALIKE} between held-out and calibration text, {TRAINING_TOO_ALIKE} to public training
  text, where it is at hand. In brackets: both measures.

`tests/test_records.py` holds our records to these bounds, and every kappa to 0.8.
"""


def write_document(sets: Path | None, document: Path = DOCUMENT) -> Path:
    """Renew docs/records.md."""
    parts = [HEAD]
    for name in domain_names():
        parts += section(load_domain(name), sets)
    write_text(document, "\n\n".join(part.strip() for part in parts) + "\n")
    return document


def section(domain: Domain, sets: Path | None) -> Iterator[str]:
    """Everything about one domain."""
    calibration = calibration_records(domain)
    yield f"## {domain.name}"
    yield _sizes(domain, calibration)
    yield _tokens(domain)
    yield _given_away(domain)
    yield _balance(domain)
    yield _labelled_twice(domain)
    yield from _planted(domain)
    yield _alike(domain, calibration, sets)
    if public := _public(domain, sets):
        yield public


def calibration_records(domain: Domain) -> tuple[Record, ...]:
    return read_records(domain.folder / "calibration.jsonl", domain.schema)


def training_texts(name: str, sets: Path | None) -> dict[str, str]:
    """id → input of the public training text, which has a schema of its own; empty without it."""
    file = sets / name / "train.jsonl" if sets else Path()
    return {row["id"]: row["input"] for row in rows_of(file)} if file.is_file() else {}


def texts(records: tuple[Record, ...]) -> dict[str, str]:
    return {record.id: record.input for record in records}


def _sizes(domain: Domain, calibration: tuple[Record, ...]) -> str:
    sets = {"held-out": domain.records, "calibration": calibration}
    rows = [(name, *map(str, (len(found), *lengths(found)))) for name, found in sets.items()]
    return table(("records", "n", "least words", "25 %", "50 %", "75 %", "most"), rows, "github")


def _tokens(domain: Domain) -> str:
    """Prompt, longest input and longest answer, in the embedded model's tokens."""
    tokenizer = load_tokenizer(embedded_model(PACKAGE))

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    answers = [count(json.dumps(record.gold, ensure_ascii=False)) for record in domain.records]
    inputs = [count(record.input) for record in domain.records]
    return (
        f"Tokens (the embedded model's): prompt {count(domain.prompt)}, longest input {max(inputs)}, "
        f"longest gold answer {max(answers)} of the {domain.chain.check.max_new_tokens} that may be "
        "written."
    )


def _given_away(domain: Domain) -> str:
    rows = []
    for field in class_fields(domain):
        records = judged(domain, field)
        found = given_away([r.input for r in records], [r.gold.get(field) for r in records])
        shares = (found.majority, found.bayes, found.keywords, found.bound)
        rows.append((f"`{field}`", f"{found.n}", f"{found.classes}", *map(_percent, shares)))
    heads = ("words alone", "n", "classes", "largest class", "naive Bayes", "keyword", "bound")
    return table(heads, rows, "github")


def _balance(domain: Domain) -> str:
    rows = [
        (f"`{field}`", ", ".join(f"{v} {n} ({w})" for v, n, w in lengths_by_class(of_field, field)))
        for field in class_fields(domain)
        if (of_field := judged(domain, field))
    ]
    return table(("field", "records of each value (median words)"), rows, "github")


def _labelled_twice(domain: Domain) -> str:
    file = domain.folder / SECOND_LABELS
    if not file.is_file():
        return "Labelled once: there is no labels.jsonl."
    resolved = read_resolved(domain.folder / RESOLVED)
    rows = [
        (f"`{field}`", f"{found.n}", _percent(found.agreement), _kappa(found), _dangerous(found))
        for field, found in agreements(domain, read_labels(file), resolved).items()
    ]
    heads = ("second labelling", "n", "agreement", "kappa", "contradictions")
    changed = [(one.id, one.changed, one.why) for one in resolved]
    parts = [
        table(heads, rows, "github"),
        f"labels.jsonl: SHA-256 `{sha256_file(file)}`",
        _other_texts(domain, resolved),
        table(("read again", "changed since", "why"), changed, "github") if changed else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _other_texts(domain: Domain, resolved: Sequence[Resolved]) -> str:
    """How many records the labels were given for whose input is another one today, and what a label of
    today's says of it."""
    changed = [one.id for one in resolved if one.other_text]
    again = {one.id: one.again for one in resolved if one.again}
    differing = {name for name, _ in disagreements(domain, again)}
    which = f" ({', '.join(changed)})" if changed else ""
    share = f"{len(changed)} of {len(domain.records)}"
    said = f"Inputs changed after they were labelled twice: {share}{which}."
    agreeing = f"{len(again) - len(differing)} of {len(again)}"
    more = f" Labelled again as they are now, as blind: {agreeing} as gold in all but free text."
    return said + (more if again else "")


def _planted(domain: Domain) -> Iterator[str]:
    """How many planted errors the metric `clinical` finds in gold."""
    for field, how in domain.chain.metrics.items():
        if how.metric == "clinical":
            found = planted_found(domain, field)
            rows = [(kind, f"{n} of {there}") for kind, (n, there) in found.items()]
            yield table((f"planted in gold's `{field}`, one at a time", "found"), rows, "github")


def _kappa(found: Agreement) -> str:
    if found.kappa is None:
        return "free text"
    ends = f" ({found.low:.2f}–{found.high:.2f})" if found.low is not None else ""
    return f"{found.kappa:.2f}{ends}"


def _dangerous(found: Agreement) -> str:
    return "" if found.dangerous is None else f"{found.dangerous} of {found.n}"


def _alike(domain: Domain, calibration: tuple[Record, ...], sets: Path | None) -> str:
    own, public = texts(domain.records), training_texts(domain.name, sets)
    pairs = {
        "held-out, calibration": (own, texts(calibration)),
        "held-out, public training text": (own, public),
        "calibration, public training text": (texts(calibration), public),
        "held-out, held-out": (own, own),
    }
    rows = [
        (name, *_nearest(alike(one, other)[0])) for name, (one, other) in pairs.items() if other
    ]
    return table(("most alike", "", "which"), rows, "github")


def _nearest(found: Nearest) -> tuple[str, str]:
    measures = f"{found.value:.2f} ({found.characters:.2f}, {found.words:.2f})"
    return measures, f"{found.one}, {found.other}"


def _public(domain: Domain, sets: Path | None) -> str:
    """The public set's size, and what its words give away of the fields that it shares with ours."""
    if sets is None or not (sets / domain.name / "eval.jsonl").is_file():
        return ""
    found = mapped(domain, sets)
    records, rows = found.records, []
    for field in class_fields(domain):
        own = [r for r in records if domain.chain.metrics[field].judges(r.gold) and field in r.gold]
        if own:
            alone = given_away([r.input for r in own], [r.gold[field] for r in own])
            shares = (alone.majority, alone.bayes, alone.keywords)
            rows.append((f"`{field}`", f"{alone.n}", f"{alone.classes}", *map(_percent, shares)))
    low, *_, high = lengths(records)
    heads = ("words alone", "n", "classes", "largest class", "naive Bayes", "keyword")
    return (
        f"Public set: {len(records)} records, {low} to {high} words, median {lengths(records)[2]}; "
        f"not judged, as it has no such field: {', '.join(found.missing) or 'none'}; left out, as our "
        f"schema has none: {', '.join(found.dropped) or 'none'}; rows left out, as their gold "
        f"contradicts our prompt: {', '.join(found.contradicting) or 'none'}.\n\n"
        + table(heads, rows, "github")
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, default=SETS, help="a folder with <domain>/eval.jsonl")
    asked = parser.parse_args()
    set_variables()
    print(paths.shown(write_document(asked.sets)))


if __name__ == "__main__":
    main()
