"""A family: one base, its bytes once, an adapter for each domain, and more of them later."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
import pytest
from safetensors.torch import load_file

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.hashing import files_below, sha256_now
from shared.base.manifest import FILE_NAME
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.domain.settings import Precision
from shared.evaluate.models.genai import GenaiModel
from shared.olive.family_record import DOMAIN_FILES, RECORD, read_family
from shared.pipeline.family import Family, Member, build_family, run_member
from shared.pipeline.stages import Options
from shared.release.card.recipe import recipe_words
from shared.source.adapter import CONFIG
from shared.webgpu_bench.model_list import listing
from tests.stand_ins import take_any_architecture
from tests.test_family_graph import ALL, SOME, logits, trained
from tests.tiny import FEW_TOKENS, write_tiny

DOMAINS = ("legal", "medical", "financial")
KINDS: dict[str, dict[str, Any]] = {"legal": ALL, "medical": ALL | {"r": 8}, "financial": SOME}
IDS = [1, 4093, 198, 1780, 314, 260, 3575, 282, 649, 47, 2, 198]


def member(name: str, **changes: Any) -> Member:
    domain = load_domain(name)
    named = {"source": "models/base", "adapter": f"models/{name}/adapter", "licence": "apache-2.0"}
    return Member(domain, domain.rung("smollm3").model_copy(update=named | changes))


@pytest.fixture(scope="module")
def world(embedded: Path, new_folder: Callable[[str], Path]) -> Iterator[Path]:
    """Three domains, a tiny base and an adapter for each of them."""
    root = new_folder("family")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCINTEL_ROOT", str(root))
        for name in DOMAINS:
            shutil.copytree(paths.REPOSITORY / "domains" / name, root / "domains" / name)
            take_any_architecture(root / "domains" / name)
        base = write_tiny(root / "models" / "base", "smollm3", embedded, vocab_size=FEW_TOKENS)
        for seed, (name, kind) in enumerate(KINDS.items()):
            trained(base, root / "models" / name / "adapter", kind, seed)
        yield root


@pytest.fixture(scope="module")
def family(world: Path) -> Family:
    """Of two of the domains."""
    return build_family([member("medical"), member("legal")])


@pytest.fixture
def copied(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same world to spoil, without anything built."""
    shutil.copytree(world / "domains", tmp_path / "domains")
    shutil.copytree(world / "models", tmp_path / "models")
    monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path))
    return tmp_path


def inodes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_ino for name in files_below(folder)}


def built(world: Path) -> set[str]:
    """Every stage's result that is there."""
    return {str(p.parent.relative_to(world)) for p in world.glob("build/*/*/manifest.json")}


def alone(package: Path) -> list[int]:
    """What a domain's own package answers in onnxruntime-genai."""
    return GenaiModel(package).answer(IDS, 16).output_ids


