"""Each way to fail in the browser has an outcome of its own and a sentence, and leaves no process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.domain import load_domain
from shared.evaluate.forced import ForcedModel
from shared.webgpu_bench import chromium, driver, parity, server
from shared.webgpu_bench.parity import Compared, Reading
from shared.webgpu_bench.result import BrowserResult
from tests.spoil import copied, scale_tensor
from tests.test_webgpu_page import ask, browser

__all__ = ["browser"]
pytestmark = pytest.mark.slow

ROWS = [[(7919 * (i + 1) * (row + 3)) % 40_000 + 100 for i in range(33)] for row in range(3)]
HOW = Reading(99, batch=2, piece=31, longest=33)


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    """The harness's children are gone when it answers, whatever the answer was."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    until = time.monotonic() + 5
    while left := {c.pid for c in psutil.Process().children(recursive=True)} - before:
        assert time.monotonic() < until, [psutil.Process(pid).cmdline() for pid in left]
        time.sleep(0.1)


def read(package: Path, browser: Path, **more: Any) -> BrowserResult:
    given = parity.request(ROWS, HOW)
    return ask(package, browser, parity=given, placement=False, **more)


def held_against_the_cpu(package: Path, result: BrowserResult) -> Compared:
    assert result.parity
    model = ForcedModel(package / "onnx" / "model_q4.onnx", exact=True)
    return parity.compare(model, ROWS, result.parity)


class TestTheParityGate:
    def test_passes_the_file_that_both_read(self, browser: Path, package: Path) -> None:
        result = read(package, browser)
        assert (result.outcome, result.error) == ("ok", None)
        found = held_against_the_cpu(package, result)
        assert len(found.agreement) == 99
        assert found.agreement.mean() > 0.98
        assert found.divergence.mean() < 5e-4
        assert result.gpu.live_bytes_after_dispose == 0

    def test_fails_a_browser_with_one_layers_scales_doubled(
        self, browser: Path, package: Path, tmp_path: Path
    ) -> None:
        spoilt = copied(package, tmp_path / "m")
        scale_tensor(spoilt, "q4", "model.layers.1.mlp.down_proj.weight_scales", 2)
        found = held_against_the_cpu(package, read(spoilt, browser))
        made = parity.measurements(found, 99, "", True)
        gates = {g.measurement: g for g in load_domain("legal").chain.gate}
        at_most = gates["bench.parity_kl_divergence"].at_most
        assert at_most and float(made["parity_kl_divergence"].value or 0) > at_most

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
        send = server._Handler._send_file

        def slowly(handler: Any, file: Path) -> None:
            if file.suffix == ".onnx_data":
                time.sleep(8)
            send(handler, file)

        monkeypatch.setattr(server._Handler, "_send_file", slowly)
        result = ask(package, browser, timeout_s=6)
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

    def test_a_budget_that_is_too_small_for_the_reading(self, browser: Path, package: Path) -> None:
        result = read(package, browser, prompts=[], budget_bytes=1_000_000)
        assert result.outcome == "out_of_budget"
        assert "the budget is 1000000" in str(result.error)
