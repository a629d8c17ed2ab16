"""What the rows come to: docs/measured/forced.json, which docs/forced.md is written from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

from pydantic import Field

from benchmarks.forced.cpu import WAYS, answer_key, value
from benchmarks.forced.full_size import full_key
from benchmarks.forced.gold import gold_key
from benchmarks.forced.page import Device, page_key
from benchmarks.forced.rows import Case, Rows
from shared.base import paths
from shared.base.manifest import Strict
from shared.base.parsing import read_json, validate

FIGURES = paths.REPOSITORY / "docs" / "measured" / "forced.json"
FORCED, STEPWISE = WAYS
Pair = dict[str, float]
"""Way → figure."""


class Parting(Strict):
    """Where one answer parts from the check's with forced text; see cpu.Reader.parting."""

    record: str
    same_value: bool
    place: int
    asked: bool
    margins: Pair

    @property
    def gap(self) -> float:
        """How far apart the two tokens' logits are, as the check reads them."""
        return abs(self.margins["forced"])

    @property
    def moved(self) -> float:
        """How far that difference moves with the cut of the runs and the rounding of activations."""
        return max(self.margins.values()) - min(self.margins.values())

    @property
    def near_tie(self) -> bool:
        return self.asked and self.gap <= self.moved


class Gold(Strict):
    """All gold answers that the grammar takes, together."""

    records: int
    tokens: int
    runs: int


class Cpu(Strict):
    """Answers in onnxruntime-genai; `tokens`, `runs`: the mean an answer, `seconds`: the median."""

    answers: int
    tokens: float
    runs: Pair
    seconds: Pair
    same_ids: int
    partings: list[Parting]

    @property
    def other_values(self) -> list[Parting]:
        return [one for one in self.partings if not one.same_value]


class Against(Strict):
    """The page's answers with forced text beside the check's. `agreeing`: those where the check writes
    the same ids token by token; `agreeing_same_ids`: the page, too."""

    answers: int
    same_values: int
    same_ids: int
    agreeing: int
    agreeing_same_ids: int
    partings: list[Parting]


class Page(Strict):
    """Documents answered both ways in one tab: runs, dispatches, buffers the mean an answer, seconds
    the median; `a_run`: the median of the runs after an answer's first, `late` of its last quarter."""

    device: Device
    documents: int = 0
    tokens: float = 0
    runs: Pair = Field(default_factory=dict)
    seconds: Pair = Field(default_factory=dict)
    dispatches: Pair = Field(default_factory=dict)
    buffers: Pair = Field(default_factory=dict)
    dispatches_a_run: Pair = Field(default_factory=dict)
    buffers_a_run: Pair = Field(default_factory=dict)
    buffers_late: Pair = Field(default_factory=dict)
    ttft_first: float | None = None
    ttft_after: float | None = None
    plain_dispatches: float | None = None
    plain_buffers: list[int] = Field(default_factory=list)
    against: Against | None = None


class FullSize(Strict):
    """Gold answers read by a model of full size; means an answer."""

    bytes: int
    answers: int
    runs: Pair
    prompt_seconds: Pair
    answer_seconds: Pair


class Measured(Strict):
    """One domain's questions to one package. `load`: the machine's least and greatest meanwhile."""

    domain: str
    rung: str
    package: str
    taken: str
    load: list[float]
    gold: Gold | None = None
    cpu: Cpu | None = None
    page: list[Page] = Field(default_factory=list)
    full_size: FullSize | None = None

    def after(self, before: Measured) -> Measured:
        """With what was measured before of the same package, and not again."""
        if before.package != self.package:
            return self
        pages = {page.device: page for page in [*before.page, *self.page]}
        there = {name: getattr(self, name) for name in ("gold", "cpu", "full_size", "load")}
        kept = {name: part or getattr(before, name) for name, part in there.items()}
        return self.model_copy(update=kept | {"page": list(pages.values())})


class Figures(Strict):
    machine: str = ""
    tools: dict[str, str] = Field(default_factory=dict)
    measured: list[Measured] = Field(default_factory=list)


def read_figures(path: Path = FIGURES) -> Figures:
    return validate(read_json(path), Figures, path.name) if path.is_file() else Figures()


def figures_of(case: Case, rows: Rows, count: int, taken: str) -> Measured:
    """All that is there of a case, its first `count` records."""
    gold = rows.get(gold_key(case))
    pages = [_page(case, rows, device, count) for device in get_args(Device)]
    return Measured(
        domain=case.domain.name,
        rung=case.rung,
        package=case.package.name,
        taken=taken,
        load=rows.loads(case.key),
        gold=Gold(**gold) if gold else None,
        cpu=_cpu(case, rows, count),
        page=[page for page in pages if page.documents or page.against],
        full_size=_full_size(case, rows, count),
    )


def _both(case: Case, count: int, get: Callable[[str, str], Any]) -> list[tuple[str, Any, Any]]:
    """(record, row, row) of those that have a row both ways."""
    every = [(r.id, *(get(way, r.id) for way in WAYS)) for r in case.records(count)]
    return [(name, one, two) for name, one, two in every if one and two]


