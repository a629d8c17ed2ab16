"""docs/full-size.md's tables of full-size models: what a stage was told to take, took, and proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import build_report, full_size_release
from benchmarks.full_size_release import AtSize, Read, Took
from shared.base.files import write_json
from shared.base.manifest import Measurement


def record(architecture: str, **measured: Measurement) -> AtSize:
    took = Took(told_seconds=60, told_bytes=2e9, seconds=90, peak_bytes=3_000_000_000)
    stages = {"build": took} | ({"check": took} if architecture == "Aya" else {})
    return AtSize(
        model="a/b", architecture=architecture, parameters=3_100_000_000, taken="2026-01-02",
        adapter="Soft", note="alone", stages=stages, measured=measured,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(full_size_release, "FOLDER", tmp_path)
    return tmp_path


def cells(row: str) -> list[str]:
    found = next(ln for ln in full_size_release.section().splitlines() if ln.startswith(f"| {row}"))
    return [cell.strip() for cell in found.split("|")[2:-1]]


def test_each_figure_stands_beside_what_was_told_and_what_was_not_measured_says_why(
    folder: Path,
) -> None:
    found = {
        "parity_logits_error": Measurement(value=1.3e-5, unit="relative", n=120),
        "layers_agree": Measurement(value=False, unit="yes/no", reason="layer 17 differs"),
        "load_seconds": Measurement(value=None, unit="s", reason="no time"),
    }
    for one in (record("Aya", **found), record("Bee")):
        write_json(folder / f"{one.architecture}.json", one.model_dump())
    told = "1 min 30 s (1 min 0 s); 3.000 GB (2.000 GB)"
    assert cells("build") == [told, told]
    assert cells("check") == [told, "not run"]
    assert cells("positions") == ["120", "not measured"]
    assert cells("logits") == ["1.3e-05", "not measured"]
    assert cells("every layer") == ["no: layer 17 differs", "not measured"]
    assert cells("loads in") == ["not measured: no time", "not measured"]
    assert "Longer texts: not measured." in full_size_release.section()
    assert "*Aya*: 3.1 billion values; Soft; 2026-01-02; alone" in full_size_release.section()


def test_longer_texts_stand_in_a_table_of_their_own(
    folder: Path,
) -> None:
    one = record("Aya")
    one.reads = [Read(tokens=40, seconds=251.6, error=9e-6, divergence=4e-13, agreement=1)]
    write_json(folder / "Aya.json", one.model_dump())
    assert cells("40 tokens") == ["Aya", "252", "9.00e-06", "4.00e-13", "1"]


def test_without_a_record_the_page_says_that_none_was_kept(folder: Path) -> None:
    assert "Not measured: no record of it was kept yet." in build_report.document([], {})
