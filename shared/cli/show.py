"""What `./inv show` and `./inv compare` print: one record with every answer; two releases."""

import json

from shared.base.errors import UserError, printable
from shared.base.parsing import nearest
from shared.base.tables import shown, table
from shared.evaluate.compare import Checked, compare_checks, rows_of
from shared.evaluate.systems import MODES, NAMES
from shared.release.card.quality import MODE_WORDS, metric_words


def sample_text(checked: Checked, record_id: str, style: str) -> str:
    """The record, its gold, and each system's answer in each mode with what it is worth."""
    if record_id not in checked.records:
        raise UserError(
            f"--id: {record_id!r} was not answered; {nearest(record_id, list(checked.records))}"
        )
    record = checked.records[record_id]
    gold = json.dumps(record["gold"], ensure_ascii=False)
    rows = [("gold", "", gold)]
    for name in NAMES:
        for mode in MODES:
            answer = checked.of(name, mode).get(record_id)
            if answer:
                label = checked.manifest.facts["base_label"] if name == "base" else name
                rows.append((f"{label}, {mode}", _worth(answer["verdict"]), answer["text"]))
    text = printable(str(record["input"]))
    head = f"{printable(record_id)}  ({checked.manifest.facts['origin']})\n\n{text}\n"
    return f"{head}\n{table(('who', 'worth', 'answer'), rows, style)}"


def ids_text(checked: Checked, style: str) -> str:
    """The ids of all records that were answered, and how many of the answers satisfy the schema."""
    rows = [
        (name, f"{sum(a['verdict']['schema'] for a in lines)} of {len(lines)}")
        for name in checked.records
        for lines in [[a for a in checked.lines if a["id"] == name]]
    ]
    return table(("record", "answers that satisfy the schema"), rows, style)


def _worth(verdict: dict[str, object]) -> str:
    """`satisfies the schema, 3 of 4 fields`, or why not."""
    fields = verdict["fields"]
    assert isinstance(fields, dict)
    judged = [value for value in fields.values() if value is not None]
    score = f"{sum(judged):g} of {len(judged)} fields"
    if verdict["schema"]:
        return f"satisfies the schema; {score}"
    return f"valid JSON; {score}" if verdict["json"] else f"no JSON; {score}"


def comparison_text(a: Checked, b: Checked, names: tuple[str, str], style: str) -> str:
    """Both releases and their difference, mode by mode."""
    count, found = compare_checks(a, b)
    parts = [f"{count} records that both answered ({a.manifest.facts['origin']})"]
    for mode, measured in found.items():
        rows = [
            (
                metric_words(name),
                shown(measured[f"a.{name}"]),
                shown(measured[f"b.{name}"]),
                shown(pair) if pair.value is not None else "",
                pair.how if pair.value is not None else pair.reason or "",
            )
            for name in rows_of(measured)
            for pair in [measured[f"difference.{name}"]]
        ]
        heads = ("", *names, "difference", "the first is, in a word")
        parts.append(f"{MODE_WORDS[mode]}:\n{table(heads, rows, style)}")
    return "\n\n".join(parts)
