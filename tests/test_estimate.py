"""Time told before it is spent: within a factor of two of what was measured, with nothing done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.full_size import ARCHITECTURES, BLOCK_SIZE, SPECIAL
from shared.base import machine as measuring
from shared.base.formatting import about, duration
from shared.base.machine import Machine, measured_machine
from shared.base.progress import lines_to
from shared.cli.summary import inputs_report
from shared.domain.domain import load_domain
from shared.evaluate.models.mapped import KEPT_BYTES
from shared.pipeline import estimate as formulas
from shared.pipeline.chain import run_chain, select_records
from shared.pipeline.dry_run import dry_run
from shared.pipeline.estimate import Shape, Work, adapter_seconds, estimate
from shared.pipeline.forecast import total_time, words, work_of
from shared.pipeline.stages import Options, RungRun
from shared.pipeline.tune.tune import load_recipes
from tests.stand_ins import share_embedded

Tiny = Callable[[str], Path]

MEASURED_ON = Machine(
    float32=190e9,
    bfloat16=770e9,
    memory=17e9,
    int4=17e9,
    rounding=190e6,
    disk=0.535e9,
    hashing=1.7e9,
)
"""The machine of docs/full-size.md: two cores at 95 and 350 to 420 GFLOPS in float32 and bf16, 9.9
tokens/s of 1.75 GB, the disk of docs/performance.md."""


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    with lines_to(lines.append):
        yield lines


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second is spent on measuring."""
    monkeypatch.setattr("shared.pipeline.forecast.measured_machine", lambda: MEASURED_ON)


def full_size(architecture: str) -> Shape:
    kind, settings = ARCHITECTURES[architecture]
    return Shape.of(kind(**settings, **SPECIAL))


def legal_work(architecture: str = "smollm3", **changes: Any) -> Work:
    """What the repository's domain legal asks of its first rung, with what `changes` says."""
    domain = load_domain("legal")
    options = Options(systems="parent,release")
    selection = select_records(domain, options)
    run = RungRun(domain, domain.rung("smollm3"), "olive", selection, options)
    return replace(work_of(run), **{"block": BLOCK_SIZE[architecture], **changes})


PLAIN: dict[str, Any] = {"searched": False, "calibration": 0.0}
UNCALIBRATED: dict[str, Any] = {"searched": True, "calibration": 0.0}
CALIBRATED: dict[str, Any] = {"calibration": 4874.0, "made_up": False}
"""The tokens of the 16 texts that legal had then."""

MEASURED = [
    ("phi3", "build", PLAIN, 17.9, 0.828e9),
    ("qwen2.5", "build", PLAIN, 20, 1.421e9),
    ("smollm3", "build", PLAIN, 18.4, 1.314e9),
    ("smollm3", "fidelity", {"read": 1024}, 143, None),
    ("smollm3", "check", {}, 977, 6.57e9),
    ("smollm3", "bench", {}, 1148, 6.93e9),
    ("qwen2.5", "bench", {}, 1248, 7.41e9),
    ("phi3", "bench", {}, 1672, 5.84e9),
]
"""docs/full-size.md, and the first releases of a 3B: seconds and bytes of memory."""

LATER_ON = Machine(
    float32=267e9,
    bfloat16=780e9,
    memory=38.6e9,
    int4=23.6e9,
    rounding=247e6,
    disk=0.896e9,
    hashing=1.14e9,
)
"""Two cores with instructions for bfloat16, on which the quantiser was measured as it is now."""

LATER = [
    ("smollm3", "build", UNCALIBRATED, 119, None),
    ("smollm3", "build", {"made_up": False}, 733, 2.7e9),
]


@pytest.mark.parametrize(
    ("machine", "architecture", "stage", "changes", "seconds", "memory"),
    [*((MEASURED_ON, *row) for row in MEASURED), *((LATER_ON, *row) for row in LATER)],
)
def test_a_full_size_stage_is_estimated_within_a_factor_of_two(
    machine: Machine,
    architecture: str,
    stage: Any,
    changes: dict[str, Any],
    seconds: float,
    memory: float | None,
) -> None:
    work = legal_work(architecture, **changes)
    cost = estimate(full_size(architecture), work, machine)[stage]
    assert seconds / 2 < cost.seconds < 2 * seconds
    if memory:
        assert memory / 1.5 < cost.memory < 1.5 * memory


def test_a_recipe_that_calibrates_is_told_as_one() -> None:
    """Whatever of its settings it leaves to their defaults."""
    domain, options = load_domain("legal"), Options()
    selection = select_records(domain, options)
    for recipe in load_recipes():
        changed = replace(domain, olive=recipe.workflow(domain))
        run = RungRun(changed, domain.rung("smollm3"), "olive", selection, options)
        if "CalibratedQuant" in json.dumps(recipe.passes):
            assert work_of(run).searched, recipe.name


