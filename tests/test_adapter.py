"""A rung may be a base and a LoRA adapter: merged as it is read by every reader, or refused by name."""

# ruff: noqa: F401, F811 (pytest finds the fixtures `base` and `near` by their names)
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from shared.base.errors import RungFailed, UserError
from shared.cli.project import _label
from shared.cli.summary import inputs_report
from shared.domain.domain import load_domain
from shared.evaluate.reference import passages, reference_stage
from shared.evaluate.systems import all_systems
from shared.evaluate.token_windows import held_out
from shared.olive.build import build_stage
from shared.pipeline.chain import run_chain
from shared.pipeline.dry_run import dry_run
from shared.pipeline.stages import Options
from shared.source.adapter import CONFIG, WEIGHTS
from shared.source.merging import Merged, Pair, merge_all
from shared.source.model import load_model, model_weights
from shared.source.source import source_stage, weights_hash
from tests.adapters import FIRST, TARGETS, Q, Tiny, base, near, the_rung, write_adapter
from tests.hub_double import HubDouble

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("qwen2", TARGETS),
    "all linear layers": ("smollm3", {"target_modules": "all-linear"}),
    "rank-stabilised": ("llama", TARGETS | {"use_rslora": True}),
    "ranks of their own": (
        "qwen2",
        TARGETS | {"rank_pattern": {"v_proj": 2, "^model.layers.1.mlp": 3}},
    ),
    "alphas of their own": ("qwen2", TARGETS | {"alpha_pattern": {r"layers\.[01]\..*q_proj": 3}}),
    "one layer": ("qwen2", TARGETS | {"layers_to_transform": 0}),
    "some layers": ("qwen2", TARGETS | {"layers_to_transform": [0, 2]}),
    "by a regular expression, as Unsloth": (
        "llama",
        {"target_modules": r"(?:.*?)\.(?:q|down)_proj"},
    ),
    "fused weights": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "an untied head": ("qwen2-untied", {"target_modules": ["q_proj", "lm_head"]}),
    "fan_in_fan_out, which is passed over": ("qwen2", TARGETS | {"fan_in_fan_out": True}),
}
"""Kinds of adapters that peft merges: architecture and LoraConfig."""


