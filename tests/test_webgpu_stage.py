"""The bench stage without a browser: what it asks for, and what it makes of the answer."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.base.errors import RungFailed, UserError
from shared.base.manifest import Manifest, Measurement
from shared.base.stage import Produced, StageResult
from shared.domain.domain import load_domain
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.onnx import OnnxDecoder
from shared.release.gates import failed, judge_gates, unproven
from shared.setup.browser import Browser
from shared.webgpu_bench import driver, stage
from shared.webgpu_bench.chromium import flags
from shared.webgpu_bench.engines.questions import own_question
from shared.webgpu_bench.measurements import describe, likeliest, measurements
from shared.webgpu_bench.request import Profile, make_request, own_prompts, unanswered
from shared.webgpu_bench.result import (
    Adapter,
    BrowserResult,
    Load,
    Parity,
    ParityPiece,
    Placement,
    Run,
    StoppedBy,
)

SWIFTSHADER = Adapter(vendor="google", architecture="swiftshader")
Answer = Callable[[dict[str, Any], str], BrowserResult]


class StandIn:
    """The driver's run_in_browser: answers as told, and remembers what it was asked."""

    def __init__(self, hardware: BrowserResult) -> None:
        self.hardware = hardware
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, package: Path, request: dict[str, Any], **how: Any) -> BrowserResult:
        self.asked.append((how["adapter"], request))
        used = flags(hardware=how["adapter"] == "hardware")
        if how["adapter"] == "hardware":
            return self.hardware.model_copy(update={"flags": used})
        failed = {"outcome": "run_failed", "error": "a kernel", "adapter": SWIFTSHADER}
        return BrowserResult(**failed, software_adapter=True, dtype="q4", flags=used)


class Late:
    """A page on a software adapter that is ended after `rows` rows of text: the CPU's own numbers."""

    def __init__(self, package: Path) -> None:
        self.package, self.rows = package, 1
        self.asked: list[dict[str, Any]] = []
        known = {"dtype": "q4", "adapter": SWIFTSHADER, "software_adapter": True}
        placed = Placement(WebGpuExecutionProvider=9, CPUExecutionProvider=0, cpu_nodes=[])
        there = {"load": Load(seconds=9), "placement": placed, **known}
        self.result = BrowserResult(outcome="timeout", **there)

    def __call__(self, package: Path, request: dict[str, Any], **how: Any) -> BrowserResult:
        self.asked.append(request)
        given = request["parity"] or {"rows": [], "offset": 0}
        for at, row in enumerate(given["rows"][: self.rows]):
            how["on_piece"](self.piece(row, given["offset"] + at).model_dump_json())
        pieces = [
            self.piece(row, given["offset"] + at)
            for at, row in enumerate(given["rows"][: self.rows])
        ]
        return self.result.model_copy(update={"parity": Parity(pieces=pieces) if pieces else None})

    def answers(self, prompts: Sequence[dict[str, Any]]) -> None:
        """From now on the questions are reached as well."""
        runs = [Run(id=p["id"], prompt_tokens=len(p["input_ids"]), output_ids=[7]) for p in prompts]
        self.result = self.result.model_copy(update={"runs": runs})

    def piece(self, row: list[int], number: int) -> ParityPiece:
        model = OnnxDecoder(self.package / "onnx" / "model_q4.onnx", exact=True)
        logits = model.feed(row).astype(np.float64)
        ids = np.argsort(-logits, axis=-1)[:, :64]
        likeliest = np.take_along_axis(logits, ids, axis=-1)
        sums = np.logaddexp.reduce(logits, axis=-1)
        coded = [base64.b64encode(a.tobytes()).decode() for a in (ids.astype(np.int32),)]
        coded += [
            base64.b64encode(a.astype(np.float32).tobytes()).decode() for a in (likeliest, sums)
        ]
        names = dict(zip(("ids", "logits", "log_sums"), coded, strict=True))
        return ParityPiece(row=number, start=0, rows=1, tokens=len(row), ms=1.0, **names)


@pytest.fixture
def bench(
    root: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[StandIn], Manifest]:
    """`bench(driver)` runs the stage on a machine that seems to have a GPU."""
    browser = Browser(Path("/nowhere/chromium"), "chromium")
    monkeypatch.setattr(stage, "offered", lambda browser: "some GPU")
    monkeypatch.setattr(stage, "find_browser", lambda: browser)

    def run(stand_in: StandIn) -> Manifest:
        monkeypatch.setattr(driver, "run_in_browser", stand_in)
        made = StageResult(package, Manifest.read(package), reused=True)
        return stage.bench_stage(load_domain("legal"), made).manifest

    return run


