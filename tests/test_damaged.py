"""What is damaged, linked elsewhere or of another version: a sentence, and nothing else is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.base.errors import UserError
from shared.base.files import free_disk, swap_in
from shared.base.hashing import sha256_file
from shared.cli.brought import weights_found
from shared.cli.program import Program
from shared.cli.release import _show_dry_run
from shared.cli.summary import inputs_report, status
from shared.evaluate.compare import read_checked
from shared.pipeline.quality import quality_of
from shared.pipeline.site import need_own
from shared.pipeline.stages import Options
from shared.pipeline.tune.report import need_block
from shared.pipeline.tune.tune import load_recipes
from shared.release.card.recipe import report_file
from shared.release.model import CARD_FILE
from shared.setup import doctor
from tasks import namespace
from tests.adapters import Tiny
from tests.test_status import released


def run(*words: str) -> int:
    """`./inv …` in this process: its exit code."""
    try:
        Program(namespace).run(["inv", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_doctor_tells_of_a_broken_folder_and_of_all_other_rungs(
    root: Path, few: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    merged = root / "models" / "legal" / "merged"
    shutil.copytree(few("smollm3"), merged)
    (merged / "config.json").write_text("{")
    report, _ = inputs_report("legal")
    assert "not taken" in report and "config.json" in report
    assert "phi3-mini" in report and "embedded" in report


def test_a_dry_run_of_all_domains_goes_on_after_one_that_cannot_be_read(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "domains" / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        _show_dry_run(["empty", "legal"], Options())
    assert "legal\n" in capsys.readouterr().out


def test_a_bench_of_all_in_which_nothing_was_measured_leaves_the_reports(root: Path) -> None:
    report = root / "build" / "reports" / "bench-all.html"
    report.parent.mkdir(parents=True)
    report.write_text("of yesterday")
    assert run("bench-all", "--rung", "smolm3") == 1
    assert report.read_text() == "of yesterday"


def test_the_domains_are_listed_beside_one_that_cannot_be_read(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "domains" / "empty").mkdir()
    assert run("domains") == 1
    said = capsys.readouterr()
    assert "legal" in said.out and "empty" in said.err


class TestAReleaseFolderThatIsALink:
    @pytest.fixture
    def linked(self, root: Path, tmp_path: Path) -> Path:
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "file").write_text("theirs")
        folder = root / "models" / "legal" / "webgpu"
        folder.parent.mkdir(parents=True)
        folder.symlink_to(tmp_path / "disk")
        return folder

    def test_is_replaced_as_often_as_there_is_a_release(self, linked: Path) -> None:
        for number in range(3):
            work = linked.with_name(f".work{number}")
            work.mkdir()
            (work / "number").write_text(f"{number}")
            swap_in(work, linked)
            assert (linked / "number").read_text() == f"{number}"
        assert [path.name for path in linked.parent.iterdir()] == ["webgpu"]

    def test_is_cleaned_and_what_it_links_to_stays(self, linked: Path, tmp_path: Path) -> None:
        assert run("clean", "--releases") == 0
        assert not linked.is_symlink() and (tmp_path / "disk" / "file").read_text() == "theirs"


def test_clean_deletes_nothing_where_no_domains_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "build").mkdir()
    monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path))
    assert run("clean") == 1 and (tmp_path / "build").is_dir()


@pytest.mark.parametrize("broken", ["published.json", CARD_FILE])
def test_the_status_lists_the_rest_beside_a_damaged_file(root: Path, broken: str) -> None:
    released(root)
    folder = root / "models" / "legal"
    file = folder / "webgpu" / broken if broken == CARD_FILE else folder / broken
    file.write_bytes(b"\xff{}")
    told = status(["legal"])
    assert broken in told.replace("\n", "") or broken.split(".")[0] in told
    assert "exports without errors" in told


def test_a_check_of_another_version_is_a_sentence(root: Path) -> None:
    folder = root / "build" / "check" / "k"
    folder.mkdir(parents=True)
    for name, text in (("manifest.json", "{}"), ("answers.jsonl", ""), ("records.jsonl", "")):
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=r"legal: its check in .* is of another version"):
        read_checked("k", "legal")


def test_a_report_of_tune_that_was_cut_short_is_passed_over(root: Path) -> None:
    file = report_file("legal", "smollm3")
    file.parent.mkdir(parents=True)
    file.write_text('{"domain": "le')
    assert quality_of("legal").recipes == {}


def test_tune_takes_spaces_between_recipes_and_looks_at_its_document_first(root: Path) -> None:
    assert [r.name for r in load_recipes("default, calibrated")] == ["default", "calibrated"]
    with pytest.raises(UserError, match=r"--document: page\.md has"):
        need_block(root / "page.md", "legal", "smollm3")


class TestTheDoctor:
    def test_takes_packages_that_npm_was_killed_over_for_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doctor, "BENCH", tmp_path)
        (tmp_path / "node_modules").mkdir()
        (tmp_path / "package-lock.json").write_text('{"packages": {}}')
        (tmp_path / "node_modules" / ".package-lock.json").write_text("")
        assert doctor._node_modules().found == "not wholly installed"

    def test_asks_no_network_for_a_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_OIDC_RESOURCE", "acme/models")
        monkeypatch.setattr("huggingface_hub.get_token", lambda: pytest.fail("it asked"))
        assert doctor._token().state == "ok"

    def test_names_the_weights_that_a_rung_takes_and_no_others(self, root: Path) -> None:
        other = root / "models" / "legal" / "adapter"
        other.mkdir(parents=True)
        (other / "adapter_model.safetensors").touch()
        assert [f.found for f in weights_found()] == ["none: falls back"]
        mine = root / "models" / "legal" / "phi3-mini"
        mine.mkdir()
        (mine / "model.safetensors").touch()
        assert [f.found for f in weights_found()] == ["models/legal/phi3-mini"]


def test_a_site_with_somebodys_own_file_among_the_models_is_not_replaced(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "models" / "legal").mkdir(parents=True)
    told = {"version": 1, "worker": "sw.js", "files": [], "models": [{"model": "legal"}]}
    (site / "manifest.json").write_text(json.dumps(told))
    (site / "models" / "legal" / "config.json").write_text("{}")
    need_own(site)
    (site / "models" / "mine.json").write_text("{}")
    with pytest.raises(UserError, match=r"mine\.json is not of the site"):
        need_own(site)


def test_a_root_that_cannot_be_written_to_costs_time_and_not_the_hash(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(30, "Read-only file system")

    (root / "large").write_bytes(b"x" * 2**21)
    monkeypatch.setattr("shared.base.hashing._memory", refuse)
    assert len(sha256_file(root / "large")) == 64


def test_free_disk_is_of_the_fullest_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"models": 5, "build": 7}
    for name in free:
        (root / name).mkdir(exist_ok=True)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda place: SimpleNamespace(free=free.get(place.name, 9))
    )
    assert free_disk() == 5
