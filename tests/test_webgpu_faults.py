"""Each way to fail in the browser has an outcome of its own and a sentence, and leaves no process."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.base.manifest import Manifest
from shared.base.processes import runs
from shared.base.stage import StageResult
from shared.domain.domain import load_domain
from shared.evaluate.models.onnx import OnnxDecoder
from shared.pipeline import one_domain as pipeline
from shared.pipeline.stages import Options
from shared.release.model import ChainResult
from shared.webgpu_bench import chromium, driver, layers, parity, server
from shared.webgpu_bench.parity import Batching, Comparison
from shared.webgpu_bench.result import BrowserResult
from shared.webgpu_bench.stage import bench_stage
from tests.events import wait_until
from tests.spoil import copied, scale_tensor
from tests.test_webgpu_page import ask, browser

__all__ = ["browser"]
pytestmark = pytest.mark.slow

ROWS = [[(7919 * (i + 1) * (row + 3)) % 40_000 + 100 for i in range(33)] for row in range(3)]
HOW = Batching(99, batch=2, piece=31, longest=33)


TENTH_BUFFER = """{
  let count = 0;
  const create = GPUDevice.prototype.createBuffer;
  GPUDevice.prototype.createBuffer = function (...given) {
    count += 1;
    if (count === 10) { %s; }
    return create.apply(this, given);
  };
}"""


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    """Whatever ran beneath this process meanwhile is gone, also what lost its parent on the way."""
    before, seen = set(_beneath()), set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            seen.update(_beneath())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield
    ended.set()
    watcher.join()
    assert seen - before, "a browser was there"
    mine = (seen | set(_beneath())) - before
    wait_until(lambda: not any(runs(process) for process in mine), ceiling=60)


def _beneath() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


def read(package: Path, browser: Path, **more: Any) -> BrowserResult:
    given = parity.request(ROWS, HOW)
    return ask(package, browser, parity=given, placement=False, **more)


def compared_with_the_cpu(package: Path, result: BrowserResult) -> Comparison:
    assert result.parity
    model = OnnxDecoder(package / "onnx" / "model_q4.onnx", exact=True)
    return parity.compare(model, ROWS, result.parity)


def benched(package: Path, monkeypatch: pytest.MonkeyPatch) -> pipeline.Result:
    """`./inv bench` on a package that is there."""
    domain = load_domain("legal")
    bench = bench_stage(domain, StageResult(package, Manifest.read(package), reused=True))
    walked = ChainResult(domain, [], domain.chain.rung[0], stages={"bench": bench})
    monkeypatch.setattr(pipeline, "run_chain", lambda *_: walked)
    return pipeline.run_until("legal", Options(until="bench"))


class TestTheParityGate:
    def test_passes_the_file_that_both_read(self, browser: Path, package: Path) -> None:
        result = read(package, browser)
        assert (result.outcome, result.error) == ("ok", None)
        found = compared_with_the_cpu(package, result)
        assert len(found.agreement) == 99
        assert found.agreement.mean() == 1
        assert found.divergence.mean() < 1e-7 and found.error.max() < 2e-5
        assert result.gpu.live_bytes_after_dispose == 0

    def test_fails_a_browser_with_one_layers_scales_doubled(
        self, root: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the stage and its gates, and by what the command says in the end."""
        spoilt = copied(package, tmp_path / "m")
        scale_tensor(spoilt, "q4", "model.layers.1.mlp.down_proj.weight_scales", 2)
        real, by_layers = driver.run_in_browser, layers.compare_layers
        monkeypatch.setattr(driver, "run_in_browser", lambda _, *a, **k: real(spoilt, *a, **k))
        monkeypatch.setattr(
            layers, "compare_layers", lambda *a, **k: by_layers(*a, **k, served=spoilt)
        )
        result = benched(package, monkeypatch)
        assert result.chain
        failed = [g.name for g in result.chain.gates if g.outcome == "fail"]
        assert failed[0] == "every layer computes what the CPU does, float32"
        assert re.search(r"layer 1 differs by \d", str(result.error)), "the layer is named"
        assert "WebGPU logits are the CPU's, float32" in failed
        assert "WebGPU KL divergence from the CPU, float32" in failed
        assert "node placement is known" not in failed
        assert not result.ok and failed[0] in str(result.error)

    def test_and_all_others_pass_the_right_file(
        self, root: Path, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = benched(package, monkeypatch)
        assert result.chain and result.error is None
        unmeasured = {g.name for g in result.chain.gates if g.outcome != "pass"}
        assert unmeasured == {
            "decode speed",
            "WebGPU top-1 agreement with the CPU",
            "WebGPU KL divergence from the CPU",
        }

    def test_keeps_what_was_read_when_the_time_is_up(self, browser: Path, package: Path) -> None:
        result = read(package, browser, prompts=[], deadline_ms=1)
        assert result.outcome == "ok"
        assert result.parity is not None and result.parity.pieces == []


class TestFaults:
    def test_no_adapter(
        self, browser: Path, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quiet = tuple(flag for flag in chromium.QUIET if "unsafe-webgpu" not in flag)
        monkeypatch.setattr(chromium, "QUIET", quiet)
        result = ask(package, browser)
        assert result.outcome == "no_webgpu"
        assert result.error == "this browser offers no WebGPU adapter"

    def test_no_shader_f16(self, browser: Path, package: Path) -> None:
        result = ask(package, browser, dtype="q4f16")
        assert result.outcome in ("load_failed", "run_failed")
        assert "f16" in str(result.error)

    def test_a_truncated_file(self, browser: Path, package: Path, tmp_path: Path) -> None:
        spoilt = copied(package, tmp_path / "m")
        data = spoilt / "onnx" / "model_q4.onnx_data"
        content = data.read_bytes()
        data.unlink()
        data.write_bytes(content[: len(content) // 2])
        result = ask(spoilt, browser)
        assert result.outcome == "load_failed"
        assert result.error

    def test_a_file_served_too_slowly(
        self, browser: Path, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send, over = server._Handler._send_file, threading.Event()

        def slowly(handler: Any, file: Path) -> None:
            if file.suffix == ".onnx_data":
                over.wait()
            send(handler, file)

        monkeypatch.setattr(server._Handler, "_send_file", slowly)
        result = ask(package, browser, timeout_s=6)
        over.set()
        assert result.outcome == "timeout"
        assert "did not answer in time" in str(result.error)

    @pytest.mark.parametrize("body", ["new Promise(() => {})", "{ while (true); }"])
    def test_a_page_that_never_answers(
        self,
        browser: Path,
        package: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        body: str,
    ) -> None:
        page = Path(shutil.copytree(driver.PAGE, tmp_path / "page"))
        (page / "driven.js").write_text(f"export const run = () => {body};")
        monkeypatch.setattr(driver, "PAGE", page)
        monkeypatch.setattr(driver, "GRACE_SECONDS", 2)
        result = ask(package, browser, timeout_s=4)
        assert result.outcome == "timeout"
        assert result.error == "the page did not answer in time; the browser was ended"

    @pytest.mark.parametrize(
        ("injected", "words"),
        [
            ("throw new RangeError('Array buffer allocation failed')", "allocation failed"),
            (
                "this.dispatchEvent(new GPUUncapturedErrorEvent('uncapturederror', "
                "{ error: new GPUOutOfMemoryError('no room for it') }))",
                "no room for it",
            ),
        ],
    )
    def test_memory_that_is_used_up(
        self,
        browser: Path,
        package: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        injected: str,
        words: str,
    ) -> None:
        """The tenth buffer is not to be had: an exception of the browser's, or the device's error."""
        page = Path(shutil.copytree(driver.PAGE, tmp_path / "page"))
        script = page / "gpu_budget.js"
        script.write_text(f"{TENTH_BUFFER % injected}\n{script.read_text()}")
        monkeypatch.setattr(driver, "PAGE", page)
        result = ask(package, browser, placement=False)
        assert result.outcome == "out_of_memory"
        assert "there is not enough memory" in str(result.error) and words in str(result.error)

    def test_a_page_that_fails_outside_of_itself_is_told_at_once(
        self, browser: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = Path(shutil.copytree(driver.PAGE, tmp_path / "page"))
        (page / "driven.js").write_text("export const run = async () => { throw Error('oh'); };")
        monkeypatch.setattr(driver, "PAGE", page)
        result = ask(package, browser, timeout_s=60)
        assert (result.outcome, result.error) == ("run_failed", "Error: oh")

    def test_a_software_adapter_where_a_gpu_is_wanted(self, browser: Path, package: Path) -> None:
        result = ask(package, browser, hardware_only=True)
        assert result.outcome == "no_webgpu" and result.software_adapter
        assert result.error == "this browser offers a software adapter only"

    def test_a_budget_that_is_too_small_for_the_reading(self, browser: Path, package: Path) -> None:
        result = read(package, browser, prompts=[], budget_bytes=1_000_000)
        assert result.outcome == "out_of_budget"
        assert "the budget is 1000000" in str(result.error)