class TestAGpuThatIsNotOffered:
    NONE = BrowserResult(outcome="no_webgpu", error="this browser offers no WebGPU adapter")
    SOFTWARE = BrowserResult(ok=True, outcome="ok", software_adapter=True, adapter=SWIFTSHADER)

    @pytest.mark.parametrize("answer", [NONE, SOFTWARE])
    def test_makes_it_ask_anew_what_a_software_adapter_can_bear(
        self, bench: Callable[[StandIn], Manifest], answer: BrowserResult
    ) -> None:
        stand_in = StandIn(answer)
        bench(stand_in)
        assert [adapter for adapter, _ in stand_in.asked] == ["hardware", "software"]
        first, second = (request for _, request in stand_in.asked)
        assert first["hardware_only"] and not second["hardware_only"]
        assert max(len(p["input_ids"]) for p in first["prompts"]) >= 128
        assert max(len(p["input_ids"]) for p in second["prompts"]) < 32
        assert second["parity"]["piece"] < 32

    def test_leaves_the_flags_and_the_profile_that_were_used(
        self, bench: Callable[[StandIn], Manifest]
    ) -> None:
        facts = bench(StandIn(self.NONE)).facts
        assert "--use-webgpu-adapter=swiftshader" in facts["flags"]
        assert facts["profile"]["hardware"] is False
        assert facts["profile"]["prompt_tokens"] == 24

    def test_one_that_is_there_is_asked_once(self, bench: Callable[[StandIn], Manifest]) -> None:
        stand_in = StandIn(BrowserResult(outcome="load_failed", error="no", dtype="q4f16"))
        facts = bench(stand_in).facts
        assert len(stand_in.asked) == 1 and facts["profile"]["hardware"] is True
        assert "--use-webgpu-adapter=swiftshader" not in facts["flags"]


@pytest.mark.parametrize("stopped_by", ["deadline", None])
def test_a_gpu_whose_time_was_up_before_it_had_answered_has_failed(
    bench: Callable[[StandIn], Manifest], stopped_by: StoppedBy | None
) -> None:
    """What a software adapter does not come to is not measured; a GPU has to come to all of it."""
    done = Run(id="run-0", prompt_tokens=128, output_ids=[7], stopped_by="max_new_tokens")
    cut = [Run(id="run-1", prompt_tokens=128, stopped_by=stopped_by)] if stopped_by else []
    slow = BrowserResult(
        ok=True, outcome="ok", dtype="q4f16", load=Load(seconds=390), runs=[done, *cut]
    )
    with pytest.raises(RungFailed, match=r"timeout: .*run-1, run-2.* not answered within"):
        bench(StandIn(slow))


def test_nothing_is_late_that_was_not_asked_or_was_answered(root: Path, package: Path) -> None:
    """A family's swapped graph is asked no questions; warm-ups are answered as any."""
    domain = load_domain("legal")
    request = make_request(domain, package, Chat(package), Profile.of(domain, hardware=True))
    runs = [Run(id=name, prompt_tokens=128, stopped_by="eos") for name in request.own]
    assert unanswered(request, BrowserResult(ok=True, outcome="ok", runs=runs)) == []
    silent = replace(request, payload=request.payload | {"prompts": []})
    assert unanswered(silent, BrowserResult(ok=True, outcome="ok")) == []
    assert unanswered(request, BrowserResult(ok=True, outcome="ok")) == list(request.own)


