"""A command that ends at one stage runs what that stage needs, and its own gates decide how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.base.errors import RungFailed
from shared.base.manifest import Manifest, Measurement
from shared.base.stage import StageResult
from shared.cli.summary import comparison, summary
from shared.domain.domain import load_domain
from shared.evaluate.check import Selection
from shared.pipeline import chain
from shared.pipeline import one_domain as pipeline
from shared.pipeline.chain import kept_from
from shared.pipeline.dry_run import foretold
from shared.pipeline.one_domain import run_until
from shared.pipeline.stages import Options, RungRun
from shared.release.model import ChainResult, Stage

SLOW = Measurement(value=0.2, unit="tokens/s", software_adapter=True)


def done(stage: str, **measured: Measurement) -> StageResult:
    empty: dict[str, Any] = {"inputs": {}, "settings": {}, "tools": {}, "outputs": {}, "facts": {}}
    rest = {"wall_seconds": 0, "peak_rss_bytes": 0, "finished": "", "stage": stage, "key": "k"}
    return StageResult(Path(stage), Manifest(measurements=measured, **empty, **rest), reused=True)


def walked(monkeypatch: pytest.MonkeyPatch, *stages: StageResult) -> None:
    """A walk that took the first rung and left these stages."""
    domain = load_domain("legal")
    found = ChainResult(
        domain, [], domain.chain.rung[0], stages={s.manifest.stage: s for s in stages}
    )
    monkeypatch.setattr(pipeline, "run_chain", lambda *_: found)


class TestTheGatesOfTheStage:
    UNPLACED = Measurement(value=3, unit="nodes", reason="on the CPU: MatMul (x)")

    def test_a_failed_one_is_the_commands_error(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        walked(monkeypatch, done("bench", nodes_on_cpu_unexpected=self.UNPLACED))
        result = run_until("legal", Options(until="bench"))
        assert not result.ok
        assert "gate 'no unexpected nodes on the CPU': on the CPU: MatMul (x)" in str(result.error)

    def test_the_speed_gate_is_told_and_does_not_count_in_software(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        walked(monkeypatch, done("bench", decode_tokens_per_second=SLOW))
        result = run_until("legal", Options(until="bench"))
        assert result.ok
        monkeypatch.setenv("COLUMNS", "200")  # or the table is folded to the terminal's width
        assert "software adapter: it says nothing about a GPU" in summary(result)

    def test_the_overflow_belongs_to_the_bench(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        walked(monkeypatch, done("overflow", f16_headroom=Measurement(value=0.5, unit="x")))
        assert "gate 'fp16 overflow headroom'" in str(
            run_until("legal", Options(until="bench")).error
        )

    def test_another_stages_gates_are_not_judged(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = Measurement(value=3_000_000_000, unit="B")
        walked(monkeypatch, done("package", q4f16_bytes=large), done("check"))
        assert run_until("legal", Options(until="check")).ok
        assert not run_until("legal", Options(until="package")).ok

    def test_one_that_blocks_publishing_only_is_told_and_no_error(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ratio = Measurement(value=2.0, unit="x")
        walked(monkeypatch, done("fidelity", perplexity_ratio=ratio))
        result = run_until("legal", Options(until="fidelity"))
        assert result.ok and result.chain
        assert [gate.outcome for gate in result.chain.gates] == ["fail"]

    def test_a_part_of_a_longer_run_leaves_them_to_its_end(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        walked(monkeypatch, done("bench", nodes_on_cpu_unexpected=self.UNPLACED))
        assert run_until("legal", Options(until="bench", on_the_way=True)).ok


def ran(monkeypatch: pytest.MonkeyPatch, options: Options, *targets: Stage) -> list[str]:
    """The stages that a run to `targets`, one after the other, goes through."""
    domain = load_domain("legal")
    rung = domain.chain.rung[0]
    seen: list[str] = []

    def note(self: RungRun, stage: Stage) -> None:
        seen.append(stage)
        self.stages[stage] = done(stage)

    monkeypatch.setattr(RungRun, "_run", note)
    selection = chain.select_records(domain, options)
    assert isinstance(selection, Selection)
    run = RungRun(domain, rung, rung.exporters[0], selection, options)
    for target in targets:
        run.go_to(target)
    return seen


class TestTheStagesACommandNeeds:
    @pytest.mark.parametrize("last", ["fidelity", "check", "bench"])
    def test_are_the_package_and_its_own(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, last: Stage
    ) -> None:
        expected = ["source", "build", "package", last]
        assert ran(monkeypatch, Options(until=last), last) == expected

    def test_are_all_for_a_release(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = ran(monkeypatch, Options(), "bench", "gates")
        assert sorted(found) == sorted(
            ["source", "build", "package", "fidelity", "check", "bench", "gates"]
        )
        assert found[-1] == "gates"

    def test_a_part_of_a_release_goes_through_all_before_it(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = ran(monkeypatch, Options(until="check", on_the_way=True), "check")
        assert found == ["source", "build", "package", "fidelity", "check"]

    def test_a_stage_that_fails_ends_it(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[str] = []

        def fail(self: RungRun, stage: Stage) -> None:
            seen.append(stage)
            raise RungFailed("no")

        options = Options(until="bench")
        domain = load_domain("legal")
        rung = domain.chain.rung[0]
        selection = chain.select_records(domain, options)
        run = RungRun(domain, rung, rung.exporters[0], selection, options)
        monkeypatch.setattr(RungRun, "_run", fail)
        run.go_to("bench")
        assert (seen, run.outcome) == (["source"], "failed")


def test_the_comparison_has_no_column_that_no_stage_measured(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked(monkeypatch, done("bench", decode_tokens_per_second=SLOW))
    text = comparison([run_until("legal", Options(until="bench"))])
    assert "decode" in text and "valid JSON" not in text


def test_an_example_does_not_replace_the_release_of_a_model_whose_weights_are_away(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To free 6 GB, or an unmounted disk: only who asks for the example gets it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pipeline, "need_inputs", lambda *_, **__: None)
    before = (release / "release.json").read_bytes()
    result = pipeline.release_domain("legal", Options())
    assert result.error and "models/legal/webgpu stays smollm3's release" in result.error
    assert (release / "release.json").read_bytes() == before
    assert "models/legal/webgpu stays smollm3's release" in foretold("legal", Options())[0]
    (release / "release.json").write_text(json.dumps(json.loads(before) | {"version": 1}))
    assert "stays smollm3's" in (pipeline.release_domain("legal", Options()).error or "")


@pytest.mark.parametrize("rung", ["base-with-prompt", "example"])
def test_a_release_that_was_of_nobodys_own_weights_is_replaced(release: Path, rung: str) -> None:
    file = release / "release.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rung": rung}))
    domain = load_domain("legal")
    assert kept_from(domain.rung("smollm2"), [], domain, Options()) == ""


def test_nothing_of_the_file_that_fidelity_reads_may_calibrate(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are asked of a sample of it; fidelity reads all of it."""
    lines = (root / "domains" / "legal" / "eval.jsonl").read_text().splitlines()[:5]
    file = tmp_path / "held.jsonl"
    file.write_text("\n".join(lines))
    kept_out: list[int] = []

    def build(*_: object, measured: tuple[object, ...], **__: object) -> StageResult:
        kept_out.append(len(measured))
        return done("build")

    monkeypatch.setattr("shared.pipeline.stages.build_stage", build)
    monkeypatch.setattr("shared.pipeline.stages.prompt_stage", lambda *_, **__: done("prompt"))
    domain, options = load_domain("legal"), Options(records="2", records_file=file, until="build")
    selection = chain.select_records(domain, options)
    run = RungRun(domain, domain.chain.rung[0], "olive", selection, options)
    run.stages["source"], run.source = done("source"), SimpleNamespace()  # type: ignore[assignment]
    run.go_to("build")
    assert len(selection.records) == 2 and set(kept_out) == {5}
