"""docs/forced.md, all of it from docs/measured/forced.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import get_args

from benchmarks.forced.figures import (
    FORCED,
    STEPWISE,
    Figures,
    FullSize,
    Measured,
    Page,
    Pair,
    Parting,
)
from benchmarks.forced.page import Device
from shared.base import paths
from shared.base.formatting import number
from shared.base.tables import table

DOCUMENT = paths.REPOSITORY / "docs" / "forced.md"
ABSENT = "not measured"
UNFINISHED = (
    "no document was answered both ways in the time there was, on a machine that did other work"
)
UNASKED = "not asked for yet"
HEAD = """# Forced text: documents a minute

Written by `python -m benchmarks.forced` from [measured/forced.json](measured/forced.json), where that
command keeps what it measured: {machine}, {tools}.

What a domain's model writes is an object whose shape is known. Where the grammar of `schema.json`
leaves one continuation, page and check write it without asking the model, and the model reads it
together with the token before it, in one run ([forced.py](../shared/evaluate/models/forced.py)).
"Token by token" is the same model, prompt and grammar asked for every token, forced ones too.

Packages are named after their rung; `small` is the model of two layers that
[page-answers.md](page-answers.md) asks, for what a software adapter of a loaded machine does not get
through otherwise: count its runs, dispatches and buffers, and not its values.
"""
GOLD = """
## Along the gold answers

No model: what is forced of the answers that a fine-tuned model should give. All gold answers that the
grammar takes; a run is counted for each token that is left to choose.
"""
CPU = """
## Model runs an answer

The check's own answers, in onnxruntime-genai on the CPU, held to the schema. Runs and tokens are
means, seconds medians on a machine that did other work as well (its load stands beside them): take
their ratio, and no more of it than a hint. Runs are counted, and are what they are on any machine.
"""
PARTED = """
### The answers with other values

"After the very same tokens" the model was asked both times and chose otherwise: only the cut of its
runs had changed. The gap is how far apart the two tokens' logits are, "moved" how far that difference
moves when the same text is read in other runs or without int8 rounding of activations; medians, and
the range in brackets. The others part where a token was forced and the model, asked, begins the same
text with another token, a tokenisation that none of the tokenizer's own texts have.
"""
PAGE = """
## In a browser

The page's own loop in Chromium, `q4`, as many documents as the table says, each answered both ways in
one tab. **WebGPU is a software adapter here: its seconds are a CPU's and count for nothing but their
ratio.** The first document's prompt is read from its beginning; those after it begin where the
domain's own prompt ends, whose keys and values are kept.
"""
COUNTS = """
## Dispatches and buffers

WebGPU, means an answer; "a run" is the median of the runs after an answer's first, "late" that of the
last quarter of an answer. Beside it a token of Transformers.js's own `generate`, whose cache grows:
the median of its dispatches, and the least and most buffers that it created.
"""
AGAINST = """
## The page's answers beside the check's

Both with forced text, the same records. The check computes with activations rounded to int8, so an
untuned model's near ties fall otherwise in the page. "Where genai agrees with itself": records whose
ids are the same token by token and with forced text in the check. Of those with other ids, a near tie
is one whose two logits are less far apart than the check's own difference of them moves with the cut
of its runs and the rounding of activations. With all arithmetic in float32 the two are compared token
for token, free answers too, in [page-answers.md](page-answers.md).
"""
FULL = """
## Full size

