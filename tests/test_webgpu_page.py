"""The page in a real browser: what a person sees, and what the harness makes of each way to fail."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from shared.setup.browser import find_browser
from shared.webgpu_bench import driver
from shared.webgpu_bench.chromium import marked, open_page
from shared.webgpu_bench.model_list import MANIFEST, page_manifest
from shared.webgpu_bench.result import BrowserResult
from shared.webgpu_bench.server import serve
from tests.events import CEILING_SECONDS


@pytest.fixture(scope="module")
def browser() -> Path:
    found = find_browser()
    assert found, "no Chrome or Chromium: run `./inv doctor`"
    return found.path


def ask(
    package: Path,
    browser: Path,
    timeout_s: float = CEILING_SECONDS,
    on_progress: Callable[[str], None] = lambda line: None,
    **more: Any,
) -> BrowserResult:
    prompt = {"id": "a", "input_ids": [1, 4093, 198, 1780], "max_new_tokens": 2}
    request = {"model": "m", "dtype": "auto", "prompts": [prompt], "deadline_ms": 800_000} | more
    return driver.run_in_browser(
        package,
        request,
        browser=browser,
        timeout_s=timeout_s,
        on_progress=on_progress,
        adapter="software",
    )


@pytest.mark.slow
class TestThePageInARealBrowser:
    def test_says_that_no_model_is_there_and_lets_nothing_out(self, browser: Path) -> None:
        mounts = {"/": driver.PAGE, "/vendor": driver.VENDOR}
        with (
            serve(mounts, {f"/{MANIFEST}": lambda: page_manifest([])}) as url,
            open_page(browser, hardware=False) as tab,
        ):
            tab.page.set_default_timeout(CEILING_SECONDS * 1000)
            tab.page.goto(url)
            tab.page.wait_for_selector("body[data-state=no-model]")
            assert "No model is served here" in tab.page.inner_text("#notice")
            assert (tab.console, tab.errors, tab.blocked) == ([], [], [])
            tab.page.evaluate("fetch('https://example.com/x').catch(() => {})")
            assert tab.blocked == ["https://example.com/x"]

    def test_judges_an_answer_as_the_schema_does(self, browser: Path) -> None:
        """Whatever its spelling: keys that look like numbers, 1.0 for 1, a quotation mark in a text."""
        fields: dict[str, Any] = {
            "2024": {"enum": [1.0, 2]},
            "name": {"type": "string", "maxLength": 9},
            "of": {"anyOf": [{"$ref": "#/$defs/who"}, {"type": "null"}]},
        }
        who = {"properties": {"a": {"minimum": 1e-7}, "b": {}}, "additionalProperties": False}
        schema = {"$defs": {"who": who}, "properties": fields, "required": ["name"]}
        answers = {
            '{"name": "x", "2024": 1}': True,
            '{"2024": 1.0, "name": "a \\"b\\""}': True,
            '{"name": "é", "of": {"b": 1, "a": 0.0000001}}': True,
            '{"name": "x", "of": {"c": 1}}': False,
            '{"name": "much too long"}': False,
            '{"2024": 1}': False,
        }
        ask_page = """async ([schema, texts]) => {
          const { satisfies } = await import("./schema.js");
          return Promise.all(texts.map((text) => satisfies(schema, JSON.parse(text))));
        }"""
        mounts = {"/": driver.PAGE, "/vendor": driver.VENDOR}
        with (
            serve(mounts, {f"/{MANIFEST}": lambda: page_manifest([])}) as url,
            open_page(browser, hardware=False) as tab,
        ):
            tab.page.goto(url)
            found = tab.page.evaluate(ask_page, [schema, list(answers)])
            assert (
                tab.page.evaluate("import('./schema.js').then((m) => m.satisfies(null, 1))") is None
            )
        assert found == list(answers.values())
        assert [
            jsonschema.Draft202012Validator(schema).is_valid(json.loads(a)) for a in answers
        ] == found

    def test_leaves_no_process_behind(self, browser: Path) -> None:
        with open_page(browser, hardware=False) as tab:
            family = tab.family
            assert marked(family.mark)
            assert len(family.living()) > 3, "renderer and GPU process are of it"
        assert not marked(family.mark)
        assert family.living() == []


@pytest.mark.slow
class TestAModelInARealBrowser:
    def test_loads_writes_and_is_let_go(self, browser: Path, package: Path) -> None:
        result = ask(package, browser)
        assert (result.outcome, result.error) == ("ok", None)
        assert len(result.runs[0].output_ids) == 2 and len(result.runs[0].decode_ms) == 1
        assert result.gpu.peak_requested_bytes > 0 == result.gpu.live_bytes_after_dispose
        assert result.placement and result.placement.WebGpuExecutionProvider > 0
        assert result.dtype == "q4" and result.software_adapter
        assert (result.uncaptured_errors, result.blocked_requests) == ([], [])

    def test_whole_documents_begin_after_the_prompt_and_keep_to_the_grammar(
        self, browser: Path, package: Path
    ) -> None:
        grammar = 'root ::= "{" ("0" | "1") "}"'
        system = "Answer with one digit in braces, and nothing else; it tells how many there are."
        texts = ["none", "one, and no more"]
        asked = {"name": "m", "system": system, "grammar": grammar, "texts": texts}
        result = ask(package, browser, prompts=[], documents=asked | {"max_new_tokens": 8})
        assert (result.outcome, result.error) == ("ok", None)
        first, second = result.documents
        assert {run.output_text for run in (first, second)} <= {"{0}", "{1}"}
        assert {run.stopped_by for run in (first, second)} == {"eos"}
        assert [len(run.output_ids) for run in (first, second)] == [4, 4]
        assert first.model_runs == 3, (
            "its prompt was read apart; chosen are the brace and the digit"
        )
        assert second.model_runs == 2
        assert second.dispatches and second.buffers is not None and second.buffers <= len("{0}") + 1

    def test_loads_again_from_what_the_browser_has(self, browser: Path, package: Path) -> None:
        result = ask(package, browser, warm_load=True, placement=False)
        assert (result.outcome, result.warm_load_reason) == ("ok", None)
        assert result.warm_load and result.warm_load.seconds > 0

    def test_past_its_budget_it_is_refused(self, browser: Path, package: Path) -> None:
        result = ask(package, browser, budget_bytes=100_000)
        assert result.outcome == "out_of_budget"
        assert result.gpu.peak_requested_bytes <= 100_000

    def test_a_missing_chunk_is_named(self, browser: Path, package: Path, tmp_path: Path) -> None:
        spoilt = shutil.copytree(package, tmp_path / "m", copy_function=os.link)
        (spoilt / "onnx" / "model_q4.onnx_data").unlink()
        result = ask(spoilt, browser, dtype="q4")
        assert result.outcome == "load_failed"
        assert result.error == "the package lacks onnx/model_q4.onnx_data"

    def test_a_page_that_is_silent_too_long_is_ended(self, browser: Path, package: Path) -> None:
        result = ask(package, browser, timeout_s=1.5)
        assert result.outcome == "timeout"
        assert not result.ok and result.error

    @pytest.mark.parametrize(
        ("process", "outcome"), [("renderer", "crashed"), ("gpu-process", "device_lost")]
    )
    def test_a_killed_process_is_told_apart(
        self, browser: Path, package: Path, process: str, outcome: str
    ) -> None:
        def kill(line: str) -> None:
            if "reading" in line:
                for child in psutil.Process().children(recursive=True):
                    if f"--type={process}" in command_line(child):
                        child.kill()

        result = ask(package, browser, on_progress=kill)
        assert result.outcome == outcome
        assert result.runs[0].stopped_by == "interrupted"


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
