"""`python -m benchmarks.native` as far as it goes without a GPU: its words, its job, its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import native as benchmark
from benchmarks.native import DTYPE, job_of, main, measure
from shared.base.errors import RungFailed
from shared.webgpu_bench.engines.job import EngineRun, Job
from tests.engine_rows import native as native_run
from tests.engine_rows import software


def test_a_model_is_wanted_and_one_only(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--arch", "smollm3", "--package", "x"]):
        with pytest.raises(SystemExit):
            main(words)
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--engine", "wasm"], ["--dtype", "int8"], ["--arch", "bloom"], ["--bandwidth", "x"]]
)
def test_a_word_that_is_none_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--package", "x", *words])


def test_a_folder_without_a_graph_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--package", str(tmp_path)]) == 1
    assert "onnx/model_q4.onnx: no such graph" in capsys.readouterr().err


class TestTheJob:
    def test_asks_all_the_points_and_few_of_a_software_adapter(self, tmp_path: Path) -> None:
        ids = {q["id"].split("/")[0] for q in job_of(tmp_path, "q4", 9, short=False).questions}
        assert ids == {"p128", "d0", "d512", "d2048"}
        [only] = job_of(tmp_path, "q4", 9, short=True).questions
        assert (len(only["input_ids"]), only["max_new_tokens"]) == (1, 4)

    def test_takes_a_package_or_a_bare_graph(self, tmp_path: Path) -> None:
        assert job_of(tmp_path, "q4", 9, short=True).graph == tmp_path / "onnx" / "model_q4.onnx"
        (tmp_path / "model.onnx").touch()
        assert job_of(tmp_path, "q4", 9, short=True).graph == tmp_path / "model.onnx"

    @pytest.mark.parametrize(("words", "dtype"), [([], "q4"), (["--dtype", "q4f16"], "q4f16")])
    def test_is_of_the_type_that_the_help_says(
        self, package: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], dtype: str
    ) -> None:
        assert DTYPE.startswith("q4f16 or q4; by default q4 with --package")
        seen: list[Job] = []
        monkeypatch.setattr(benchmark, "measure", lambda job, *_: seen.append(job))
        assert main(["--package", str(package), *words]) == 0
        assert seen[0].dtype == dtype


class TestTheTable:
    def table(
        self, package: Path, monkeypatch: pytest.MonkeyPatch, run: EngineRun, *more: Any
    ) -> str:
        monkeypatch.setitem(benchmark.ENGINES, "native", lambda job: run)
        return measure(job_of(package, "q4", 9, short=True), "native", *more)

    def test_gives_the_share_of_the_bandwidth_it_is_told(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = self.table(package, monkeypatch, native_run(), 100.0)
        assert "100 GB/s, as given" in text and "tg@d512" in text
        shares = [line for line in text.splitlines() if "tg@" in line and " % " in line]
        assert len(shares) == 3, "one for each depth: 0, 24 and 512"

    def test_says_that_a_software_adapter_proves_nothing(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = self.table(package, monkeypatch, software(), 100.0)
        assert "software adapter: says nothing about a GPU" in text


def test_a_run_on_the_cpu_in_the_gpus_name_is_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(job: Job) -> EngineRun:
        raise RungFailed("onnxruntime found no WebGPU adapter and would have run on the CPU")

    monkeypatch.setitem(benchmark.ENGINES, "native-webgpu", refuse)
    assert main(["--package", str(package), "--engine", "native-webgpu"]) == 1
    out, err = capsys.readouterr()
    assert "would have run on the CPU" in err and "tokens/s" not in out


@pytest.mark.slow
def test_it_runs_on_this_cpu(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--package", str(package), "--bandwidth", "1000", "--seconds", "2"]) == 0
    assert "tg@d0" in capsys.readouterr().out