def test_what_a_gpu_is_measured_with_is_measured_anew_with_another(
    bench: Callable[[StandIn], Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = StandIn(BrowserResult(outcome="load_failed", error="no", dtype="q4f16"))
    keys = [bench(stand_in).key, bench(stand_in).key]
    monkeypatch.setattr(stage, "offered", lambda browser: "another GPU")
    assert bench(stand_in).key != keys[0] == keys[1]


class TestASoftwareAdapterThatIsLate:
    """What the time did not allow is not measured; it fails nothing, and is gone on with."""

    @pytest.fixture
    def late(self, root: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> Late:
        browser = Browser(Path("/nowhere/chromium"), "chromium")
        monkeypatch.setattr(stage, "has_gpu", lambda: False)
        monkeypatch.setattr(stage, "find_browser", lambda: browser)
        stand_in = Late(package)
        monkeypatch.setattr(driver, "run_in_browser", stand_in)
        return stand_in

    def bench(self, late: Late, **switches: Any) -> Manifest:
        made = StageResult(late.package, Manifest.read(late.package), reused=True)
        how = stage.Switches(**switches)
        return stage.bench_stage(load_domain("legal"), made, switches=how).manifest

    def test_has_what_was_measured_until_then(self, late: Late) -> None:
        late.rows = 1
        found = self.bench(late)
        assert found.unfinished and "only 32 of 64 positions" in found.unfinished
        assert found.measurements["loads"].value is True
        assert found.measurements["parity_logits_error"].value < 1e-5
        assert found.measurements["greedy_agreement"].value is None
        gates = [g for g in load_domain("legal").chain.gate if g.measurement.startswith("bench.")]
        manifests = {"bench": found}
        results = judge_gates(gates, manifests)
        assert failed(results, "release") == []
        assert "positions compared, WebGPU with the CPU" in [g.name for g in unproven(results)]

    def test_goes_on_where_it_stopped(self, late: Late) -> None:
        late.rows = 1
        self.bench(late)
        late.rows = 99
        found = self.bench(late)
        assert [len(asked["parity"]["rows"]) for asked in late.asked] == [2, 1]
        assert found.measurements["parity_tokens"].value == 64
        assert found.unfinished and "no token in time" in found.unfinished, "nor was it asked"
        late.answers(late.asked[-1]["prompts"])
        found = self.bench(late)
        assert late.asked[-1]["parity"] is None and found.unfinished is None
        assert found.measurements["parity_tokens"].value == 64
        self.bench(late)
        assert len(late.asked) == 3, "what is finished is not done again"

    def test_is_left_as_it_is_where_the_run_has_done_so_before(self, late: Late) -> None:
        late.rows = 1
        self.bench(late)
        assert self.bench(late, take_up=False).unfinished and len(late.asked) == 1

    def test_that_loaded_nothing_says_so(self, late: Late) -> None:
        late.result = BrowserResult(outcome="timeout", error="the page did not answer in time")
        found = self.bench(late)
        assert "did not load it within" in str(found.measurements["loads"].reason)

    def test_keeps_what_was_measured_where_it_then_loads_nothing(self, late: Late) -> None:
        late.rows = 1
        before = self.bench(late)
        late.result = BrowserResult(outcome="timeout", error="the page did not answer in time")
        found = self.bench(late)
        assert found.unfinished and "did not load it within" in found.unfinished
        assert found.measurements == before.measurements
        assert found.facts["adapter"] == before.facts["adapter"]

    def test_holds_no_earlier_comparison_against_a_worse_one(self, late: Late) -> None:
        late.rows = 1
        before = self.bench(late)
        assert before.measurements["layers_agree"].value is True
        names = ("parity_kl_divergence", "layers_agree")
        gone = {name: Measurement.missing("no numbers") for name in names}
        worse = gone | {"parity_finite": Measurement(value=0.5), "loads": Measurement(value=True)}
        found = stage.with_earlier(Produced(worse), before).measurements
        assert [found[name].value for name in names] == [None, None]
        assert found["placement_proven"] == before.measurements["placement_proven"]
        failed = Produced({"loads": Measurement(value=False, reason="a kernel fails")})
        assert stage.with_earlier(failed, before) == failed

    def test_goes_on_with_more_time(self, late: Late, root: Path) -> None:
        late.rows = 1
        before = self.bench(late)
        settings = root / "domains" / "legal" / "fallback.toml"
        text = settings.read_text()
        settings.write_text(re.sub(r"time_budget_seconds = \d+", "time_budget_seconds = 90", text))
        late.rows = 99
        found = self.bench(late)
        assert found.key == before.key and found.measurements["parity_tokens"].value == 64

    @pytest.mark.parametrize("outcome", ["crashed", "out_of_memory"])
    def test_for_want_of_memory_is_no_other_rungs_turn(self, late: Late, outcome: Any) -> None:
        late.result = BrowserResult(outcome=outcome, error="the tab went away")
        with pytest.raises(UserError, match="free some and run it again") as raised:
            self.bench(late)
        assert not isinstance(raised.value, RungFailed)

    def test_that_is_none_at_all_is_the_machines_fault_and_ends_no_rung(self, late: Late) -> None:
        late.result = BrowserResult(outcome="no_webgpu", error="this browser offers no adapter")
        with pytest.raises(UserError, match=r"/nowhere/chromium: .* not even a software one"):
            self.bench(late)

    def test_is_a_failure_on_a_gpu(self, late: Late, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "offered", lambda browser: "some GPU")
        adapter = Adapter(vendor="nvidia")
        late.result = BrowserResult(outcome="timeout", error="no answer", adapter=adapter)
        with pytest.raises(RungFailed, match="the browser: timeout: no answer"):
            self.bench(late)

    def test_is_a_failure_where_something_was_seen_wrong(self, late: Late) -> None:
        late.result.outcome, late.result.error = "device_lost", "the GPU device was lost"
        with pytest.raises(RungFailed, match="device_lost"):
            self.bench(late)
        assert len(late.asked) == 2, "a machine that failed once is asked once more"


class TestTheQuestions:
    def test_number_warm_ups_and_runs_apart_on_the_same_records(
        self, root: Path, package: Path
    ) -> None:
        domain, chat = load_domain("legal"), Chat(package)
        own = own_prompts(domain, chat, Profile.of(domain, hardware=True))
        assert list(own) == ["warm-up-0", "run-0", "run-1", "run-2"]
        assert own["warm-up-0"] == own["run-0"] != own["run-1"]

    @pytest.mark.parametrize("hardware", [False, True])
    def test_have_run_0_in_common_with_other_engines(
        self, root: Path, package: Path, hardware: bool
    ) -> None:
        domain, chat = load_domain("legal"), Chat(package)
        own = own_prompts(domain, chat, Profile.of(domain, hardware))
        assert own["run-0"] == own_question(domain, chat, hardware)["input_ids"]

    def test_are_json(self, root: Path, package: Path) -> None:
        domain = load_domain("legal")
        request = make_request(domain, package, Chat(package), Profile.of(domain, hardware=False))
        assert json.loads(json.dumps(request.payload)) == request.payload
        assert request.payload["parity"]["rows"] == request.rows


class TestThePlacement:
    OK = BrowserResult(ok=True, outcome="ok", dtype="q4", adapter=SWIFTSHADER)
    PLACED = Placement(WebGpuExecutionProvider=9, CPUExecutionProvider=0, cpu_nodes=[])

    def test_that_could_not_be_read_is_no_proof(self) -> None:
        result = self.OK.model_copy(update={"placement_reason": "the log lost lines"})
        found = measurements(result, {})["placement_proven"]
        assert (found.value, found.reason) == (False, "the log lost lines")
        assert describe(result) in found.where

    def test_that_was_read_is_one(self) -> None:
        result = self.OK.model_copy(update={"placement": self.PLACED})
        assert measurements(result, {})["placement_proven"].value is True


class TestTheDecodeSpeed:
    """What the gate judges."""

    def decode(self, *, software: bool, runs: Sequence[tuple[str, int]]) -> Measurement:
        timed = [
            Run(
                id=name,
                prompt_tokens=prompt,
                output_ids=[1, 2, 3, 4],
                ttft_ms=1000.0,
                decode_ms=[2000.0, 2000.0, 2000.0],
                stopped_by="max_new_tokens",
            )
            for name, prompt in runs
        ]
        result = BrowserResult(
            ok=True, outcome="ok", dtype="q4", software_adapter=software, runs=timed
        )
        cpu = {run.id: [1, 2, 3, 4] for run in timed}
        return measurements(result, cpu)["decode_tokens_per_second"]

    def test_is_that_from_an_empty_cache(self) -> None:
        found = self.decode(software=False, runs=[("run-0", 128), ("d0/0", 1)])
        assert found.value == 0.5 and "empty cache" in found.how

    def test_of_a_gpu_too_slow_to_come_to_that_is_what_it_reached(self) -> None:
        """0.5 tokens a second are not unknown: the gate fails."""
        found = self.decode(software=False, runs=[("run-0", 128)])
        assert found.value == 0.5 and "128 in the cache" in found.how

    def test_of_a_software_adapter_is_none(self) -> None:
        found = self.decode(software=True, runs=[("run-0", 24)])
        assert found.value is None and "software adapter" in str(found.reason)


class TestTheLikeliestToken:
    LOGITS = np.array([1.0, 3.0, 2.95, 2.5])

    def test_is_the_cpus_where_the_browser_wrote_another(self) -> None:
        assert likeliest(self.LOGITS, 3) == 1
        assert likeliest(self.LOGITS, 0) == 1

    def test_is_the_browsers_where_the_two_are_tied(self) -> None:
        assert likeliest(self.LOGITS, 2) == 2
        assert likeliest(self.LOGITS, 1) == 1

    def test_is_never_one_that_is_no_number(self) -> None:
        assert likeliest(np.array([np.nan, 3.0]), 1) != 1