def _cpu(case: Case, rows: Rows, count: int) -> Cpu | None:
    found = _both(case, count, lambda way, name: rows.get(answer_key(case, way, name)))
    if not found:
        return None
    pairs = [(one, two) for _, one, two in found]
    return Cpu(
        answers=len(found),
        tokens=fmean(len(one["ids"]) for one, _ in pairs),
        runs=_by_way(pairs, lambda row: len(row["ids"]) - len(row["forced"]), fmean),
        seconds=_by_way(pairs, lambda row: row["seconds"], median),
        same_ids=sum(one["ids"] == two["ids"] for one, two in pairs),
        partings=_partings(rows, found, lambda name: answer_key(case, "parting", name)),
    )


def _by_way(
    pairs: Iterable[tuple[Any, Any]],
    figure: Callable[[Any], float],
    of: Callable[[list[float]], float],
) -> Pair:
    return {way: of([figure(pair[i]) for pair in pairs]) for i, way in enumerate(WAYS)}


def _partings(
    rows: Rows, found: list[tuple[str, Any, Any]], key: Callable[[str], str]
) -> list[Parting]:
    return [
        Parting(record=name, same_value=value(one["text"]) == value(two["text"]), **row)
        for name, one, two in found
        if one["ids"] != two["ids"] and (row := rows.get(key(name)))
    ]


def _page(case: Case, rows: Rows, device: Device, count: int) -> Page:
    def get(way: str, name: str) -> Any:
        return rows.get(page_key(case, device, way, name))

    first = case.records(1)[0].id
    cold, plain = get("cold", first), get("plain", first)
    pairs = [(one, two) for _, one, two in _both(case, count, get)]
    page = Page(device=device, against=_against(case, rows, device, count))
    page.ttft_first = cold and cold["runs"][0][3] / 1000
    page.ttft_after = median(one["runs"][0][3] / 1000 for one, _ in pairs) if pairs else None
    if plain:
        page.plain_dispatches = median(_steps(plain, 1))
        page.plain_buffers = [int(count) for count in sorted(_steps(plain, 0))]
    if not pairs:
        return page
    page.documents, page.tokens = len(pairs), fmean(len(one["ids"]) for one, _ in pairs)
    page.runs = _by_way(pairs, lambda row: len(row["runs"]), fmean)
    page.seconds = _by_way(pairs, lambda row: sum(run[3] for run in row["runs"]) / 1000, median)
    page.buffers = _by_way(pairs, lambda row: sum(run[1] for run in row["runs"]), fmean)
    page.dispatches = _by_way(pairs, lambda row: sum(run[2] for run in row["runs"]), fmean)
    page.buffers_a_run = _by_way(pairs, lambda row: _middle(row["runs"][1:], 1), fmean)
    page.dispatches_a_run = _by_way(pairs, lambda row: _middle(row["runs"][1:], 2), fmean)
    page.buffers_late = _by_way(
        pairs, lambda row: _middle(row["runs"][-len(row["runs"]) // 4 :], 1), fmean
    )
    return page


def _middle(runs: list[list[float]], place: int) -> float:
    return median([run[place] for run in runs] or [0])


def _steps(counts: list[list[int]], place: int) -> list[int]:
    """What each token but the first added; the streamer is given the prompt first."""
    seen = [count[place] for count in counts[1:]]
    return [after - before for before, after in pairwise(seen)]


def _against(case: Case, rows: Rows, device: Device, count: int) -> Against | None:
    found = []
    agreeing = {}
    for record in case.records(count):
        ours, plain = (rows.get(answer_key(case, way, record.id)) for way in WAYS)
        theirs = rows.get(page_key(case, device, FORCED, record.id))
        if ours and plain and theirs:
            found.append((record.id, ours, theirs))
            agreeing[record.id] = ours["ids"] == plain["ids"]
    if not found:
        return None
    same = {name for name, ours, theirs in found if ours["ids"] == theirs["ids"]}
    return Against(
        answers=len(found),
        same_values=sum(value(one["text"]) == value(two["text"]) for _, one, two in found),
        same_ids=len(same),
        agreeing=sum(agreeing.values()),
        agreeing_same_ids=sum(agreeing[name] for name in same),
        partings=_partings(rows, found, lambda name: page_key(case, device, "parting", name)),
    )


def _full_size(case: Case, rows: Rows, count: int) -> FullSize | None:
    found = _both(case, count, lambda way, name: rows.get(full_key(case, way, name)))
    if not found:
        return None
    pairs = [(one, two) for _, one, two in found]
    return FullSize(
        bytes=sum(file.stat().st_size for file in case.package.glob("onnx/model_q4.onnx*")),
        answers=len(found),
        runs=_by_way(pairs, lambda row: row["runs"], fmean),
        prompt_seconds=_by_way(pairs, lambda row: row["prompt"], fmean),
        answer_seconds=_by_way(pairs, lambda row: row["answer"], fmean),
    )
