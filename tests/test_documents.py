"""Documents a minute: what the bench asks of a page on a GPU, and what it makes of the answers."""

from __future__ import annotations

import pytest

from shared.domain.domain import load_domain
from shared.webgpu_bench.documents import COUNT, NAMES, measurements, request
from shared.webgpu_bench.result import BrowserResult, Run


def answered(seconds: float, runs: int, stopped_by: str = "eos") -> Run:
    """A document whose first token came after a second and the last after `seconds`."""
    decode = [1000 * (seconds - 1) / 4] * 4
    about = {"id": "document-0", "prompt_tokens": 9, "model_runs": runs, "stopped_by": stopped_by}
    counted = {"output_ids": [1, 2, 3, 4], "dispatches": 80 * runs, "buffers": runs + 1}
    return Run.model_validate(about | counted | {"ttft_ms": 1000.0, "decode_ms": decode})


def result_of(*documents: Run, software: bool = False) -> BrowserResult:
    found = list(documents)
    return BrowserResult(outcome="ok", documents=found, software_adapter=software)


def test_the_median_is_over_the_documents_after_the_first() -> None:
    found = measurements(result_of(*(answered(s, r) for s, r in [(60, 9), (2, 5), (3, 6), (8, 7)])))
    values = {name: (one.value, one.n) for name, one in found.items()}
    assert values == {
        "seconds_per_document": (3, 3),
        "documents_per_minute": (20, 3),
        "model_runs_per_answer": (6, 3),
        "dispatches_per_token": (120, 3),
        "buffers_per_token": (1.75, 3),
        "warm_ttft_seconds": (1, 3),
        "cold_ttft_seconds": (1, 1),
    }
    assert {name: one.unit for name, one in found.items()} == NAMES


def test_an_answer_that_was_cut_short_by_the_time_is_left_out() -> None:
    cut = answered(4, 3, "deadline")
    found = measurements(result_of(answered(9, 9), answered(2, 5), cut))
    assert found["seconds_per_document"].samples == [2]
    alone = measurements(result_of(answered(9, 9), cut))["documents_per_minute"]
    assert alone.value is None and "fewer than two documents" in str(alone.reason)


def test_a_software_adapter_is_not_asked() -> None:
    found = measurements(result_of(software=True))
    assert all(one.value is None for one in found.values())
    assert "software adapter" in str(found["documents_per_minute"].reason)


@pytest.mark.parametrize("name", ["legal", "medical"])
def test_it_asks_the_domains_first_records_under_its_own_prompt_and_grammar(name: str) -> None:
    domain = load_domain(name)
    asked = request(domain, "m")
    assert asked["texts"] == [record.input for record in domain.records[:COUNT]]
    assert asked["system"] == domain.prompt.strip() and "root ::= " in asked["grammar"]
    assert asked["max_new_tokens"] == domain.chain.check.max_new_tokens