def test_the_operations_of_calibrating_are_those_that_were_counted() -> None:
    flops = formulas.gptq_flops(full_size("smollm3"), CALIBRATED["calibration"])
    assert sum(flops) == pytest.approx(108e12, rel=0.05)


def test_a_software_adapter_is_estimated_within_a_factor_of_two() -> None:
    assert 40 < adapter_seconds(full_size("smollm3"), 24, MEASURED_ON) < 160
    embedded = Shape(30, 576, 1536, 576, 192, 49152, tied=True)
    assert 21 < adapter_seconds(embedded, 512, MEASURED_ON) < 84


def test_a_small_models_build_is_estimated_within_a_factor_of_two() -> None:
    """The rung `example` of legal took 114 s on that machine."""
    embedded = Shape(30, 576, 1536, 576, 192, 49152, tied=True)
    seconds = estimate(embedded, legal_work(made_up=True), LATER_ON)["build"].seconds
    assert 57 < seconds < 228


@pytest.mark.parametrize(
    ("architecture", "parameters", "size"),
    [
        ("smollm3", 3.075e9, 1_746_913_490),
        ("phi3", 3.82e9, 1_971_475_888),
        ("qwen2.5", 3.086e9, 1_744_762_154),
    ],
)
def test_parameters_and_bytes_follow_from_the_configuration(
    architecture: str, parameters: float, size: int
) -> None:
    shape = full_size(architecture)
    assert shape.parameters == pytest.approx(parameters, rel=0.003)
    assert shape.release(BLOCK_SIZE[architecture]) == pytest.approx(size, rel=0.015)


def test_more_layers_cost_more_in_every_stage_and_a_larger_vocabulary_where_it_is_read() -> None:
    small, work = full_size("smollm3"), legal_work()
    before = estimate(small, work, MEASURED_ON)
    deeper = estimate(replace(small, layers=72), work, MEASURED_ON)
    for stage in ("source", "build", "fidelity", "check", "bench"):
        assert deeper[stage].seconds > before[stage].seconds
    assert deeper["build"].disk > 1.5 * before["build"].disk
    assert deeper["build"].memory == before["build"].memory  # a layer at a time
    assert deeper["check"].memory > before["check"].memory  # its answers' cache
    assert deeper["check"].mapped == before["check"].mapped
    merged = legal_work(adapted=True)
    deep, less = (estimate(replace(small, layers=n), merged, MEASURED_ON) for n in (72, 36))
    assert deep["check"].memory > 1.5 * less["check"].memory
    wordier = estimate(replace(small, vocabulary=256000), work, MEASURED_ON)
    assert wordier["build"].memory > before["build"].memory
    untied = estimate(replace(small, tied=False), work, MEASURED_ON)
    assert untied["build"].disk > before["build"].disk


def test_weights_that_stay_as_they_lie_on_the_disk_are_told_apart_from_what_must_be_had() -> None:
    shape = full_size("phi3")
    cost = estimate(shape, legal_work("phi3"), MEASURED_ON)
    for stage in ("fidelity", "check"):
        assert cost[stage].mapped == KEPT_BYTES < shape.parent
        assert "4.5 of them mapped" in words(cost[stage])
    assert cost["build"].mapped == 0
    merged = estimate(shape, legal_work("phi3", adapted=True), MEASURED_ON)
    assert merged["check"].mapped == 0
    assert "mapped" not in words(merged["check"])


def test_what_the_domain_asks_for_counts_where_it_is_spent() -> None:
    shape, work = full_size("smollm3"), legal_work()
    before = estimate(shape, work, MEASURED_ON)

    def dearer(**changes: Any) -> set[str]:
        after = estimate(shape, replace(work, **changes), MEASURED_ON)
        return {stage for stage in after if after[stage].seconds > before[stage].seconds}

    assert dearer(calibration=2 * work.calibration) == {"build"}
    less = estimate(shape, replace(work, made_up=False), MEASURED_ON)["build"]
    more = estimate(shape, replace(work, made_up=True), MEASURED_ON)["build"]
    assert less.seconds < more.seconds < 2.5 * less.seconds and less.memory < more.memory
    assert dearer(read=2 * work.read) == {"fidelity"}
    assert dearer(records=64) == dearer(limit=512) == dearer(tuned=False) == {"check"}
    assert dearer(systems=("base", "parent", "release")) == {"check"}
    assert dearer(packed=True) == {"source"}
    assert dearer(bench=replace(work.bench, hardware=True)) == set()


