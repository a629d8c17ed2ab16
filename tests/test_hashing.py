"""A hash is remembered exactly as long as nothing about the file has changed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base import hashing
from shared.base.files import link_or_copy
from shared.base.hashing import NotDone, forget_hashes, only_what_is_done, sha256_file
from shared.base.stage import Plan, Produced, run_stage
from tests.stand_ins import take_any_architecture

SIZE = hashing.REMEMBER_FROM_BYTES


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(hashing, "_written", {})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes were really read, in order."""
    names: list[str] = []
    digest = hashing._digest

    def counting(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(hashing, "_digest", counting)
    return names


def large(path: Path, filling: bytes = b"a") -> Path:
    """A file over the limit that was written a moment ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(filling * SIZE)
    time.sleep(3 * hashing.TICK_NS / 1e9)
    return path


class TestTheMemory:
    def test_spares_the_second_reading(self, tmp_path: Path, read: list[str]) -> None:
        file = large(tmp_path / "w")
        assert sha256_file(file) == sha256_file(file)
        assert read == ["w"]

    def test_holds_across_a_rename_of_the_folder(self, tmp_path: Path, read: list[str]) -> None:
        sha256_file(large(tmp_path / "a" / "w"))
        (tmp_path / "a").rename(tmp_path / "b")
        sha256_file(tmp_path / "b" / "w")
        assert read == ["w"]

    def test_sees_a_change_that_keeps_size_and_mtime(self, tmp_path: Path) -> None:
        """As an archive does that restores times; and the inode stays, since the file is reused."""
        file = large(tmp_path / "w")
        before, status = sha256_file(file), file.stat()
        large(file, b"b")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert file.stat().st_mtime_ns == status.st_mtime_ns
        assert sha256_file(file) != before

    def test_takes_nothing_that_was_written_within_the_clocks_tick(
        self, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hashing, "TICK_NS", 60_000_000_000)
        file = large_now(tmp_path / "w")
        sha256_file(file), sha256_file(file)
        assert read == ["w", "w"]

    def test_takes_nothing_that_changed_while_it_was_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = large(tmp_path / "w")
        digest = hashing._digest

        def disturbed(path: Path) -> str:
            found = digest(path)
            path.write_bytes(b"c" * SIZE)
            return found

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(hashing, "_digest", disturbed)
            stale = sha256_file(file)
        assert sha256_file(file) != stale

    def test_is_emptied_by_rehash(self, tmp_path: Path, read: list[str]) -> None:
        file = large(tmp_path / "w")
        sha256_file(file)
        forget_hashes()
        sha256_file(file)
        assert read == ["w", "w"]

    def test_that_is_broken_costs_time_and_nothing_else(self, tmp_path: Path) -> None:
        broken = tmp_path / "root" / "build" / "hashes.sqlite"
        broken.parent.mkdir(parents=True)
        broken.write_bytes(b"no database" * 100)
        file = large(tmp_path / "w")
        assert sha256_file(file) == sha256_file(file)

    def test_is_carried_across_a_hard_link(self, tmp_path: Path, read: list[str]) -> None:
        file = large(tmp_path / "w")
        sha256_file(file)
        link_or_copy(file, tmp_path / "linked")
        assert sha256_file(tmp_path / "linked") == sha256_file(file)
        assert read == ["w"]

    def test_is_not_carried_where_it_was_stale(self, tmp_path: Path, read: list[str]) -> None:
        file = large(tmp_path / "w")
        sha256_file(file)
        large(file, b"d")
        link_or_copy(file, tmp_path / "linked")
        sha256_file(tmp_path / "linked")
        assert read == ["w", "linked"]


def large_now(path: Path) -> Path:
    path.write_bytes(b"a" * SIZE)
    return path


class TestAskingOnlyForWhatIsDone:
    def test_reads_no_large_file(self, tmp_path: Path) -> None:
        with only_what_is_done(), pytest.raises(NotDone):
            sha256_file(large(tmp_path / "w"))

    def test_starts_no_stage_and_gives_back_a_finished_one(self) -> None:
        plan = Plan("demo", inputs={})
        with only_what_is_done(), pytest.raises(NotDone):
            run_stage(plan, lambda work: Produced())
        run_stage(plan, lambda work: Produced())
        with only_what_is_done():
            assert run_stage(plan, lambda work: Produced()).reused


def test_a_build_and_its_package_hash_what_they_write_while_they_write_it(
    tiny: Callable[[str], Path], tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From quantiser to package: no large file is read to be hashed, none is copied."""
    from shared.base import paths
    from shared.domain.domain import load_domain
    from shared.pipeline.chain import run_chain
    from shared.pipeline.stages import Options

    root = tmp_path / "root"
    shutil.copytree(paths.REPOSITORY / "domains" / "legal", root / "domains" / "legal")
    take_any_architecture(root / "domains" / "legal")
    shutil.copytree(tiny("qwen2"), root / "models" / "legal" / "merged")
    time.sleep(3 * hashing.TICK_NS / 1e9)
    walked = run_chain(load_domain("legal"), Options(rung="smollm3", until="package"))
    large_ones = [n for n in read if "_data" in n or n.endswith(".safetensors")]
    assert large_ones == ["model.safetensors"]
    records = walked.manifests["package"].outputs
    for dtype in ("q4f16", "q4"):
        packaged = walked.package / "onnx" / f"model_{dtype}.onnx_data"
        built = walked.stages["build"].folder / packaged.name
        assert packaged.stat().st_ino == built.stat().st_ino
        assert records[f"onnx/{packaged.name}"].sha256 == hashing._digest(packaged)
