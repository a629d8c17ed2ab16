"""The records of real releases that README.md's table of what it takes is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import findings, release_record
from shared.base.errors import UserError
from shared.base.manifest import Manifest, Measurement
from shared.pipeline.one_domain import write_attempts
from shared.release.model import Attempt, release_folder

CARD = "---\nlicense: mit\n---\n\n# A model\n\n**It is one.**\n\n| a |\n|---|\n\n## Use it\n\nSo.\n"
STAGES = {"source": 1.0, "build": 60.0, "package": 1.0, "check": 120.0, "bench": 30.0}


def manifest(stage: str, seconds: float) -> Manifest:
    measured = {
        "source": {"parameters": Measurement(value=3_000_000_000, unit="parameters")},
        "package": {"q4f16_bytes": Measurement(value=1_747_000_000, unit="B")},
    }
    return Manifest(
        stage=stage, key="k", inputs={}, settings={}, tools={}, outputs={},
        measurements=measured.get(stage, {}), facts={"adapter": {"description": "Some GPU"}},
        wall_seconds=seconds, peak_rss_bytes=int(seconds * 1e8), finished="2026-01-02T03:04:05",
        unfinished="a part" if stage == "bench" else None,
    )  # fmt: skip


@pytest.fixture
def records(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world in which legal was released, and an empty folder of records."""
    for stage, seconds in STAGES.items():
        folder = root / "build" / stage / "k"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(manifest(stage, seconds).model_dump_json())
    taken = {"rung": "r", "exporter": "olive", "source": "s", "base": "acme/Base", "reason": ""}
    keys = dict.fromkeys(STAGES, "k")
    attempt = Attempt.model_validate(taken | {"outcome": "taken", "stage": "gates", "keys": keys})
    write_attempts("legal", [attempt])
    release_folder("legal").mkdir(parents=True)
    (release_folder("legal") / "README.md").write_text(CARD)
    monkeypatch.setattr(release_record.paths, "REPOSITORY", root)
    monkeypatch.setattr(release_record, "FOLDER", root / "records")
    (root / "records").mkdir()
    return root / "records"


def row(name: str) -> list[str]:
    lines = release_record.cost_table().splitlines()
    found = next(ln for ln in lines if ln.startswith(f"| {release_record.ROWS[name]} "))
    return [cell.strip() for cell in found.split("|")[2:-1]]


def test_a_record_is_read_from_the_manifests_of_the_rung_that_was_taken(
    root: Path, records: Path
) -> None:
    release_record.keep("full-size", "legal", root, "on a Sunday")
    seconds, build, answers, browser, memory, _, download = row("full-size")
    assert (seconds, build, answers, browser) == ("3 min 32 s", "1 min 0 s", "2 min 0 s", "30 s")
    assert (memory, download) == ("12.000 GB", "1.747 GB")
    below = release_record.cost_table().splitlines()[-1]
    for words in ("acme/Base, 3 billion", "Some GPU", "2026-01-02; on a Sunday", "time: a part."):
        assert words in below
    assert "card" not in json.loads((records / "full-size.json").read_text())


def test_what_has_no_record_is_not_measured_and_says_why(records: Path) -> None:
    assert row("full-size-gpu")[0].startswith("not measured: no release of such a model")
    assert release_record.card_quote().startswith("> not measured: ")


def test_the_examples_card_is_quoted_to_where_it_says_how_it_is_used(
    root: Path, records: Path
) -> None:
    release_record.keep("example", "legal", root)
    assert release_record.card_quote() == "> **It is one.**\n>\n> | a |\n> |---|"


def test_the_set_up_is_what_inv_said_of_it(root: Path, records: Path) -> None:
    with pytest.raises(UserError, match="no set-up was finished here"):
        release_record.keep("set-up", "", root)
    (root / ".venv").mkdir()
    (root / ".venv" / "setup.log").write_text("$ python -m venv\n\nset up in 65 s\n")
    release_record.keep("set-up", "", root)
    assert row("set-up")[:2] == ["1 min 5 s", ""]


def test_a_file_with_two_names_takes_its_disk_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    before = release_record.on_disk(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert release_record.on_disk(tmp_path) == before > 0


@pytest.mark.parametrize("words", [("nope", "legal"), ("example", "medical")])
def test_what_cannot_be_kept_is_one_sentence(
    root: Path, records: Path, words: tuple[str, str]
) -> None:
    with pytest.raises(UserError, match=r"no such record|nothing was released here"):
        release_record.keep(*words, root)


class TestFindings:
    TABLES = (
        "# tax: a model\n\n| figure | value |\n|---|---|\n| same likeliest token | 80 % |\n\n"
        "Held to the schema:\n\n| | base, no prompt | 4-bit release |\n|---|---|---|\n"
        "| field score | 10.0 % (8–12 %, n = 9) | 8.0 % (1–9 %, n = 9) |\n\nPair by pair:\n\n"
        "| on the same records | metric | difference | in a word |\n|---|---|---|---|\n"
        "| release − parent, constrained | field score | -2 points | worse |\n\n"
        "## Public records\n\nHeld to the schema:\n\n| | base |\n|---|---|\n| field score | 99 % |\n"
    )

    def test_are_read_from_the_tables_of_our_own_records(self, tmp_path: Path) -> None:
        (tmp_path / "tax-embedded.md").write_text(self.TABLES)
        page = findings.read_page(tmp_path / "tax-embedded.md")
        assert page.cell(findings.FIDELITY, "same likeliest token", "value") == "80 %"
        assert page.cell(findings.HELD, "field score", "base") == "10.0 %"
        told = findings.findings(tmp_path)
        assert "of 1: the 4-bit release is worse than its 16-bit parent in 1" in told
        assert "[tax: a model](measured/tax-embedded.md)" in told and "99 %" not in told

    def test_refuse_another_page(self, tmp_path: Path) -> None:
        (tmp_path / "x.md").write_text("# Words\n")
        with pytest.raises(UserError, match="no page that"):
            findings.findings(tmp_path)
