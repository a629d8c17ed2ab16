"""The page's tokens are the check's: one prompt, one grammar, one ending, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.forced import cpu, page
from benchmarks.forced.figures import FORCED, STEPWISE, figures_of
from benchmarks.forced.rows import Case, Rows
from benchmarks.page_answers import DOMAINS, Asked, Judge, compare, small_package, table
from shared.domain.domain import load_domain
from shared.evaluate.systems import MODES

STEPS, TOKENS = 12, 24


@pytest.fixture(scope="module")
def small(new_folder: Callable[[str], Path]) -> Path:
    """A package whose model was trained for a few steps: its answers need not be good, but end."""
    return small_package(new_folder("small") / "world", STEPS, None)


@pytest.mark.slow
def test_in_every_domain_free_and_held_to_the_schema(small: Path) -> None:
    found = compare(small, 1, TOKENS, ending=TOKENS // 2)
    assert set(found) == {(domain, mode) for domain in DOMAINS for mode in MODES}
    assert [key for key, count in found.items() if not count["same"]] == []
    assert all(found[domain, "free"]["ended"] for domain in DOMAINS)
    assert not any(count["arithmetic"] or count["other"] for count in found.values())
    assert table(found).count("\n") == 1 + len(found)


@pytest.mark.slow
def test_and_one_read_otherwise_is_told_from_one_rounded_otherwise(small: Path) -> None:
    legal = load_domain("legal")
    judge = Judge.of(small)
    prompt = judge.model.chat.prompt_ids(legal.prompt, legal.records[0].input)
    ids = judge.model.answer(prompt, 6).output_ids
    one = Asked("legal", "free", legal.records[0].input, prompt, ids, judge.model.stop)
    said = {"prompt": prompt, "ids": ids}
    assert judge.verdict(one, said, legal) == "same"
    assert judge.verdict(one, said | {"ids": [*ids, 5]}, legal) == "other", "it ended too late"
    assert judge.verdict(one, said | {"prompt": prompt[1:]}, legal) == "other"
    assert judge.verdict(one, said | {"ids": ids[:-1]}, legal) == "other", "it ended too early"
    other = [*ids[:-1], ids[-1] + 1]
    assert judge.verdict(one, said | {"ids": other}, legal) == "other"
    rounded = replace(one, ids=other)
    assert judge.verdict(rounded, said, legal) == "arithmetic"


@pytest.mark.slow
def test_forced_text_runs_the_model_less_and_no_run_needs_more_buffers_at_depth(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Case, "limit", 48)
    case, rows = Case(load_domain("contracts"), "embedded", small), Rows(tmp_path / "rows.jsonl")
    cpu.measure(case, rows, 1)
    page.measure(case, rows, "webgpu", {FORCED: 1, STEPWISE: 1})
    (found,) = figures_of(case, rows, 1, "2026-01-02").page
    assert found.against and found.against.same_ids == found.against.answers == 1
    assert found.runs[FORCED] < found.runs[STEPWISE]
    assert found.dispatches[FORCED] < found.dispatches[STEPWISE]
    assert found.buffers_late[STEPWISE] == found.buffers_a_run[STEPWISE] <= 1
    assert found.buffers[FORCED] <= found.buffers[STEPWISE]
    assert found.plain_buffers[-1] > found.buffers_a_run[STEPWISE], "a cache that grows"