class TestTheFoldersOfAFamily:
    def test_hold_the_bases_bytes_once(self, family: Family) -> None:
        whole = inodes(family.folder)
        data = [name for name in whole if "_data" in name]
        assert sorted(data) == ["onnx/model_q4.onnx_data", "onnx/model_q4f16.onnx_data"]
        for package in family.packages.values():
            own = inodes(package.folder)
            assert {own[name] for name in data} == {whole[name] for name in data}
            assert {n for n in own if "_data" in n} == {*data, *(f"{n}_1" for n in data)}

    def test_tell_every_files_hash(self, family: Family) -> None:
        record = read_family(family.folder)
        assert record.calibrated == ["legal", "medical"] == sorted(record.adapters)
        for files in (record.shared, *(a.files for a in record.adapters.values())):
            for name, told in files.items():
                assert sha256_now(family.folder / name) == told.sha256
        listed = {*record.shared, *(n for a in record.adapters.values() for n in a.files)}
        assert listed == {*files_below(family.folder)} - {RECORD, FILE_NAME}

    def test_hold_how_each_domain_is_asked(self, family: Family) -> None:
        for name in ("legal", "medical"):
            folder, domain = family.folder / "domains" / name, load_domain(name)
            assert {path.name for path in folder.iterdir()} == set(DOMAIN_FILES)
            assert (folder / "prompt.md").read_text() == domain.prompt + "\n"
            assert (folder / "schema.json").read_bytes() == (
                domain.folder / "schema.json"
            ).read_bytes()
            assert (folder / "grammar.ebnf").read_text() == grammar(domain.schema)
            assert (folder / "example.txt").read_text() in [r.input for r in domain.records]

    def test_are_listed_for_a_page_by_domain(self, family: Family) -> None:
        legal, medical = listing({"both": family.folder})
        assert (legal["name"], legal["domain"], legal["family"]) == ("both/legal", "legal", "both")
        assert legal["files"] == medical["files"] and legal["bytes"] == medical["bytes"]
        names = set(legal["files"])
        assert {"config.json", "tokenizer.json", "onnx/swap_q4.onnx"} < names
        assert "onnx/model_q4.onnx_data" in names and "onnx/model_q4.onnx" not in names
        assert legal["bytes"]["q4"] == sum(
            (family.folder / "onnx" / name).stat().st_size
            for name in ("swap_q4.onnx", "model_q4.onnx_data")
        )
        file = family.folder / medical["adapter"]["file"]
        assert file == family.folder / "adapters" / "medical.safetensors"
        assert medical["adapter"]["sha256"] == sha256_now(file)
        assert medical["system_prompt"] == load_domain("medical").prompt != legal["system_prompt"]
        assert medical["schema"] == load_domain("medical").schema and medical["example"]

    def test_are_refused_where_a_domains_name_is_a_way_out(
        self, family: Family, tmp_path: Path
    ) -> None:
        told = json.loads((family.folder / RECORD).read_text())
        told["adapters"]["../legal"] = told["adapters"].pop("legal")
        (tmp_path / RECORD).write_text(json.dumps(told))
        with pytest.raises(UserError, match=rf"{RECORD}: adapters\.\.\./legal"):
            listing({"both": tmp_path})

    def test_tell_a_page_the_shapes_and_the_hash_of_an_adapter(self, family: Family) -> None:
        told = json.loads((family.folder / "adapters" / "legal.json").read_text())
        file = family.folder / "adapters" / "legal.safetensors"
        kinds = {"float16": "torch.float16", "uint8": "torch.uint8"}
        assert told["sha256"] == sha256_now(file) and told["bytes"] == file.stat().st_size
        assert {n: [kinds[k], *s] for n, (k, *s) in told["tensors"].items()} == {
            name: [str(t.dtype), *t.shape] for name, t in load_file(file).items()
        }

    def test_are_not_made_again(self, family: Family, world: Path) -> None:
        before = built(world)
        again = build_family([member("legal"), member("medical")])
        assert again.done.reused and again.folder == family.folder and built(world) == before