def in_float32(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    weights = {
        name: t.to(torch.float32) for name, t in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


def by_peft(base: Path, adapter: Path, dtype: str) -> dict[str, torch.Tensor]:
    """State dict after peft's own merge_and_unload()."""
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(load_model(base, dtype), str(adapter))
    return dict(model.merge_and_unload().state_dict())


def train(base: Path, folder: Path, config: dict[str, Any], *, copies: bool = False) -> None:
    """A random adapter, saved by peft; `copies`: with the base's weight of an adapted head, which peft
    does by itself where it may ask the Hub for the base's configuration."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    made = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | config
    model: Any = get_peft_model(load_model(base), LoraConfig(**made))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder, save_embedding_layers=copies)


def merged_folder(base: Path, adapter: Path, to: Path) -> Path:
    """What a person gets who merges by hand: merge_and_unload() in float32, in the base's type."""
    model = load_model(base, "float32")
    from peft import PeftModel

    merged: Any = PeftModel.from_pretrained(model, str(adapter))
    merged.merge_and_unload().to(torch.bfloat16).save_pretrained(to)
    for path in base.iterdir():
        if not (to / path.name).exists():
            shutil.copyfile(path, to / path.name)
    return to


class TestMerging:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_pefts_bit_for_bit(self, root: Path, few: Tiny, kind: str) -> None:
        architecture, config = KINDS[kind]
        base = in_float32(few(architecture), root / "models" / "base")
        adapter = root / "models" / "legal" / "adapter"
        train(base, adapter, config)
        ours = model_weights(source_stage(the_rung()).folder)
        theirs = by_peft(base, adapter, "float32")
        assert any(isinstance(weight, Merged) for weight in ours.values())
        for name, weight in ours.items():
            assert weight.dtype == torch.float32
            assert torch.equal(weight.clone(), theirs[name]), name

    def test_rounds_to_the_bases_type_once_as_peft_does(self, base: Path, root: Path) -> None:
        ours = model_weights(source_stage(the_rung()).folder)
        theirs = by_peft(base, root / "models" / "legal" / "adapter", "bfloat16")
        assert all(weight.dtype == torch.bfloat16 for weight in ours.values())
        assert all(torch.equal(weight.clone(), theirs[name]) for name, weight in ours.items())

    def test_turns_the_product_where_a_layer_keeps_its_weight_turned(
        self, root: Path, few: Tiny
    ) -> None:
        base, adapter = root / "models" / "base", root / "models" / "legal" / "adapter"
        shutil.copytree(few("qwen2"), base)
        (base / "model.safetensors").unlink()
        torch.manual_seed(0)
        tokens = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2}
        config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **tokens)
        GPT2LMHeadModel(config).save_pretrained(base)
        train(base, adapter, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True})
        ours = model_weights(source_stage(the_rung()).folder)
        theirs = by_peft(base, adapter, "float32")
        assert sum(isinstance(weight, Merged) for weight in ours.values()) == 6
        assert all(torch.equal(weight.clone(), theirs[name]) for name, weight in ours.items())

    def test_reads_16_bit_halves_and_names_with_the_adapters_own(
        self, base: Path, root: Path
    ) -> None:
        def older(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
            for name in list(tensors):
                half = tensors.pop(name).to(torch.float16)
                tensors[name.replace(".weight", ".default.weight")] = half

        adapter = write_adapter(root / "models" / "legal" / "adapter", base, older)
        name = f"model.layers.0.{Q}.weight"
        halves, weight = load_file(adapter / WEIGHTS), load_file(base / "model.safetensors")[name]
        a, b = (halves[f"{FIRST}.lora_{half}.default.weight"].float() for half in "AB")
        wanted = (weight.float() + (b @ a) * 2).to(torch.bfloat16)
        assert torch.equal(model_weights(source_stage(the_rung()).folder)[name].clone(), wanted)


class TestAWeightThatIsMergedAsItIsRead:
    @pytest.fixture
    def both(self) -> tuple[Merged, torch.Tensor]:
        torch.manual_seed(1)
        base, a, b = torch.randn(8, 6).to(torch.bfloat16), torch.randn(2, 6), torch.randn(8, 2)
        return Merged(base, Pair(a, b, 0.5)), (base.float() + (b @ a) * 0.5).to(torch.bfloat16)

    @pytest.mark.parametrize(
        "operation",
        [
            lambda w: w[2:7][1:-1],
            lambda w: w.split(3)[1],
            lambda w: w.split([3, 5])[1],
            lambda w: w.chunk(2)[1],
            lambda w: w[:, :],
            lambda w: w.narrow(0, 2, 3),
            lambda w: w[...],
            lambda w: w.detach(),
        ],
    )
    def test_is_not_merged_by_taking_rows_of_it(
        self, both: tuple[Merged, torch.Tensor], operation: Callable[[Any], torch.Tensor]
    ) -> None:
        lazy, whole = both
        assert isinstance(operation(lazy), Merged)
        assert torch.equal(operation(lazy).clone(), operation(whole))

    @pytest.mark.parametrize(
        "operation",
        [
            lambda w: w.to(torch.float32),
            lambda w: torch.cat([w, w]),
            lambda w: w.T.contiguous(),
            lambda w: w[:, 1:3] + 0,
            lambda w: w[::2] + 0,
            lambda w: torch.nn.functional.linear(torch.ones(1, 6).to(torch.bfloat16), w),
        ],
    )
    def test_is_merged_by_whatever_reads_it(
        self, both: tuple[Merged, torch.Tensor], operation: Callable[[Any], torch.Tensor]
    ) -> None:
        lazy, whole = both
        assert not isinstance(operation(lazy), Merged)
        assert torch.equal(operation(lazy), operation(whole))

    def test_gives_nobody_the_bases_bytes(
        self, both: tuple[Merged, torch.Tensor], tmp_path: Path
    ) -> None:
        lazy, _ = both
        for read in (lazy.data_ptr, lazy.numpy, lazy.tolist):
            with pytest.raises(RuntimeError):
                read()
        with pytest.raises(RuntimeError):
            save_file({"w": lazy}, tmp_path / "w.safetensors")

    def test_is_not_changed_in_its_place(self, both: tuple[Merged, torch.Tensor]) -> None:
        lazy, whole = both
        with pytest.raises(TypeError, match="cannot be changed"):
            lazy.add_(1)
        layer = torch.nn.Linear(6, 8, bias=False)
        layer.weight = torch.nn.Parameter(lazy, requires_grad=False)
        with pytest.raises(TypeError, match="cannot be changed"):
            layer.to(torch.float32)
        assert torch.equal(merge_all(layer).to(torch.float32).weight, whole.float())


class TestEveryReader:
    def test_of_the_model_gets_the_merged_weights(self, base: Path, root: Path) -> None:
        source = source_stage(the_rung())
        hand = merged_folder(base, root / "models" / "legal" / "adapter", root / "hand")
        wanted = load_model(hand, "float32")(torch.tensor([[5, 7, 11]])).logits
        assert torch.equal(
            load_model(source.folder, "float32")(torch.tensor([[5, 7, 11]])).logits, wanted
        )
        assert not any(isinstance(p, Merged) for p in load_model(source.folder).parameters())
        lazy = load_model(source.folder, lazily=True)
        assert sum(isinstance(p, Merged) for p in lazy.parameters()) == 12

    def test_that_knows_nothing_of_adapters_finds_no_weights(self, base: Path) -> None:
        folder = source_stage(the_rung()).folder
        assert not list(folder.glob("*.safetensors")) and not (folder / CONFIG).exists()

    @pytest.mark.parametrize("passes", ["calibrated", "rounded"])
    def test_of_a_build_writes_the_merged_folders_bytes(
        self, base: Path, root: Path, passes: str
    ) -> None:
        olive = root / "domains" / "legal" / "olive.json"
        workflow = json.loads(olive.read_text())
        if passes == "rounded":
            del workflow["passes"]["calibrated"]
            olive.write_text(json.dumps(workflow))
        merged_folder(
            base, root / "models" / "legal" / "adapter", root / "models" / "legal" / "merged"
        )
        domain = load_domain("legal")
        outputs = []
        for rung in (the_rung(), domain.rung("smollm3")):
            made = build_stage(domain, rung, source_stage(rung)).manifest.outputs
            outputs.append({n: r.sha256 for n, r in made.items() if n.startswith("model_")})
        assert len(outputs[0]) == 4 and outputs[0] == outputs[1]

    def test_of_held_out_text_predicts_what_the_merged_folder_does(
        self, base: Path, root: Path
    ) -> None:
        merged_folder(
            base, root / "models" / "legal" / "adapter", root / "models" / "legal" / "merged"
        )
        domain = load_domain("legal")
        text = held_out(domain.prompt, domain.records[:1], "one record")
        one, other = (
            next(passages(reference_stage(source_stage(rung), text, 16).folder)).predicted
            for rung in (the_rung(), domain.rung("smollm3"))
        )
        assert all(
            np.array_equal(a, b)
            for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        )

    def test_of_olives_own_passes_is_refused(self, base: Path, root: Path) -> None:
        olive = root / "domains" / "legal" / "olive.json"
        workflow = json.loads(olive.read_text())
        workflow["passes"]["calibrated"] = {"type": "Rtn", "bits": 4}
        olive.write_text(json.dumps(workflow))
        rung = the_rung()
        with pytest.raises(RungFailed, match=r"passes\.calibrated: Rtn reads a whole model"):
            build_stage(load_domain("legal"), rung, source_stage(rung))


class TestARung:
    def test_names_its_adapter_in_fallback_toml_and_goes_through_the_chain(
        self,
        base: Path,
        root: Path,
        edit: Callable[[str, str, str], int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        words = 'source = "models/{domain}/merged"'
        edit("fallback.toml", words, 'source = "models/base"\nadapter = "models/{domain}/adapter"')
        domain = load_domain("legal")
        rung = domain.rung("smollm3")
        assert rung.adapter == "models/legal/adapter" and rung.untuned == "models/base"
        done = run_chain(domain, Options(rung="smollm3", until="package"))
        assert done.rung == rung
        assert done.attempts[0].source == "models/base + models/legal/adapter"
        facts = done.manifests["source"].facts["training"]
        assert facts["rank (r)"] == "4" and facts["adapted from"] == "HuggingFaceTB/SmolLM3-3B"
        source = source_stage(rung)
        systems = all_systems(domain, rung, source, done.stages["package"])
        assert systems["base"].folder == base and systems["parent"].folder == source.folder
        assert "smollm3: models/base + models/legal/adapter" in dry_run("legal", Options())
        assert _label(rung) == "smollm3 (models/base + models/legal/adapter)"
        monkeypatch.setenv("COLUMNS", "140")  # else the name is wrapped
        assert "in models/base + models/legal/adapter" in inputs_report("legal")[0]

    @pytest.mark.parametrize("key", ['base_source = "a"', "prompt_only = true"])
    def test_has_no_other_base(self, edit: Callable[[str, str, str], int], key: str) -> None:
        edit("fallback.toml", "[[rung]]", f'[[rung]]\nadapter = "models/x"\n{key}')
        with pytest.raises(
            UserError, match=f"{key.split()[0]}: an adapter's base is its rung's source"
        ):
            load_domain("legal")

    def test_without_its_adapter_is_skipped_and_without_its_base_fails(self, base: Path) -> None:
        def outcome(**changes: Any) -> tuple[str, str]:
            domain = load_domain("legal")
            chain = domain.chain.model_copy(update={"rung": [the_rung(**changes)]})
            domain = type(domain)(**vars(domain) | {"chain": chain})
            attempt = run_chain(domain, Options(until="source")).attempts[0]
            return attempt.outcome, attempt.reason

        words = "models/none: the folder is not there; put the LoRA adapter in it"
        assert outcome(adapter="models/none") == ("skipped", words)
        assert outcome(source="models/none")[0] == "failed"
        assert (
            "models/legal/adapter: its base cannot be had: models/none"
            in outcome(source="models/none")[1]
        )

    def test_is_another_with_another_base_or_adapter(self, base: Path, root: Path) -> None:
        source = source_stage(the_rung())
        inputs = source.done.manifest.inputs
        assert {"model.safetensors", f"adapter/{WEIGHTS}", f"adapter/{CONFIG}"} <= inputs.keys()
        seen = {weights_hash(source.folder)}
        adapter = root / "models" / "legal" / "adapter"
        write_adapter(adapter, base, lambda _, tensors: tensors[f"{FIRST}.lora_A.weight"].neg_())
        changed = source_stage(the_rung())
        seen.add(weights_hash(changed.folder))
        weights = load_file(base / "model.safetensors")
        weights["model.norm.weight"] *= 2
        save_file(weights, base / "model.safetensors", {"format": "pt"})
        seen.add(weights_hash(source_stage(the_rung()).folder))
        assert len(seen) == 3 and changed.done.manifest.key != source.done.manifest.key

    def test_takes_the_tokenizer_and_template_that_were_saved_beside_the_adapter(
        self, base: Path, root: Path
    ) -> None:
        template = (base / "chat_template.jinja").read_text()
        trained = root / "models" / "legal" / "adapter" / "chat_template.jinja"
        trained.write_text("{# as it was trained #}" + template)
        folder = source_stage(the_rung()).folder
        assert (folder / "chat_template.jinja").read_text() == trained.read_text()
        assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()

    def test_tells_what_a_trainer_wrote_down(self, base: Path, root: Path) -> None:
        record = {
            "data_set": "acme/clauses",
            "epochs": 2,
            "tokens": 12345678,
            "modules": [f"layers.{n}" for n in range(13)],
            "note": "a b\nc",
            "base_weights": weights_hash(base),
        }
        adapter = root / "models" / "legal" / "adapter"
        (adapter / "training.json").write_text(json.dumps(record))
        told = source_stage(the_rung()).done.manifest.facts["training"]
        assert told["data set"] == "acme/clauses" and told["epochs"] == "2" and "note" not in told
        assert told["tokens"] == "12345678" and "modules" not in told, "a part would look like all"
        (adapter / "training.json").write_text(json.dumps(record | {"base_weights": "0" * 64}))
        with pytest.raises(
            RungFailed, match=r"training\.json: base_weights: '0+' are not the hash of"
        ):
            source_stage(the_rung())

    def test_is_taken_from_the_hub(self, base: Path, root: Path, near: HubDouble) -> None:
        adapter = root / "models" / "legal" / "adapter"
        files = {path.name: path.read_bytes() for path in adapter.iterdir()}
        named = {"adapter": f"hf:acme/tuned@{near.add('acme/tuned', files)}"}
        whole = {path.name: path.read_bytes() for path in base.iterdir()}
        named["source"] = f"hf:acme/base@{near.add('acme/base', whole)}"
        source = source_stage(the_rung(**named))
        here = source_stage(the_rung())
        assert weights_hash(source.folder) == weights_hash(here.folder)
