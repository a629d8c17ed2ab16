"""The benchmarks run, with small inputs; how fast anything is stands in docs/, not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from benchmarks.build_report import CALIBRATED, OURS, STOCK, Build, document
from benchmarks.build_report import render as build_table
from benchmarks.full_size import ARCHITECTURES, cut
from benchmarks.scaling import CLUSTER, WAYS, Report, Run, bench_scaling, render
from benchmarks.worlds import SHAPE, disk_floor, make_world, read_at_most
from tests.stand_ins import keep_first, share_embedded
from tests.tiny import FEW_TOKENS, first_tokens


def make_little_world(root: Path, count: int) -> Path:
    """The benchmark's domains with smaller models, of which less is read: what runs is the same."""
    fewer = {"hidden_size": 64, "intermediate_size": 160, "vocab_size": FEW_TOKENS}
    fewer |= {"num_hidden_layers": 2}
    make_world(root, count, SHAPE | fewer)
    for domain in (root / "domains").glob("*/"):
        tokenizer = root / "models" / domain.name / "merged" / "tokenizer.json"
        tokenizer.write_text(first_tokens(tokenizer.parent, FEW_TOKENS))
        keep_first(domain / "calibration.jsonl", 2)
        keep_first(domain / "eval.jsonl", 40)
        read_at_most(domain, 64)
    return root


@pytest.mark.slow
def test_scaling_runs_every_way_and_writes_its_document(
    tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_embedded(tmp_path)
    monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path))
    document = tmp_path / "performance.md"
    report = bench_scaling(
        (1,),
        3_000_000,
        document,
        floor_bytes=1 << 25,
        make_world=make_little_world,
        until="source",
    )
    assert {run.way for run in report.runs} == {*WAYS, CLUSTER}
    assert all(run.seconds > 0 and run.peak_rss_bytes > 1e8 for run in report.runs)
    assert len(report.unchanged) == 3
    text = document.read_text()
    assert report.machine in text and "| domains" in text


def test_the_document_shows_the_numbers_of_the_report_and_no_others() -> None:
    run = Run(way="one after the other", domains=4, seconds=12.345, peak_rss_bytes=1_500_000_000)
    again = run.model_copy(update={"way": "unchanged release-all", "seconds": 0.75})
    report = Report(
        machine="2 cores",
        load_before=0.1,
        taken="2026-01-02",
        write_bytes_per_second=5e8,
        read_bytes_per_second=1.6e9,
        runs=[run],
        unchanged=[again],
        unchanged_source_bytes=6_150_000_000,
        profile={"phi3": {"write both files": 3.21}},
    )
    text = render(report)
    for words in ("12.3 s, 1.500 GB", "0.75 s", "6.150 GB", "2 cores", "write both files", "3.2 s"):
        assert words in text
    assert "profiler" not in render(report.model_copy(update={"profile": {}}))


def test_the_document_says_which_way_was_faster_and_whether_the_budget_was_kept() -> None:
    alone = Run(way="one after the other", domains=4, seconds=10, peak_rss_bytes=10**9)
    both = alone.model_copy(
        update={"way": "--jobs 2", "seconds": 12.0, "peak_rss_bytes": 3 * 10**9}
    )
    report = Report(
        machine="2 cores",
        load_before=0.1,
        taken="2026-01-02",
        write_bytes_per_second=5e8,
        read_bytes_per_second=1.6e9,
        runs=[alone, both],
        unchanged=[alone],
        unchanged_source_bytes=1,
        budgeted=both,
        budget_bytes=2 * 10**9,
    )
    text = render(report)
    assert "**one after the other** was the fastest; --jobs 2 took 1.20 times as long." in text
    assert "held 3.000 GB at most, **over** it" in text
    kept = render(report.model_copy(update={"budget_bytes": 4 * 10**9}))
    assert "at most, within it" in kept


def test_the_floor_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    wrote, read = disk_floor(tmp_path, size=1 << 25)
    assert wrote > 0 and read > 0 and not list(tmp_path.iterdir())


def test_a_build_is_held_against_ours_of_the_same_model_and_a_failed_one_is_not() -> None:
    ours = Build(architecture="phi3", tool=OURS, seconds=60, peak_rss_bytes=10**9, bytes=2)
    stock = ours.model_copy(
        update={"tool": STOCK, "seconds": 150.0, "peak_rss_bytes": 20_000_000_000}
    )
    assert "150 s (2.5×)" in build_table([ours, stock])
    assert "20.000 GB (20.0×)" in build_table([ours, stock])
    assert "×" not in build_table([ours, stock.model_copy(update={"error": "KeyError"})])


def test_a_build_of_our_own_is_no_multiple_of_ours() -> None:
    ours = Build(architecture="phi3", tool=OURS, seconds=60, peak_rss_bytes=10**9, bytes=1234567)
    calibrated = ours.model_copy(update={"tool": CALIBRATED, "seconds": 1800.0})
    assert "×" not in build_table([ours, calibrated])
    assert "1,234,567" in build_table([ours, calibrated])


def test_the_full_size_document_says_where_the_time_goes_for_every_architecture() -> None:
    parts = {"phi3": {"quantise": 3.2, "hash": 1.0}, "smollm3": {"quantise": 4.5}}
    text = document([], parts)
    assert "| part" in text and "4.2 s" in text and "4.5 s" in text
    assert text.index("phi3") < text.index("smollm3")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_full_size_model_has_rows_for_every_token_of_its_tokenizer(
    architecture: str, embedded: Path
) -> None:
    rows = ARCHITECTURES[architecture][1]["vocab_size"]
    whole = json.loads((embedded / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(cut(whole, rows)))
    assert tokenizer.get_vocab_size() == min(rows, len(whole["model"]["vocab"]))
    text = '{"governing_law": "Ärger, naïve 漢字"}'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
