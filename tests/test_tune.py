"""`./inv tune`: what is tried, what is measured, what is chosen, what is written."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from shared.base.errors import UserError
from shared.base.manifest import Manifest, Measurement
from shared.base.stage import StageResult
from shared.domain.domain import Domain, domain_names, load_domain
from shared.evaluate.compare import Checked
from shared.olive.calibration_text import wants_calibration
from shared.pipeline import stages as chain_rung
from shared.pipeline.chain import select_records
from shared.pipeline.stages import WEBGPU_DECODE, Options, RungRun
from shared.pipeline.tune.report import pareto, put_into, render, write
from shared.pipeline.tune.tune import (
    Recipe,
    Tried,
    Tuning,
    _build,
    choose,
    load_recipes,
    tune,
    weight_bits,
    write_choice,
)

Tiny = Callable[[str], Path]


def tried(
    name: str, loss: float | None, size: float = 100.0, speed: float = 50.0, error: str = ""
) -> Tried:
    """A recipe with given figures; without a `loss` it was not measured."""
    found = Tried(Recipe(name, f"why {name}", {}), error=error)
    figures = {"q4f16_bytes": size, "bits_per_weight": size / 20}
    if loss is not None:
        figures |= {"kl_divergence": loss, "cpu_decode_tokens_per_second": speed}
        figures |= {"agreement": 0.9, "answer_agreement": 0.95, "perplexity_ratio": 1.1}
    for key, value in figures.items():
        unit = "share" if "agreement" in key else "B" if "bytes" in key else ""
        found.measured[key] = Measurement(value=value, unit=unit, n=400, standard_error=0.01)
    return found


BUDGET = 10**9


class TestTheChoice:
    """By the rule that tests/test_choose.py has, over the recipes that were measured."""

    def test_is_the_lowest_divergence(self) -> None:
        best, why = choose([tried("a", 0.3), tried("b", 0.1), tried("c", 0.2)], BUDGET)
        assert best is not None and best.recipe.name == "b"
        assert "0.1 nats/token" in why and "3 builds" in why

    def test_is_never_a_slow_one(self) -> None:
        best, why = choose([tried("a", 0.1, speed=47.4), tried("b", 0.2, speed=50)], BUDGET)
        assert best is not None and best.recipe.name == "b" and "1 build " in why
        best, _ = choose([tried("a", 0.1, speed=47.6), tried("b", 0.2, speed=50)], BUDGET)
        assert best is not None and best.recipe.name == "a"

    def test_is_never_one_over_the_budget_or_one_that_failed(self) -> None:
        some = [tried("big", None), tried("broken", None, error="x"), tried("a", 0.9)]
        best, _ = choose([*some, tried("bigger", 0.1, size=2 * BUDGET)], BUDGET)
        assert best is not None and best.recipe.name == "a"

    def test_is_none_where_nothing_fits(self) -> None:
        big = tried("big", None)
        big.over_budget = True
        best, why = choose([big], BUDGET)
        assert best is None and "within the budget" in why

    def test_is_none_where_nothing_could_be_measured(self) -> None:
        assert choose([tried("bad", None, error="x")], BUDGET) == (
            None,
            "nothing could be measured",
        )

    def test_is_never_one_that_the_browser_could_not_load(self) -> None:
        best, _ = choose([tried("broken", 0.1, error="it does not load"), tried("a", 0.9)], BUDGET)
        assert best is not None and best.recipe.name == "a"


def test_the_front_has_what_nothing_beats_in_both() -> None:
    small, good = tried("small", 0.3, 90), tried("good", 0.1, 110)
    worse, unmeasured = tried("worse", 0.35, 100), tried("unmeasured", None, 10)
    assert pareto([small, good, worse, unmeasured]) == [small, good]


def test_bits_per_weight_count_scales_and_zero_points_but_no_rotary_table(tmp_path: Path) -> None:
    def tensor(name: str, values: int, kind: int = TensorProto.UINT8) -> onnx.TensorProto:
        size = values * (1 if kind == TensorProto.UINT8 else 2)
        return helper.make_tensor(name, kind, [values], b"\0" * size, raw=True)

    weights = [
        tensor("a_q4", 16 * 32),
        tensor("a_scales", 32, TensorProto.FLOAT16),
        tensor("a_zeros", 16),
        tensor("cos_cache", 999, TensorProto.FLOAT16),
    ]
    graph = helper.make_graph([], "g", [], [], weights)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert weight_bits(tmp_path / "m.onnx") == 1024 * 4 + 32 * 16 + 32 * 4


@pytest.mark.parametrize("domain", domain_names())
@pytest.mark.parametrize("recipe", load_recipes(), ids=lambda r: r.name)
def test_every_recipe_has_only_keys_that_olive_reads(domain: str, recipe: Recipe) -> None:
    workflow = recipe.workflow(load_domain(domain))
    assert list(workflow["passes"].values())[-1]["type"] == "StreamingModelBuilder"
    wants_calibration(workflow)


def test_an_unknown_recipe_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"no recipe 'calibratd'.*calibrated"):
        load_recipes("default,calibratd")


@pytest.mark.parametrize("domain", domain_names())
def test_the_default_of_every_domain_is_among_the_recipes(domain: str) -> None:
    loaded = load_domain(domain)
    assert [r.name for r in load_recipes() if r.workflow(loaded) == loaded.olive] == ["calibrated"]


def checked(domain: Domain, right: int) -> Checked:
    """A check in which so many of 40 records were answered right, the others with an empty object."""
    records = domain.records[:40]
    lines = []
    for number, record in enumerate(records):
        text = json.dumps(record.gold) if number < right else "{}"
        line = {"system": "release", "mode": "free", "id": record.id, "text": text}
        lines.append(line)
    metrics = {name: how.model_dump() for name, how in domain.chain.metrics.items()}
    share = Measurement(value=right / 40, unit="share", n=40)
    names = ("json_validity", "schema_compliance", "field_score")
    manifest = Manifest.model_construct(
        settings={"schema": domain.schema, "metrics": metrics},
        measurements={f"release.free.{name}": share for name in names},
        facts={"origin": "ours"},
    )
    return Checked(manifest, {r.id: r.model_dump() for r in records}, lines)


def test_a_recipe_that_was_written_before_leaves_nothing_in_the_others(root: Path) -> None:
    domain = load_domain("legal")
    by_name = {r.name: r for r in load_recipes()}
    for written in ("default-b128", "calibrated-b128"):
        after = dataclasses.replace(domain, olive=by_name[written].workflow(domain))
        for recipe in by_name.values():
            assert recipe.workflow(after) == recipe.workflow(domain), (written, recipe.name)


def test_the_builder_of_a_domain_may_have_any_name(root: Path) -> None:
    domain = load_domain("legal")
    passes = {"onnx" if n == "int4" else n: p for n, p in domain.olive["passes"].items()}
    domain = dataclasses.replace(domain, olive=domain.olive | {"passes": passes})
    for recipe in load_recipes():
        assert list(recipe.workflow(domain)["passes"])[-1] == "onnx"


@pytest.mark.parametrize("tokens", [0, -1, 15])
def test_too_few_tokens_are_refused_before_anything_is_built(root: Path, tokens: int) -> None:
    with pytest.raises(UserError, match=f"--tokens: 16 or more, not {tokens}"):
        tune("legal", Options(), BUDGET, tokens)


def test_without_calibration_text_the_recipes_that_need_it_fail_alone(root: Path) -> None:
    (root / "domains" / "legal" / "calibration.jsonl").unlink()
    domain = load_domain("legal")
    for recipe in load_recipes("autoclip,default"):
        run = RungRun(
            domain, domain.chain.rung[0], "olive", select_records(domain, Options()), Options()
        )
        if recipe.name == "autoclip":
            _build(recipe, run, BUDGET)
            assert (run.outcome, run.reason) == ("failed", "the domain has no calibration.jsonl")
        else:
            with pytest.raises(UserError, match="rung smollm3"):  # there are no weights
                _build(recipe, run, BUDGET)


def test_a_recipe_that_names_layers_by_number_fails_where_a_model_has_others(
    root: Path, few: Tiny
) -> None:
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    domain = load_domain("legal")
    (recipe,) = load_recipes("calibrated-asym-b64-down8")
    run = RungRun(
        domain, domain.chain.rung[0], "olive", select_records(domain, Options()), Options()
    )
    _build(recipe, run, BUDGET)
    assert (run.outcome, run.reason) == ("failed", "made for 30 layers; the model has 4")


class TestTheReport:
    @pytest.fixture
    def tuning(self, root: Path) -> Tuning:
        some = [tried("a", 0.3), tried("b", 0.1), tried("huge", None), tried("bad", None)]
        some[2].over_budget = True
        some[3].measured.clear()
        some[3].error = "Olive says no"
        domain = load_domain("legal")
        some[0].checked, some[1].checked = checked(domain, 20), checked(domain, 40)
        best, why = choose(some, BUDGET)
        return Tuning(domain, "embedded", BUDGET, "ours", some, best, why)

    def test_tells_of_everything_that_was_tried(self, tuning: Tuning) -> None:
        words = render(tuning)
        order = [words.index(name) for name in ("| b*+", "| a ", "| huge")]
        assert order == sorted(order), "the best comes first"
        assert "over the budget" in words
        assert "- bad (why bad): Olive says no" in words
        assert f"4 of the {len(load_recipes())} recipes" in words

    def test_claims_no_error_where_there_is_none(self, tuning: Tuning) -> None:
        one = tuning.tried[0].measured
        one["kl_divergence"] = one["kl_divergence"].model_copy(update={"standard_error": None})
        row = next(line for line in render(tuning).splitlines() if line.startswith("| a "))
        assert "| 0.3000 " in row and "0.3000 ±" not in row

    def test_compares_answers_with_the_best_ones_pair_by_pair(self, tuning: Tuning) -> None:
        row = next(line for line in render(tuning).splitlines() if "points (" in line)
        assert row.startswith("| a ") and ", n = 40): worse" in row and "-" in row

    def test_is_written_for_people_and_programs(self, tuning: Tuning) -> None:
        markdown, sheet, data, plot = write(tuning)
        assert "| b*+" in markdown.read_text()
        assert (
            sheet.read_text().splitlines()[0].startswith("recipe,q4f16_bytes,bits_per_weight,kl_")
        )
        told = json.loads(data.read_text())
        assert told["chosen"] == "b" and told["recipes"]["bad"]["error"] == "Olive says no"
        assert plot.read_bytes().startswith(b"\x89PNG")

    def test_renews_its_block_of_a_document_and_nothing_else(
        self, tuning: Tuning, tmp_path: Path
    ) -> None:
        document = tmp_path / "doc.md"
        document.write_text("# A\n<!-- tuned: legal embedded -->\nold\n<!-- end -->\nafter\n")
        put_into(document, tuning)
        text = document.read_text()
        assert text.startswith("# A\n") and text.endswith("<!-- end -->\nafter\n")
        assert "| b*+" in text and "old" not in text
        with pytest.raises(UserError, match="has no block <!-- tuned: legal other -->"):
            put_into(document, dataclasses.replace(tuning, rung="other"))


def chose(domain: Domain, name: str) -> Tuning:
    found = Tried(next(r for r in load_recipes() if r.name == name))
    return Tuning(domain, "embedded", BUDGET, "", [found], found, "")


def test_a_choice_that_a_rungs_settings_do_not_fit_is_not_written(root: Path) -> None:
    domain = load_domain("legal")
    before = (root / "domains" / "legal" / "olive.json").read_text()
    with pytest.raises(UserError, match=r"rung phi3-mini, after k-quant.*no 'calibrated'"):
        write_choice(chose(domain, "k-quant"))
    assert (root / "domains" / "legal" / "olive.json").read_text() == before


def test_a_choice_that_the_tuned_rung_would_not_build_is_not_written(root: Path) -> None:
    domain = load_domain("legal")
    before = (root / "domains" / "legal" / "olive.json").read_text()
    tuning = dataclasses.replace(chose(domain, "calibrated-b64"), rung="phi3-mini")
    with pytest.raises(
        UserError, match=r"rung phi3-mini: passes\.calibrated\.group_size.*: this rung"
    ):
        write_choice(tuning)
    assert (root / "domains" / "legal" / "olive.json").read_text() == before


def test_the_browsers_speed_is_shown_and_decides_nothing(root: Path) -> None:
    near, quick = tried("a", 0.1), tried("b", 0.2)
    near.measured[WEBGPU_DECODE] = Measurement.missing("software adapter", "tokens/s")
    quick.measured[WEBGPU_DECODE] = Measurement(value=61.0, unit="tokens/s")
    tuning = Tuning(load_domain("legal"), "embedded", BUDGET, "", [near, quick], near, "")
    assert "not measured (software adapter)" in render(tuning) and "61 tokens/s" in render(tuning)
    assert choose([near, quick], BUDGET)[0] is near


class TestTheBrowsersSpeedOfARun:
    @pytest.fixture
    def run(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> RungRun:
        domain = load_domain("legal")
        selection = select_records(domain, Options())
        found = RungRun(domain, domain.chain.rung[0], "olive", selection, Options())
        speed = Measurement(value=61.0, unit="tokens/s", software_adapter=False)
        manifest = Manifest.model_construct(measurements={"decode_tokens_per_second": speed})

        def note(self: RungRun, stage: str) -> None:
            self.stages[stage] = StageResult(root, manifest, reused=True)

        monkeypatch.setattr(RungRun, "_run", note)
        return found

    def test_is_not_asked_for_without_a_gpu(
        self, run: RungRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chain_rung, "has_gpu", lambda: False)
        run.measure_on_gpu()
        assert run.stages == {} and WEBGPU_DECODE not in run.measured

    @pytest.mark.parametrize(("software", "counts"), [(False, True), (True, False)])
    def test_counts_on_a_hardware_adapter_alone(
        self, run: RungRun, monkeypatch: pytest.MonkeyPatch, software: bool, counts: bool
    ) -> None:
        monkeypatch.setattr(chain_rung, "has_gpu", lambda: True)
        run.measure_on_gpu()
        run.stages["bench"].manifest.measurements[
            "decode_tokens_per_second"
        ].software_adapter = software
        assert (WEBGPU_DECODE in run.measured) == counts


def test_the_choice_can_be_written_into_the_domain(root: Path) -> None:
    domain = load_domain("legal")
    tuning = chose(domain, "calibrated")
    recipe = tuning.tried[0].recipe
    write_choice(tuning)
    assert load_domain("legal").olive == recipe.workflow(domain)
    with pytest.raises(UserError, match=r"olive\.json: not changed"):
        write_choice(dataclasses.replace(tuning, chosen=None, why="nothing fits"))


@pytest.mark.slow
def test_a_model_is_tuned_from_end_to_end(root: Path, few: Tiny) -> None:
    shutil.copytree(few("llama"), root / "models" / "legal" / "smollm2")
    path = root / "domains" / "legal" / "fallback.toml"
    text = path.read_text().replace('"models/{domain}/merged"', '"models/{domain}/smollm2"')
    path.write_text(text)
    found = tune(
        "legal",
        Options(rung="smollm2", records="2"),
        BUDGET,
        tokens=600,
        only="default,calibrated,calibrated-head8",
    )
    by_name = {t.recipe.name: t for t in found.tried}
    assert not [t.error for t in found.tried if t.error]
    losses = [by_name[n].value("kl_divergence") for n in by_name]
    assert losses == sorted(losses, reverse=True), losses
    bits = {n: t.value("bits_per_weight") for n, t in by_name.items()}
    assert bits["default"] == bits["calibrated"] < bits["calibrated-head8"]
    assert all(t.checked and len(t.checked.lines) == 2 for t in found.tried)
    small = tune("legal", Options(rung="smollm2"), 10**5, tokens=600, only="default")
    assert small.chosen is None and small.tried[0].over_budget