class TestADomainOfAFamily:
    def test_is_an_ordinary_package_for_both_runtimes(self, family: Family) -> None:
        for package in family.packages.values():
            config = json.loads((package.folder / "config.json").read_text())
            counts = config["transformers.js_config"]["use_external_data_format"]
            assert counts == {"model_q4f16.onnx": 2, "model_q4.onnx": 2}
        assert len({tuple(alone(p.folder)) for p in family.packages.values()}) == 2

    def test_computes_what_the_swapped_graph_computes_with_its_adapter(
        self, family: Family
    ) -> None:
        onnx = family.folder / "onnx"
        for name, package in family.packages.items():
            tensors = load_file(family.folder / "adapters" / f"{name}.safetensors")
            swapped = logits(onnx / "swap_q4.onnx", tensors)
            own = logits(package.folder / "onnx" / "model_q4.onnx")
            np.testing.assert_allclose(swapped, own, atol=1e-4)
            nothing = {name: tensor * 0 for name, tensor in tensors.items()}
            assert np.array_equal(
                logits(onnx / "swap_q4.onnx", nothing), logits(onnx / "model_q4.onnx")
            )

    def test_is_switched_to_and_back_in_one_session_of_onnxruntime_genai(
        self, family: Family
    ) -> None:
        config = og.Config(str(family.folder))
        config.clear_providers()
        swap = {"filename": "onnx/swap_q4f16.onnx"}
        config.overlay(json.dumps({"model": {"decoder": swap}}))
        model = og.Model(config)
        adapters = og.Adapters(model)
        for name in family.packages:
            adapters.load(str(family.folder / "adapters" / f"{name}.onnx_adapter"), name)

        def answer(name: str) -> list[int]:
            parameters = og.GeneratorParams(model)
            parameters.set_search_options(max_length=len(IDS) + 16, do_sample=False)
            generator = og.Generator(model, parameters)
            generator.set_active_adapter(adapters, name)
            generator.append_tokens(IDS)
            while not generator.is_done():
                generator.generate_next_token()
            return [int(token) for token in generator.get_sequence(0)[len(IDS) :]]

        wanted = {name: alone(package.folder) for name, package in family.packages.items()}
        for name in ("legal", "medical", "legal"):
            assert answer(name)[: len(wanted[name])] == wanted[name]

    @pytest.mark.parametrize(
        ("dtype", "precision"), [("q4", "int4"), ("q4f16", "int4"), ("q4", "int8"), ("q4", "f16")]
    )
    def test_is_switched_to_and_back_in_one_session_of_transformers_js(
        self, world: Path, tmp_path: Path, dtype: str, precision: Precision
    ) -> None:
        """In Node, by the page's own module; each time with the tokens of the domain's own package."""
        family = build_family([member("legal"), member("medical")], precision)
        bench = paths.REPOSITORY / "shared" / "webgpu_bench"
        turns = ("legal", "medical", "legal")
        job = {
            "modules": str(bench / "node_modules"),
            "page": str(bench / "page"),
            "family": str(family.folder),
            "packages": {name: str(package.folder) for name, package in family.packages.items()},
            "dtype": dtype,
            "most": 12,
            "ids": IDS,
            "turns": turns,
        }
        (tmp_path / "job.json").write_text(json.dumps(job))
        command = ["node", str(Path(__file__).with_name("swap.mjs")), str(tmp_path / "job.json")]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr[-2000:]
        found = json.loads(run.stdout)
        assert [turn["ids"] for turn in found["turns"]] == [found["alone"][name] for name in turns]
        assert found["alone"]["legal"] != found["alone"]["medical"]
        fetched = [turn["fetched"] for turn in found["turns"]]
        graph = {"config.json", f"onnx/swap_{dtype}.onnx", f"onnx/model_{dtype}.onnx_data"}
        assert graph < {*fetched[0]} and "adapters/legal.safetensors" in fetched[0]
        assert fetched[1:] == [["adapters/medical.safetensors"], []]
        assert found["two"] == ["onnx/model_q4.onnx_data", "onnx/model_q4.onnx_data_1"]
        chosen = "no adapter was chosen"
        assert [chosen in text for text in found["errors"]] == [True, False, True]

    def test_is_measured_as_any_rung_with_base_and_adapter_as_its_parent(
        self, family: Family
    ) -> None:
        found = run_member(family, member("legal"), Options(until="fidelity", on_the_way=True))
        assert found.rung and found.stages["package"].folder == family.packages["legal"].folder
        figures = found.manifests["fidelity"].measurements
        divergence = figures["kl_divergence"].value
        assert isinstance(divergence, float) and divergence > 0
        assert found.manifests["package"].inputs["build"] == found.manifests["build"].key
        words = recipe_words(found.manifests["build"])
        assert "CalibratedQuant" in words and "→ AttachAdapter; calibrated on" in words
        assert found.attempts[0].source == "models/base + models/legal/adapter"

    def test_is_not_measured_on_what_calibrated_the_base(
        self, family: Family, world: Path, tmp_path: Path
    ) -> None:
        text = (world / "domains" / "medical" / "calibration.jsonl").read_text().splitlines()[0]
        record = {"id": "other", "input": json.loads(text)["input"], "gold": {}}
        (tmp_path / "records.jsonl").write_text(json.dumps(record) + "\n")
        asked = Options(until="build", records_file=tmp_path / "records.jsonl")
        with pytest.raises(UserError, match=r"medical.*is also in the held-out record other"):
            run_member(family, member("legal"), asked)


class TestAFurtherDomain:
    def test_writes_only_its_own_files(self, family: Family, world: Path) -> None:
        before, stages = inodes(family.folder), built(world)
        members = [member(name) for name in DOMAINS]
        grown = build_family(members, grown_from=family.folder)
        after = inodes(grown.folder)
        own = {f"adapters/financial.{kind}" for kind in ("json", "onnx_adapter", "safetensors")}
        own |= {f"domains/financial/{name}" for name in DOMAIN_FILES}
        assert after.keys() - before.keys() == own
        large = {name for name in before if name.startswith(("onnx/", "adapters/"))}
        assert {name: after[name] for name in large} == {name: before[name] for name in large}
        assert read_family(grown.folder).calibrated == ["legal", "medical"]
        made = {name.split("/")[1] for name in built(world) - stages}
        assert made == {
            *("contract", "joined", "source", "prompt"),
            *("attached", "package", "adapter", "family"),
        }

    def test_of_a_larger_rank_makes_the_graph_to_swap_in_anew_but_not_the_base(
        self, family: Family, copied: Path, world: Path
    ) -> None:
        (copied / "build").symlink_to(world / "build")
        shutil.rmtree(copied / "models" / "financial")
        trained(copied / "models" / "base", copied / "models/financial/adapter", ALL | {"r": 40})
        members = [member(name) for name in DOMAINS]
        grown = build_family(members, grown_from=family.folder)
        before, after = (read_family(made.folder).shared for made in (family, grown))
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"onnx/swap_q4.onnx", "onnx/swap_q4f16.onnx"}