def test_a_slower_machine_is_told_more() -> None:
    shape, work = full_size("smollm3"), legal_work()
    slow = Machine(**{name: value / 3 for name, value in MEASURED_ON.model_dump().items()})
    for stage, cost in estimate(shape, work, MEASURED_ON).items():
        other = estimate(shape, work, slow)[stage].seconds
        assert other > 1.5 * cost.seconds or (stage == "bench" and other > cost.seconds)


def test_a_time_budget_and_a_slow_bfloat16_are_known_to_the_check() -> None:
    shape, work = full_size("smollm3"), legal_work()
    assert estimate(shape, replace(work, minutes=8), MEASURED_ON)["check"].seconds == 480
    fewest = estimate(shape, replace(work, records=8), MEASURED_ON)["check"].seconds
    assert 120 < fewest == estimate(shape, replace(work, minutes=2), MEASURED_ON)["check"].seconds
    emulated = MEASURED_ON.model_copy(update={"bfloat16": None})
    before, after = (estimate(shape, work, m)["check"].seconds for m in (MEASURED_ON, emulated))
    assert before < after < 4 * before  # in float32, not four thousand times slower


def test_decoding_is_told_by_the_speed_of_4_bit_weights() -> None:
    shape, work = full_size("smollm3"), legal_work()
    slow = MEASURED_ON.model_copy(update={"int4": MEASURED_ON.int4 / 4})
    before, after = (estimate(shape, work, m) for m in (MEASURED_ON, slow))
    assert {s for s in before if before[s].seconds != after[s].seconds} == {"check"}
    assert after["check"].seconds > 1.2 * before["check"].seconds


def test_a_machine_is_measured_once_a_day(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = [MEASURED_ON, MEASURED_ON.model_copy(update={"disk": 1.0})]
    monkeypatch.setattr(measuring, "_measure", lambda: measured.pop(0))
    assert measured_machine() == measured_machine() == MEASURED_ON
    (file,) = (root / "build").glob("machine-*.json")
    os.utime(file, (0, 0))
    assert measured_machine().disk == 1.0
    file.write_text("{}")
    monkeypatch.setattr(measuring, "_measure", lambda: MEASURED_ON)
    assert measured_machine() == MEASURED_ON


def test_measuring_gives_speeds_that_a_machine_can_have(root: Path) -> None:
    found = measured_machine()
    assert 1e9 < found.float32 < 1e14
    assert 1e8 < found.memory < 1e13
    assert 1e8 < found.int4 < 1e13
    assert found.bfloat16 is None or 1e9 < found.bfloat16 < 1e15
    assert 1e6 < found.disk < 1e11


@pytest.mark.usefixtures("known_machine")
def test_stages_are_told_before_they_run_and_are_done_in_the_next_dry_run(
    root: Path, few: Tiny, told: list[str]
) -> None:
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    domain, options = load_domain("legal"), Options(rung="smollm3", until="package")
    with total_time():
        assert run_chain(domain, options).rung
    begun = next(i for i, line in enumerate(told) if line.startswith("[2/"))
    assert [line.split()[0] for line in told[begun - 3 : begun]] == ["build", "package", "in"]
    assert told[-1].startswith("in all ")
    assert "; estimated " in told[-1]
    rows = dry_run("legal", Options(rung="smollm3")).splitlines()[2:]
    assert [row.split()[-1] == "done" for row in rows[:-2]] == [True] * 3 + [False] * 3

    told.clear()
    with total_time():
        run_chain(domain, options)
    assert not any("about" in line or "in all" in line for line in told)
    forced = dry_run("legal", Options(rung="smollm3", force=True))
    assert "done\n" not in forced


def test_what_took_much_longer_than_estimated_changes_the_rest(
    root: Path, few: Tiny, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Machine(**{name: value * 1e4 for name, value in MEASURED_ON.model_dump().items()})
    monkeypatch.setattr("shared.pipeline.forecast.measured_machine", lambda: fast)
    monkeypatch.setattr("shared.pipeline.forecast.WORTH_SECONDS", 0)
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    run_chain(load_domain("legal"), Options(rung="smollm3", until="package"))
    changed = [line for line in told if "the rest about" in line]
    assert len(changed) == 1
    assert changed[0].strip().startswith("so far ")


def test_times_read_as_a_person_says_them() -> None:
    assert duration(723) == "12 min 3 s"
    assert duration(3.4) == "3 s"
    assert duration(4000) == "1 h 6 min"
    assert [about(s) for s in (1, 43, 62, 1547, 6000)] == [
        "5 s",
        "45 s",
        "1 min",
        "26 min",
        "1 h 40 min",
    ]


def test_the_doctor_unpacks_nothing_and_looks_at_what_is_unpacked(
    root: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # else words are wrapped
    assert "would be unpacked first" in inputs_report("legal")[0]
    assert not list((root / "build").glob("embedded/*"))
    share_embedded(root)
    assert "LlamaForCausalLM in" in inputs_report("legal")[0]
