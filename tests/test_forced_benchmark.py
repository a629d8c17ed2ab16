"""docs/forced.md is what was measured: rows outlive a kill, and each figure is one of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.forced.cpu import WAYS, answer_key
from benchmarks.forced.document import DOCUMENT, render
from benchmarks.forced.figures import Figures, Parting, figures_of, read_figures
from benchmarks.forced.full_size import full_key
from benchmarks.forced.gold import gold_key
from benchmarks.forced.page import page_key
from benchmarks.forced.rows import Case, Rows, given
from shared.base.errors import UserError
from shared.domain.domain import load_domain

IDS = [5, 6, 7, 8, 9, 2]
FORCED, STEPWISE = WAYS


@pytest.fixture
def case(tmp_path: Path) -> Case:
    (tmp_path / "package").mkdir()
    return Case(load_domain("legal"), "embedded", tmp_path / "package")


def row(ids: list[int], forced: list[int], text: str, seconds: float) -> dict[str, Any]:
    return {"ids": ids, "forced": forced, "text": text, "seconds": seconds, "load": 1.5}


def tab(ids: list[int], runs: list[list[float]], text: str = '{"a": 1}') -> dict[str, Any]:
    """`runs`: tokens, buffers, dispatches, ms of each."""
    return {"ids": ids, "text": text, "runs": runs, "load": 3.0}


@pytest.fixture
def rows(case: Case, tmp_path: Path) -> Rows:
    """Two records: one with the same answer both ways, one that parts at its third token."""
    rows = Rows(tmp_path / "rows.jsonl")
    one, two = (record.id for record in case.records(2))
    rows.put(gold_key(case), {"records": 4, "tokens": 200, "runs": 80})
    rows.put(answer_key(case, FORCED, one), row(IDS, [1, 4, 5], '{"a": 1}', 2.0))
    rows.put(answer_key(case, STEPWISE, one), row(IDS, [], '{"a":1}', 4.0))
    rows.put(answer_key(case, FORCED, two), row(IDS, [1, 4, 5], '{"a": 1}', 2.0))
    rows.put(answer_key(case, STEPWISE, two), row([5, 6, 3, 2], [], '{"a": 2}', 6.0))
    margins = {"forced": 0.125, "stepwise": -0.25, "float32": -0.0625}
    rows.put(answer_key(case, "parting", two), {"place": 2, "asked": True, "margins": margins})
    rows.put(page_key(case, "webgpu", "cold", one), tab([5], [[1, 9, 90, 18_000]]))
    counts = [[0, 0], [40, 300], [53, 600], [129, 900]]
    rows.put(page_key(case, "webgpu", "plain", one), counts)
    quick = [[2, 3, 90, 1000], [3, 2, 80, 500], [1, 1, 80, 500]]
    slow = [[1, 3, 90, 1000], *[[1, 1, 80, 1000]] * 5]
    rows.put(page_key(case, "webgpu", FORCED, one), tab(IDS, quick))
    rows.put(page_key(case, "webgpu", STEPWISE, one), tab(IDS, slow))
    rows.put(full_key(case, FORCED, one), {"runs": 3, "prompt": 9.0, "answer": 2.0})
    rows.put(full_key(case, STEPWISE, one), {"runs": 6, "prompt": 9.0, "answer": 5.0})
    return rows


def test_rows_outlive_a_kill_and_are_measured_once(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "new" / "rows.jsonl")
    assert rows.once("a", lambda: {"runs": 3}) == {"runs": 3}
    with rows.path.open("a") as file:
        file.write('\n["b", {"ru')
    again = Rows(rows.path)
    assert again.get("b") is None
    again.put("c", [1])
    found = Rows(rows.path)
    assert (found.once("a", lambda: 1 / 0), found.get("c")) == ({"runs": 3}, [1])


def test_the_figures_are_those_of_the_rows(case: Case, rows: Rows) -> None:
    found = figures_of(case, rows, 2, "2026-01-02")
    assert found.cpu and found.full_size and found.load == [1.5, 3.0]
    assert found.cpu.runs == {FORCED: 3, STEPWISE: 5}
    assert found.cpu.seconds == {FORCED: 2, STEPWISE: 5}
    assert (found.cpu.same_ids, len(found.cpu.other_values)) == (1, 1)
    (page,) = found.page
    assert (page.documents, page.runs, page.ttft_first, page.ttft_after) == (
        1,
        {FORCED: 3, STEPWISE: 6},
        18,
        1,
    )
    assert page.buffers == {FORCED: 6, STEPWISE: 8}
    assert page.plain_buffers == [13, 76] and page.plain_dispatches == 300
    assert page.against and (page.against.same_ids, page.against.agreeing) == (1, 1)


def test_a_part_that_was_not_measured_is_not_there(case: Case, tmp_path: Path) -> None:
    found = figures_of(case, Rows(tmp_path / "none.jsonl"), 2, "2026-01-02")
    assert (found.gold, found.cpu, found.page, found.full_size) == (None, None, [], None)
    text = render(Figures(measured=[found]))
    assert "Not measured on this machine yet." in text
    assert "legal with the adapter of examples/adapters: " in text


def test_what_was_measured_before_of_the_same_package_stays(case: Case, rows: Rows) -> None:
    before = figures_of(case, rows, 2, "2026-01-02")
    bare = before.model_copy(update={"cpu": None, "gold": None, "page": [], "load": []})
    assert bare.after(before) == before
    other = bare.model_copy(update={"package": "other"})
    assert other.after(before) == other


def test_the_document_has_them(case: Case, rows: Rows) -> None:
    text = render(Figures(measured=[figures_of(case, rows, 2, "2026-01-02")]))
    for cells in ("5 → 2 s", "3 (60.0 %)", "6 → 3", "13–76", "1 of 1", "0.125", "18 s", "40.0 %"):
        assert cells in text, cells


def test_a_near_tie_is_less_apart_than_its_reading_moves() -> None:
    about = {"record": "r", "same_value": False, "place": 3, "asked": True}
    margins = {"forced": 0.1, "stepwise": -0.1, "float32": 0.05}
    assert Parting(**about, margins=margins).near_tie
    apart = {"forced": 2.0, "stepwise": 1.9, "float32": 1.95}
    assert not Parting(**about, margins=apart).near_tie
    assert not Parting(**{**about, "asked": False}, margins=margins).near_tie


def test_the_page_in_docs_is_of_the_figures_kept_beside_it() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(read_figures())


def test_a_package_is_named_as_it_should_be(tmp_path: Path) -> None:
    for text in ("legal=x", f"legal/embedded={tmp_path}"):
        with pytest.raises(UserError, match="DOMAIN/RUNG=FOLDER"):
            given(text)