class TestAFamilyIsRefused:
    def refused(self, *members: Member, **more: Any) -> str:
        with pytest.raises(RungFailed) as found:
            build_family(members, **more)
        assert not list((paths.build() / "build").glob("*")), "something was built all the same"
        return str(found.value)

    def test_where_adapters_have_different_bases(self, copied: Path, embedded: Path) -> None:
        place, few = copied / "models" / "other", {"vocab_size": FEW_TOKENS}
        other = write_tiny(place, "smollm3", embedded, rope_theta=5e3, **few)
        found = self.refused(member("legal"), member("medical", source="models/other"))
        assert other.is_dir()
        assert "models/medical/adapter: its base models/other is not the one" in found

    def test_where_a_domain_has_a_whole_model(self, copied: Path) -> None:
        found = self.refused(member("legal"), member("medical", adapter=None))
        assert "domains/medical/fallback.toml: rung smollm3: adapter: missing" in found

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [("use_dora", True, "DoRA"), ("modules_to_save", ["lm_head"], "whole modules")],
    )
    def test_where_an_adapter_is_more_than_a_lora(
        self, copied: Path, key: str, value: Any, words: str
    ) -> None:
        file = copied / "models" / "medical" / "adapter" / CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        found = self.refused(member("legal"), member("medical"))
        assert f"models/medical/adapter/{CONFIG}: {key}: {words}" in found

    def test_where_a_domain_builds_otherwise(self, copied: Path) -> None:
        override = {"passes.calibrated.group_size": 64}
        found = self.refused(member("legal"), member("medical", olive=override))
        assert "medical/fallback.toml: rung smollm3: olive: not as legal's" in found

    def test_where_a_domain_calibrates_with_what_another_is_measured_on(self, copied: Path) -> None:
        legal, medical = (copied / "domains" / name for name in ("legal", "medical"))
        held_out = json.loads((legal / "eval.jsonl").read_text().splitlines()[0])
        texts = medical / "calibration.jsonl"
        first = json.loads(texts.read_text().splitlines()[0])
        stolen = first | {"id": "stolen", "input": held_out["input"]}
        texts.write_text(texts.read_text() + json.dumps(stolen) + "\n")
        with pytest.raises(UserError, match=f"medical.*stolen: its text.* {held_out['id']}"):
            build_family([member("legal"), member("medical")])

    def test_where_a_domain_that_calibrated_its_base_is_gone(
        self, family: Family, copied: Path
    ) -> None:
        shutil.rmtree(copied / "domains" / "medical")
        found = self.refused(member("legal"), grown_from=family.folder)
        assert "calibrated: medical is not among the domains" in found

    def test_where_its_base_would_come_out_with_other_bytes(
        self, family: Family, world: Path, tmp_path: Path
    ) -> None:
        """As where a prompt, a recipe or a tool has changed since it was built."""
        told = json.loads((family.folder / RECORD).read_text())
        told["shared"]["onnx/model_q4.onnx_data"]["sha256"] = "0" * 64
        (tmp_path / RECORD).write_text(json.dumps(told))
        with pytest.raises(
            RungFailed, match=r"onnx/model_q4\.onnx_data: the base comes out otherwise"
        ):
            build_family([member(name) for name in DOMAINS], grown_from=tmp_path)

    def test_where_an_adapter_brought_a_chat_template_of_its_own(
        self, family: Family, copied: Path, world: Path
    ) -> None:
        (copied / "build").symlink_to(world / "build")
        template = (copied / "models" / "base" / "chat_template.jinja").read_text()
        own = copied / "models" / "medical" / "adapter" / "chat_template.jinja"
        own.write_text("{# as it was trained #}" + template)
        with pytest.raises(RungFailed, match=r"chat_template: medical's is not the base's"):
            build_family([member("legal"), member("medical")])


class Built(Exception):
    """The base would be built now."""


def test_a_tokenizer_that_a_trainers_version_wrote_otherwise_is_the_same_one(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By transformers 5, by trainers that leave their truncation; and before the base is calibrated."""

    def build(*_: Any, **__: Any) -> None:
        raise Built

    base, adapter = copied / "models" / "base", copied / "models" / "medical" / "adapter"
    (base / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        told = json.loads((base / name).read_text())
        more = {"truncation": {"direction": "Right", "max_length": 512, "strategy": "LongestFirst"}}
        more["truncation"] |= {"stride": 0}
        written = told | (more if name == "tokenizer.json" else {"padding_side": "right"})
        (adapter / name).write_text(json.dumps(written))
    monkeypatch.setattr(f"{build_family.__module__}.build_stage", build)
    with pytest.raises(Built):
        build_family([member("legal"), member("medical")])
    (base / "chat_template.jinja").write_text("{{ messages[0].content }}{{ messages[1].content }}")
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(RungFailed):
        build_family([member("legal"), member("medical")])