onnxruntime-genai on the CPU reads gold answers: the same tokens, by forced runs and one by one.
Random weights have the bytes and products of a real model's, and never end an answer of their own.
The prompt is the same run both ways: as far as its two times are apart, so little do the others say
where the load is high.
"""


def render(figures: Figures) -> str:
    """The whole page."""
    tools = ", ".join(f"{name} {version}" for name, version in figures.tools.items())
    parts = [HEAD.format(machine=figures.machine, tools=tools)]
    every = figures.measured
    pages = [(one, page) for one in every for page in one.page]
    parts += [GOLD, _table(GOLD_HEADS, (_gold(one) for one in every if one.gold))]
    parts += [CPU, _table(CPU_HEADS, (_cpu(one) for one in every if one.cpu))]
    parts += [PARTED, _table(PARTED_HEADS, (_parted(one) for one in every if one.cpu))]
    parts += [PAGE, _table(PAGE_HEADS, (_page(*found) for found in pages if found[1].documents))]
    counted = (found for found in pages if found[1].device == "webgpu" and found[1].documents)
    parts += [COUNTS, _table(COUNTS_HEADS, (_counts(*found) for found in counted))]
    parts += [
        AGAINST,
        _table(AGAINST_HEADS, (_against(*found) for found in pages if found[1].against)),
    ]
    full = [(one, one.full_size) for one in every if one.full_size]
    parts += [FULL, _table(FULL_HEADS, (_full(*found) for found in full))]
    parts += [_missing(every)]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _table(heads: Sequence[str], rows: Iterable[list[str]]) -> str:
    found = list(rows)
    return table(heads, found) if found else f"{ABSENT[0].upper()}{ABSENT[1:]} on this machine yet."


def _name(one: Measured) -> list[str]:
    return [one.domain, one.rung]


GOLD_HEADS = ("domain", "package", "answers", "tokens an answer", "runs an answer", "runs / tokens")


def _gold(one: Measured) -> list[str]:
    assert one.gold
    each = [number(count / one.gold.records, "") for count in (one.gold.tokens, one.gold.runs)]
    share = number(one.gold.runs / one.gold.tokens, "share")
    return [*_name(one), str(one.gold.records), *each, share]


CPU_HEADS = (
    *("domain", "package", "answers", "tokens", "runs token by token", "runs with forced text"),
    *("seconds", "load", "same values", "same ids"),
)


def _cpu(one: Measured) -> list[str]:
    assert one.cpu
    counts = (one.cpu.answers - len(one.cpu.other_values), one.cpu.same_ids)
    same = [f"{count} of {one.cpu.answers}" for count in counts]
    share = number(one.cpu.runs[FORCED] / one.cpu.runs[STEPWISE], "share")
    runs = [number(one.cpu.runs[STEPWISE], ""), f"{number(one.cpu.runs[FORCED], '')} ({share})"]
    tokens = number(one.cpu.tokens, "")
    return [
        *_name(one),
        str(one.cpu.answers),
        tokens,
        *runs,
        _change(one.cpu.seconds, "s"),
        _load(one),
        *same,
    ]


def _change(pair: Pair, unit: str = "") -> str:
    """`4.2 → 1.9 s`: from token by token to forced text."""
    return f"{number(pair[STEPWISE], '')} → {number(pair[FORCED], unit)}"


PARTED_HEADS = (
    *("domain", "package", "other values", "after the very same tokens", "their gap", "moved"),
    *("at a forced token", "whose logit is lower by"),
)


def _parted(one: Measured) -> list[str]:
    assert one.cpu
    other = one.cpu.other_values
    asked = [parting for parting in other if parting.asked]
    spelt = [parting for parting in other if not parting.asked and parting.margins]
    return [
        *_name(one),
        *(str(len(found)) for found in (other, asked)),
        *(_spread(asked, of) for of in (lambda found: found.gap, lambda found: found.moved)),
        str(len(other) - len(asked)),
        _spread(spelt, lambda found: -found.margins["stepwise"]),
    ]


def _spread(found: Sequence[Parting], of: Callable[[Parting], float]) -> str:
    values = sorted(of(one) for one in found)
    if not values:
        return ""
    ends = f" ({number(values[0], '')}–{number(values[-1], '')})" if len(values) > 1 else ""
    return number(median(values), "") + ends


PAGE_HEADS = (
    *(
        "domain",
        "package",
        "device",
        "documents",
        "runs an answer",
        "seconds an answer",
        "times faster",
    ),
    *("documents a minute", "first token: first document", "those after it"),
)


def _page(one: Measured, page: Page) -> list[str]:
    minute = {way: 60 / seconds for way, seconds in page.seconds.items()}
    times = number(page.seconds[STEPWISE] / page.seconds[FORCED], "")
    waits = [f"{number(x, 's')}" if x else ABSENT for x in (page.ttft_first, page.ttft_after)]
    row = [_change(page.runs), _change(page.seconds, "s"), times, _change(minute), *waits]
    return [*_name(one), page.device, str(page.documents), *row]


COUNTS_HEADS = (
    *("domain", "package", "dispatches an answer", "buffers an answer", "dispatches a run"),
    *("buffers a run", "late in it", "`generate`: dispatches a token", "its buffers a token"),
)


def _counts(one: Measured, page: Page) -> list[str]:
    grown = page.plain_buffers
    plain = (
        [number(page.plain_dispatches, ""), f"{grown[0]}–{grown[-1]}"] if grown else [ABSENT] * 2
    )
    pairs = (page.dispatches, page.buffers, page.dispatches_a_run, page.buffers_a_run)
    return [*_name(one), *map(_change, pairs), _change(page.buffers_late), *plain]


AGAINST_HEADS = (
    *("domain", "package", "device", "answers", "same values", "same ids"),
    *("where genai agrees with itself", "near ties", "other reasons"),
)


def _against(one: Measured, page: Page) -> list[str]:
    found = page.against
    assert found
    near = sum(parting.near_tie for parting in found.partings)
    agreeing = f"{found.agreeing_same_ids} of {found.agreeing}"
    counts = [str(count) for count in (found.answers, found.same_values, found.same_ids)]
    return [*_name(one), page.device, *counts, agreeing, str(near), str(len(found.partings) - near)]


FULL_HEADS = (
    "domain",
    "package",
    "q4",
    "answers",
    "runs an answer",
    "prompt",
    "seconds for the rest",
    "load",
)


def _full(one: Measured, found: FullSize) -> list[str]:
    size = [number(found.bytes, "B"), str(found.answers)]
    times = [_change(found.prompt_seconds, "s"), _change(found.answer_seconds, "s")]
    return [*_name(one), *size, _change(found.runs), *times, _load(one)]


def _load(one: Measured) -> str:
    return "–".join(number(value, "") for value in one.load)


def _answered(one: Measured, device: Device) -> bool:
    return any(page.device == device and page.documents for page in one.page)


def _missing(every: Sequence[Measured]) -> str:
    """What no row is there of, and why."""
    there = {(one.domain, one.rung) for one in every}
    named = sorted({one.domain for one in every})
    untuned = [domain for domain in named if (domain, "example") not in there]
    lines = ["## Not measured", ""]
    for domain in untuned:
        lines.append(f"- {domain} with the adapter of examples/adapters: {UNASKED}.")
    for device in get_args(Device):
        without = [one for one in every if one.cpu and not _answered(one, device)]
        begun = [one for one in without if any(page.device == device for page in one.page)]
        for some, why in ((begun, UNFINISHED), ([x for x in without if x not in begun], UNASKED)):
            if some:
                names = ", ".join(" ".join(_name(one)) for one in some)
                lines.append(f"- Seconds on {device}: {names}: {why}.")
    lines.append(
        "- A real GPU: none was at hand; `./inv bench` measures seconds a document where there is one."
    )
    lines.append(
        "- Peers on the same records: `./inv bench --engines all` asks them free answers alone."
    )
    return "\n".join(lines)
