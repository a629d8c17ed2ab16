"""`release-family`: one base, an adapter for each domain, each of them measured and released.

The stages are real, on tiny models, but for the browser's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tasks
from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.formatting import number
from shared.base.front_matter import read_front_matter
from shared.base.hashing import files_below, sha256_now
from shared.base.manifest import Measurement
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.cli.program import Program
from shared.domain.domain import Domain, load_domain
from shared.evaluate.models.genai import GenaiModel
from shared.olive.family_record import DOMAIN_FILES
from shared.pipeline.release_family import Asked, FamilyResult, plan_family, release_family
from shared.pipeline.stages import Options
from shared.release.card.family import render_family_card
from shared.release.card.front_matter import problems
from shared.release.model import (
    FamilyRelease,
    family_folder,
    read_family_release,
    read_release,
    release_folder,
)
from shared.webgpu_bench import swapped
from shared.webgpu_bench.model_list import listing
from tests.releases import ON_A_GPU
from tests.test_family import DOMAINS, inodes, world

__all__ = ["world"]
NAME = "docintel-smollm3"
ONE, SHORT = Options(records="1"), ("--records", "1")
RUNG = """
[[rung]]
name = "tuned"
source = "models/base"
adapter = "models/{domain}/adapter"
base = "HuggingFaceTB/SmolLM3-3B"
why = "tiny, for a test"
"""
BROKEN, UNLOADED = set[str](), set[str]()
"""Domains whose browser run fails; whose model it does not load."""
OTHERWISE: set[str] = set()
"""Domains whose adapter, swapped in, computes something else than their own graph."""


def in_no_browser(domain: Domain, package: StageResult, **_: Any) -> StageResult:
    if domain.name in BROKEN:
        raise RungFailed("the browser did not load it")
    inputs = {"package": package.manifest.key}
    if domain.name not in UNLOADED:
        return run_stage(Plan("bench", inputs, code=()), lambda _: Produced(ON_A_GPU))
    found = {name: Measurement.missing("", "") for name in ON_A_GPU}
    found["loads"] = Measurement(value=False, reason="load_failed")
    return run_stage(Plan("bench", {"unloaded": "", **inputs}, code=()), lambda _: Produced(found))


def swapped_in_no_browser(
    domain: Domain, family: Path, package: StageResult, *_: Any, **__: Any
) -> StageResult:
    found = {name: ON_A_GPU[name] for name in swapped.NAMES}
    if domain.name in OTHERWISE:
        found["parity_kl_divergence"] = Measurement(value=0.5, unit="nats/token")
    inputs = {"package": package.manifest.key, "wrong": str(domain.name in OTHERWISE)}
    return run_stage(Plan("swapped", inputs, code=()), lambda _: Produced(found))


@pytest.fixture(scope="module")
def tuned(world: Path) -> Iterator[Path]:
    """The world of a family, whose domains name their adapters; nothing starts a browser."""
    for name in DOMAINS:
        with (world / "domains" / name / "fallback.toml").open("a", encoding="utf-8") as toml:
            toml.write(RUNG)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DOCINTEL_SIGNING_KEY", raising=False)
        patch.delenv("DOCINTEL_HUB_ORG", raising=False)
        patch.setattr("shared.pipeline.stages.bench_stage", in_no_browser)
        patch.setattr("shared.pipeline.family.swapped_stage", swapped_in_no_browser)
        for check in ("_need_browser", "_need_page"):
            patch.setattr(f"shared.pipeline.inputs.{check}", lambda: None)
        yield world


@pytest.fixture(scope="module")
def first(tuned: Path) -> FamilyResult:
    """Two domains, released as a family. Never to be changed."""
    return release_family(plan_family(Asked(domains=("legal", "medical"), rung="tuned")), ONE)


@pytest.fixture
def copied(first: FamilyResult, tuned: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """The same world with the family in it, to go on with."""
    shutil.copytree(tuned / "domains", tmp_path / "domains")
    shutil.copytree(tuned / "models", tmp_path / "models", copy_function=_linked)
    (tmp_path / "build").symlink_to(tuned / "build")
    monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path))
    return tmp_path


def _linked(source: str, target: str) -> None:
    """What is large is linked, what a test may write to copied."""
    if any(part in source for part in ("onnx", "safetensors", "/adapters/")):
        Path(target).hardlink_to(source)
    else:
        shutil.copy2(source, target)


def typed(*words: str) -> int:
    """The exit code of a command, in this process."""
    try:
        Program(tasks.namespace).run(["invoke", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def told(first: FamilyResult) -> FamilyRelease:
    assert first.family is not None
    return first.family


class TestTheFamilysFolder:
    def test_lists_every_file_with_its_hash(self, first: FamilyResult) -> None:
        folder, family = family_folder(NAME), told(first)
        assert family == read_family_release(folder)
        assert sorted(family.files) == sorted({*files_below(folder)} - {"family.json"})
        for name, record in family.files.items():
            assert sha256_now(folder / name) == record.sha256, name
        assert first.written == family.files and first.seconds > 0
        assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]

    def test_holds_the_bytes_that_each_domains_release_has(self, first: FamilyResult) -> None:
        ours = inodes(family_folder(NAME))
        base = [name for name in ours if name.endswith("_data")]
        assert base == ["onnx/model_q4.onnx_data", "onnx/model_q4f16.onnx_data"]
        for domain in told(first).domains:
            theirs = inodes(release_folder(domain))
            assert {n: theirs[n] for n in base} == {n: ours[n] for n in base}

    def test_has_what_a_domain_is_asked_with(self, first: FamilyResult) -> None:
        for domain, member in told(first).domains.items():
            release = read_release(release_folder(domain))
            assert (member.release, member.rung) == (release.key, "tuned")
            most = load_domain(domain).chain.check.max_new_tokens
            assert most == member.max_new_tokens == release.most_tokens
            for name in ("prompt.md", "schema.json", "grammar.ebnf"):
                mine = family_folder(NAME) / "domains" / domain / name
                assert sha256_now(mine) == release.files[name].sha256

    def test_is_answered_from_at_the_length_that_each_domain_was_measured_with(
        self, first: FamilyResult
    ) -> None:
        for one in listing({NAME: family_folder(NAME)}):
            assert one["max_new_tokens"] == told(first).domains[one["domain"]].max_new_tokens > 0
        family = told(first).model_copy(deep=True)
        family.domains["legal"].max_new_tokens = 777
        assert "max_length=min(len(ids) + 777, context)" in render_family_card(family)

    def test_is_not_written_again_where_nothing_changed(self, copied: Path) -> None:
        before = inodes(family_folder(NAME))
        again = release_family(plan_family(Asked(domains=("legal", "medical"))), ONE)
        assert all(result.ok for result in again.results) and again.written == {}
        assert inodes(family_folder(NAME)) == before


class TestItsCard:
    def test_says_what_is_shared_and_what_each_domain_adds(self, first: FamilyResult) -> None:
        family, card = told(first), (family_folder(NAME) / "README.md").read_text()
        assert card == render_family_card(family)
        data = read_front_matter(card)
        assert problems(data) == [] and data["base_model"] == "HuggingFaceTB/SmolLM3-3B"
        assert "2 domains on one 4-bit HuggingFaceTB/SmolLM3-3B" in card
        rows = {row.split("|")[1].strip(): row for row in card.splitlines() if row[:1] == "|"}
        for name in family.domains:
            size = family.adapters[name].files[f"adapters/{name}.safetensors"].bytes
            assert number(size, "B") in rows[name]
            assert f"docintel/docintel-{name}-smollm3-3b-webgpu" in rows[name]
        assert (
            number(family.shared["onnx/model_q4.onnx_data"].bytes, "B") in rows["data of the base"]
        )
        assert 'await open("docintel/docintel-legal-smollm3-3b-webgpu")' in card

    def test_has_a_snippet_that_switches_in_onnxruntime_genai(
        self, first: FamilyResult, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = (family_folder(NAME) / "README.md").read_text()
        [snippet] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        monkeypatch.chdir(family_folder(NAME).parent)
        found = subprocess.run(
            [sys.executable, "-c", snippet], capture_output=True, text=True, check=True
        ).stdout
        alone = [alone_in_genai(domain) for domain in ("legal", "medical")]
        assert found.startswith(alone[0]) and f"\n{alone[1]}" in found and alone[0] != alone[1]


def alone_in_genai(domain: str) -> str:
    """How the domain's own release begins to answer the snippet's document."""
    model, prompt = GenaiModel(release_folder(domain)), load_domain(domain).prompt
    return model.answer(model.chat.prompt_ids(prompt, "…your document…"), 4).text


class TestADomainOfIt:
    def test_is_released_with_its_figures_and_says_what_it_shares(
        self, first: FamilyResult
    ) -> None:
        assert [(r.domain, r.error) for r in first.results] == [("legal", None), ("medical", None)]
        release = read_release(release_folder("legal"))
        shared = release.facts["family"]["shared"]
        assert shared == {name: release.files[name].sha256 for name in shared} and len(shared) == 2
        card = (release_folder("legal") / "README.md").read_text()
        link = "[docintel/docintel-smollm3](https://huggingface.co/docintel/docintel-smollm3)"
        assert f"is the base of the family {link}, the same bytes in each of its domains" in card
        assert "adapter, beside the base" in card and "adapter, merged" not in card
        assert release.measurements["fidelity.kl_divergence"].value is not None
        assert release.measurements["package.q4f16_own_bytes"].value == sum(
            r.bytes
            for n, r in release.files.items()
            if n.startswith("onnx/model_q4f16") and n not in shared
        )


class TestAFurtherDomain:
    def test_is_added_by_its_own_files_and_leaves_the_others_as_they_are(
        self, copied: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        family, releases = inodes(family_folder(NAME)), inodes(copied / "models" / "legal")
        words = ("--domains", "financial", "--rung", "tuned", "--records", "1", "--json")
        assert typed("release-family", *words) == 0
        said = json.loads(capfd.readouterr().out)
        assert said["error"] is None
        written = said["family"]["written"]
        own = {f"adapters/financial.{kind}" for kind in ("json", "onnx_adapter", "safetensors")}
        asked = {f"domains/financial/{name}" for name in DOMAIN_FILES}
        assert written.keys() == {*own, *asked, "README.md"}
        assert sum(written.values()) < said["family"]["bytes"] / 2
        after = inodes(family_folder(NAME))
        large = {n for n in family if n.startswith(("onnx/", "adapters/"))}
        assert {n: after[n] for n in large} == {n: family[n] for n in large}
        assert inodes(copied / "models" / "legal") == releases
        grown = read_family_release(family_folder(NAME))
        assert grown.calibrated == ["legal", "medical"] and sorted(grown.domains) == sorted(DOMAINS)

    def test_that_fails_stays_out_of_the_folder_and_ends_with_1(
        self, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("tests.test_release_family.BROKEN", {"financial"})
        monkeypatch.setenv("COLUMNS", "200")  # no cell of the table is broken
        assert typed("release-family", "--domains", "financial", "--rung", "tuned", *SHORT) == 1
        said = capfd.readouterr()
        assert "not every domain was released" in said.err
        assert "the browser did not load it" in said.out
        family = read_family_release(family_folder(NAME))
        assert sorted(family.domains) == sorted(family.adapters) == ["legal", "medical"]
        assert not list((copied / "models" / "families").glob("*/adapters/financial*"))

    def test_that_is_in_it_and_fails_leaves_the_folder_as_it_was(
        self, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        before = read_family_release(family_folder(NAME))
        monkeypatch.setattr("tests.test_release_family.BROKEN", {"legal"})
        assert typed("release-family", "--domains", "medical", "--rung", "tuned", *SHORT) == 1
        assert read_family_release(family_folder(NAME)) == before
        assert "left as it was, since legal is in it" in capfd.readouterr().err

    def test_does_not_drop_who_joined_while_it_was_measured(self, copied: Path) -> None:
        late = replace(plan_family(Asked(domains=("medical",), rung="tuned")), there=None)
        assert typed("release-family", "--domains", "financial", "--rung", "tuned", *SHORT) == 0
        assert "financial has joined it meanwhile" in (release_family(late, ONE).error or "")
        assert sorted(read_family_release(family_folder(NAME)).domains) == sorted(DOMAINS)

    def test_that_does_not_load_is_failed_by_the_gate_that_says_so(
        self, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("tests.test_release_family.UNLOADED", {"medical"})
        assert typed("release-family", "--domains", "medical", "--rung", "tuned", *SHORT) == 1
        assert "gate 'loads in the browser on WebGPU'" in capfd.readouterr().err

    def test_is_not_released_where_its_adapter_swapped_in_computes_something_else(
        self, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        told = {gate.name: gate.outcome for gate in read_release(release_folder("legal")).gates}
        both = "WebGPU KL divergence from the CPU"
        assert told[both] == told[f"{both}, swapped in"] == "pass"
        before = read_family_release(family_folder(NAME))
        monkeypatch.setattr("tests.test_release_family.OTHERWISE", {"legal"})
        assert typed("release-family", "--domains", "medical", "--rung", "tuned", *SHORT) == 1
        assert read_family_release(family_folder(NAME)) == before
        assert f"gate '{both}, swapped in': 0.5" in capfd.readouterr().err


class TestAPlan:
    def test_leaves_out_who_has_no_adapter_unless_he_is_named(self, copied: Path) -> None:
        shutil.rmtree(copied / "models" / "families")
        shutil.rmtree(adapter := copied / "models" / "medical" / "adapter")
        plan = plan_family(Asked(rung="tuned"))
        assert [member.domain.name for member in plan.members] == ["financial", "legal"]
        assert "models/medical/adapter: the folder is not there" in plan.left_out["medical"]
        adapter.symlink_to("/mnt/away")
        assert "links to /mnt/away" in plan_family(Asked(rung="tuned")).left_out["medical"]
        with pytest.raises(RungFailed, match="models/medical/adapter: links to"):
            plan_family(Asked(rung="tuned", domains=("medical",)))

    def test_leaves_out_who_has_a_mistake_of_his_own_unless_he_is_named(self, copied: Path) -> None:
        shutil.copytree(copied / "domains" / "legal", copied / "domains" / "tax")
        (copied / "domains" / "tax" / "eval.jsonl").write_text("{")
        assert "tax/eval.jsonl" in plan_family(Asked(rung="tuned")).left_out["tax"]
        with pytest.raises(UserError, match=r"tax/eval\.jsonl"):
            plan_family(Asked(rung="tuned", domains=("tax",)))

    def test_is_of_the_domains_that_are_in_it_and_of_those_that_come(self, copied: Path) -> None:
        plan = plan_family(Asked(domains=("financial",), rung="tuned"))
        assert sorted(m.domain.name for m in plan.members) == sorted(DOMAINS)
        assert plan.there and plan_family(Asked(rung="tuned", anew=True)).there is None

    def test_does_not_take_the_place_of_what_is_no_family(self, copied: Path) -> None:
        (family_folder(NAME) / "family.json").unlink()
        with pytest.raises(UserError, match="holds no family; take another --name"):
            plan_family(Asked(rung="tuned", anew=True))

    def test_keeps_the_rung_and_the_precision_of_the_family_that_is_there(
        self, copied: Path
    ) -> None:
        plan = plan_family(Asked(domains=("legal",)))
        assert {member.rung.name for member in plan.members} == {"tuned"}
        assert plan.settings.precision == "int4"

    def test_takes_another_rung_for_those_that_come_and_not_for_those_that_are_there(
        self, copied: Path
    ) -> None:
        with (copied / "domains" / "financial" / "fallback.toml").open("a") as toml:
            toml.write(RUNG.replace('"tuned"', '"second"'))
        plan = plan_family(Asked(domains=("financial",), rung="second"))
        rungs = {member.domain.name: member.rung.name for member in plan.members}
        assert rungs == {"financial": "second", "legal": "tuned", "medical": "tuned"}

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            (Asked(), r"domains/defaults\.toml:\d+: family\.rung: no domain has an adapter there"),
            (Asked(domains=("nope",)), "domains/nope: no such domain"),
            (Asked(domains=("legal",), rung="tund"), "no rung is named 'tund'; did you mean"),
            (Asked(domains=("legal",), rung="smollm3"), "rung smollm3: adapter: missing"),
            (Asked(rung="tuned", precision="int5"), "release-family: precision: "),
            (Asked(rung="tuned", name="../x"), "release-family: name: "),
        ],
    )
    def test_is_refused_in_one_sentence(self, copied: Path, asked: Asked, words: str) -> None:
        shutil.copy(paths.REPOSITORY / "domains" / "defaults.toml", copied / "domains")
        shutil.rmtree(copied / "models" / "families")
        with pytest.raises(UserError, match=words):
            plan_family(asked)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('[family]\nname = "mine"\n', "family.name: holds for all domains"),
            ('[publish]\norg = "mine"\n', "publish.org: not defaults.toml's"),
        ],
    )
    def test_is_refused_where_a_domain_wants_for_itself_what_all_share(
        self, copied: Path, text: str, words: str
    ) -> None:
        with (copied / "domains" / "legal" / "fallback.toml").open("a") as toml:
            toml.write(text)
        with pytest.raises(UserError, match=words):
            plan_family(Asked(rung="tuned"))


def test_a_family_is_deleted_with_the_releases_and_its_adapters_stay(copied: Path) -> None:
    (copied / "build").unlink()
    assert typed("clean", "--releases") == 0
    assert not family_folder(NAME).exists() and not release_folder("legal").exists()
    assert (copied / "models" / "legal" / "adapter" / "adapter_config.json").is_file()


def test_a_family_does_not_grow_on_another_base(copied: Path) -> None:
    weights = copied / "models" / "base" / "config.json"
    changed = json.loads(weights.read_text()) | {"rope_theta": 5e3}
    weights.unlink()
    weights.write_text(json.dumps(changed))
    with pytest.raises(RungFailed, match=r"family\.json: base_weights: not those of models/base"):
        release_family(plan_family(Asked()), ONE)
