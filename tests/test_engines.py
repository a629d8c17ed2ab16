"""Engines side by side: the questions, the figures, the tables, and each engine where it can run."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest

from benchmarks.native import bytes_per_token, share_of_limit
from shared.base.errors import RungFailed, UserError
from shared.base.venv import Venv
from shared.domain.domain import load_domain
from shared.setup.browser import INSTALL_FIREFOX, find_browser, find_firefox
from shared.webgpu_bench.engines import firefox, in_browser, native, native_webgpu
from shared.webgpu_bench.engines.job import EngineRun, Job
from shared.webgpu_bench.engines.process import run_child
from shared.webgpu_bench.engines.side_by_side import _compared, parse_engines
from shared.webgpu_bench.report.bench import bench_report, chosen_engines
from shared.webgpu_bench.report.page import depth_chart, render_page
from shared.webgpu_bench.report.tables import engines_table, ratio_text, samples, write_engines
from shared.webgpu_bench.speed import Points, at, figures, questions
from tests.engine_rows import native as native_run
from tests.engine_rows import rows, software, timed


class TestTheQuestions:
    def test_depth_is_a_prefill_of_as_many_tokens_and_zero_is_one_token(self) -> None:
        asked = questions(Points((), (0, 512), 64, 0, 1), [5, 6, 7], 2048)
        assert [(q["id"], len(q["input_ids"])) for q in asked] == [("d0/0", 1), ("d512/0", 512)]
        assert asked[1]["input_ids"][:4] == [5, 6, 7, 5]

    def test_a_prompt_length_that_is_a_depth_too_is_asked_once(self) -> None:
        asked = questions(Points((128, 512), (512,), 64, 0, 1), [5], 2048)
        assert [(q["id"], q["max_new_tokens"]) for q in asked] == [("p128/0", 1), ("d512/0", 64)]

    def test_what_does_not_fit_the_context_is_left_out(self) -> None:
        asked = questions(Points((128,), (0, 2048), 64, 0, 1), [5], 2048)
        assert [q["id"] for q in asked] == ["d0/0", "p128/0"]

    def test_a_software_adapter_is_asked_for_no_speed(self) -> None:
        bench = load_domain("legal").chain.bench
        few, many = (questions(Points.of(bench, hardware=h), [5], 8192) for h in (False, True))
        assert many and not few


class TestTheFigures:
    def test_warm_ups_and_runs_cut_short_do_not_count(self) -> None:
        cut = timed("d0/1", 1, 9, 99, new=2).model_copy(update={"stopped_by": "deadline"})
        runs = [timed("d0/warm-0", 1, 9, 99), timed("d0/0", 1, 9, 10), cut]
        found = at(figures(runs), "decode", 0)
        assert found is not None and (found.samples, found.sd) == ((100.0,), None)

    def test_the_spread_is_the_samples_standard_deviation(self) -> None:
        found = at(
            figures([timed(f"d0/{i}", 1, 9, ms) for i, ms in enumerate((10, 20))]), "decode", 0
        )
        assert found is not None
        assert (found.mean, found.sd) == (75.0, pytest.approx(35.355, abs=1e-3))

    def test_a_prompt_gives_prefill_and_the_decode_after_it(self) -> None:
        found = figures([timed("d512/0", 512, 1000, 20)])
        assert [(f.name, f.mean) for f in found] == [("pp512", 512.0), ("tg@d512", 50.0)]


class TestTheTables:
    def test_ratios_stand_on_onnxruntimes_cpu_and_software_is_starred(self) -> None:
        text = engines_table(rows()[:3])
        assert "decode vs native" in text and "1.00×" in text
        assert "webgpu-q4*" in text and "not measured: no &lt;shader-f16&gt; here" in text

    def test_without_a_reference_there_is_no_ratio(self) -> None:
        assert ratio_text(rows()[0], None, None) == ""

    def test_csv_and_jsonl_hold_every_sample(self, root: Path) -> None:
        files = {path.suffix: path for path in write_engines(rows()[:3], "x")}
        lines = [json.loads(line) for line in files[".jsonl"].read_text().splitlines()]
        assert lines == samples(rows()[:3])
        decode = [e for e in lines if e.get("test") == "decode" and e["engine"] == "native"]
        assert len([e for e in decode if e["tokens"] == 0]) == 3
        table = list(csv.DictReader(files[".csv"].read_text().splitlines()))
        assert {row["software_adapter"] for row in table} == {"True", "", "False"}
        first = next(r for r in table if r["engine"] == "native" and r["test"] == "decode")
        assert first["n"] == "3" and len(first["samples"].split()) == 3

    def test_same_ids_are_counted_up_to_the_first_that_differs(self) -> None:
        own, _, other = rows()[:3]
        assert other.run
        changed = other.run.runs[0].model_copy(update={"output_ids": [7, 8, 1, 10]})
        run = other.run.model_copy(update={"runs": [changed]})
        assert _compared(other.model_copy(update={"run": run}), own).same_ids == "2 of 4"


class TestTheReport:
    def test_is_one_file_that_escapes_what_it_is_given_and_labels_software(self) -> None:
        page = render_page(rows())
        assert "no &lt;shader-f16&gt; here" in page and "<shader-f16>" not in page
        assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in page
        assert "software adapter" in page and "not measured" in page

    def test_draws_the_same_lines_again_in_the_pages_own_colours(self) -> None:
        chart = depth_chart(rows()[:3])
        assert chart is not None and chart == depth_chart(rows()[:3])
        assert [engine for engine, _ in chart["engines"]] == ["native"]
        assert f"stroke: var(--e{chart['engines'][0][1]})" in chart["svg"]
        assert "currentColor" in chart["svg"] and not re.search("#[0-9a-f]{6}", chart["svg"])
        assert depth_chart(rows()[:2]) is None, "none of them was taken deeper"

    def test_without_a_software_adapter_it_does_not_warn_of_one(self) -> None:
        only = [row.model_copy(update={"run": native_run()}) for row in rows()[2:3]]
        assert "Hatched bars" not in render_page(only)

    def test_names_the_engine_that_ratios_stand_on(self) -> None:
        assert "× native</button>" in render_page(rows())
        faster = rows()[2].model_copy(update={"engine": "webgpu-q4f16"})
        page = render_page([faster])
        assert "× webgpu-q4f16</button>" in page and "× native" not in page
        assert "ratio</button>" in render_page(rows()[1:2])

    def test_is_linked_from_what_is_printed_last(self, root: Path) -> None:
        last = bench_report([], [], "x", html="x.html").splitlines()[-1]
        assert last == f"to look at: {(root / 'build/reports/x.html').as_uri()}"
        assert (root / "build/reports/x.html").is_file()

    def test_says_when_other_programs_ran_beside_it(self) -> None:
        run = native_run().model_copy(update={"busy_percent": 80.0})
        busy = [rows()[2].model_copy(update={"run": run})]
        assert "up to 80 % busy" in render_page(busy)
        assert "not quiet" not in render_page(rows())

    def test_stands_also_when_nothing_was_measured(self) -> None:
        assert "not measured" in render_page(rows()[1:2])


class TestTheShareOfTheLimit:
    def test_is_what_was_read_of_what_could_be(self) -> None:
        assert share_of_limit(5e9, 20e9) == "25.0 %"

    def test_over_all_of_it_is_no_measurement(self) -> None:
        assert share_of_limit(8e9, 1e9).startswith("not measured")
        assert share_of_limit(8e9, None).startswith("not measured")


class TestChoosing:
    def test_all_means_all_and_a_typo_names_the_nearest(self) -> None:
        assert len(parse_engines("all")) == 7
        with pytest.raises(UserError, match="did you mean 'wllama'"):
            parse_engines("wlama")

    def test_a_browser_that_is_none_is_refused(self) -> None:
        assert chosen_engines("", "firefox") == ["firefox"]
        with pytest.raises(UserError, match="no browser 'netscape'"):
            chosen_engines("", "netscape")


class TestAChild:
    def test_its_last_word_is_the_reason(self, tmp_path: Path) -> None:
        script = tmp_path / "child.py"
        script.write_text("import sys\nsys.exit('no adapter')\n")
        with pytest.raises(RungFailed, match="no adapter"):
            run_child(Path(os.sys.executable), script, {}, 5, {})  # type: ignore[attr-defined]


def job(package: Path, **more: object) -> Job:
    asked = questions(Points((), (0,), 4, 0, 1), [504, 772], 512)
    own = {"id": "run-0", "input_ids": [1, 4093, 198, 1780], "max_new_tokens": 4}
    for question in (own, *asked):
        question["text"] = "The court"
    found = {"seconds": 600.0, "context": 512, "hardware": False, "browser": find_browser()}
    return Job(package, [own, *asked], **(found | more))  # type: ignore[arg-type]


def ids(run: EngineRun) -> list[int]:
    return run.runs[0].output_ids


@pytest.mark.slow
class TestEachEngine:
    def test_the_cpu_answers_every_question_in_full(self, package: Path) -> None:
        found = native.run(job(package))
        assert [len(run.output_ids) for run in found.runs] == [4, 4]
        assert found.peak_rss_bytes and not found.software_adapter

    def test_wasm_writes_what_the_cpu_writes(self, package: Path) -> None:
        found = in_browser.wasm(job(package))
        assert found.threads and not found.software_adapter
        assert ids(found)[0] == ids(native.run(job(package)))[0]

    def test_wllama_without_a_gguf_says_so(self, package: Path) -> None:
        with pytest.raises(RungFailed, match="no GGUF"):
            in_browser.wllama(job(package))

    def test_native_webgpu_never_runs_on_the_cpu_instead(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not native_webgpu.VENV.is_finished():
            pytest.skip(".venv-webgpu is not made here: `./inv bench --engines native-webgpu`")
        nothing = package / "no_icd.json"
        monkeypatch.setattr(native_webgpu, "_software_icd", lambda: nothing)
        with pytest.raises(RungFailed, match="would have run on the CPU"):
            native_webgpu.run(job(package))

    def test_native_webgpu_keeps_software_drivers_out_where_a_gpu_is_claimed(
        self, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, str] = {}

        def note(python: Path, script: Path, asked: object, seconds: float, env: dict[str, str]):  # type: ignore[no-untyped-def]
            seen.update(env)
            raise RungFailed("enough")

        monkeypatch.setattr(Venv, "python", lambda venv: tmp_path)
        monkeypatch.setattr(native_webgpu, "run_child", note)
        with pytest.raises(RungFailed, match="enough"):
            native_webgpu.run(job(package, hardware=True))
        assert seen == {"VK_LOADER_DRIVERS_DISABLE": "*lvp*,*swiftshader*"}

    def test_firefox_runs_q4f16_and_agrees_with_the_cpu(self, package: Path) -> None:
        if find_firefox() is None:
            pytest.skip(f"no Firefox here: {INSTALL_FIREFOX}")
        found = firefox.run(job(package))
        if found.dtype != "q4f16":
            pytest.skip(f"{found.where}: no shader-f16, so no q4f16")
        assert found.agreement == [4, 4]
        assert found.peak_gpu_bytes and found.software_adapter


@pytest.mark.slow
def test_a_token_reads_the_tied_head_once_and_the_cache_per_token(package: Path) -> None:
    reads = bytes_per_token(package / "onnx" / "model_q4f16.onnx")
    data = (package / "onnx" / "model_q4f16.onnx_data").stat().st_size
    assert 0.8 * data < reads.weights <= 1.2 * data
    assert reads.cache_per_token == 4 * 2 * 2 * 16 * 2  # layers, K and V, heads, size, bytes


def test_a_software_run_is_labelled_in_every_sample() -> None:
    assert software().software_adapter
    marked = [e for e in samples(rows()) if e["engine"] == "webgpu-q4"]
    assert marked and all(e["software_adapter"] for e in marked)
