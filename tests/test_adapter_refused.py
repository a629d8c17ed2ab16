"""An adapter that cannot be merged as it was trained is refused: one sentence with file and key."""

# ruff: noqa: F401, F811 (pytest finds the fixtures `base` and `near` by their names)
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.base.errors import RungFailed
from shared.cli.summary import _looked_at
from shared.source.adapter import CONFIG, WEIGHTS
from shared.source.source import source_stage
from tests.adapters import FIRST, Spoil, base, near, the_rung, write_adapter
from tests.events import CEILING_SECONDS
from tests.hub_double import HubDouble


def set_key(**keys: Any) -> Spoil:
    return lambda config, tensors: config.update(keys)


def put(name: str, *shape: int) -> Spoil:
    return lambda config, tensors: tensors.update({name: torch.zeros(shape)})


def drop(part: str) -> Spoil:
    def spoil(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return spoil


def change(name: str, how: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    return lambda config, tensors: tensors.update({name: how(tensors[name]).contiguous()})


A, B = f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"
BAD: dict[str, tuple[Spoil, str]] = {
    "DoRA": (set_key(use_dora=True), "config.json: use_dora: DoRA scales each row"),
    "DoRA by its tensors": (put(f"{FIRST}.lora_magnitude_vector", 64), f"{FIRST}.lora_magn"),
    "whole modules": (set_key(modules_to_save=["lm_head"]), "modules_to_save: whole modules were"),
    "rows of the embedding": (
        set_key(trainable_token_indices=[1]),
        "trainable_token_indices: rows",
    ),
    "a resized table": (
        put("base_model.model.model.embed_tokens.weight", 49160, 64),
        "table of 49160 x 64",
    ),
    "an adapted embedding": (
        put("base_model.model.model.embed_tokens.lora_embedding_A", 4, 9),
        "embedding was",
    ),
    "biases": (set_key(bias="all"), "config.json: bias: 'all': biases were trained"),
    "a bias of B": (set_key(lora_bias=True), "lora_bias: B has a bias"),
    "LoKr": (set_key(peft_type="LOKR"), "peft_type: 'LOKR' is not merged here, only 'LORA' is"),
    "LoHa": (set_key(peft_type="LOHA"), "peft_type: 'LOHA'"),
    "IA3": (set_key(peft_type="IA3"), "peft_type: 'IA3'"),
    "no kind": (
        lambda config, tensors: config.pop("peft_type"),
        "peft_type: None is not merged here",
    ),
    "LoftQ": (set_key(init_lora_weights="loftq"), "init_lora_weights: 'loftq' changes the base's"),
    "PiSSA": (set_key(init_lora_weights="pissa_niter_4"), "init_lora_weights: 'pissa_niter_4'"),
    "OLoRA": (set_key(init_lora_weights="olora"), "init_lora_weights: 'olora'"),
    "QALoRA": (set_key(use_qalora=True), "use_qalora: QALoRA's A takes averages"),
    "Megatron": (set_key(megatron_config={"tp": 2}), "megatron_config: Megatron's"),
    "repeated layers": (
        set_key(layer_replication=[[0, 2], [1, 3]]),
        "layer_replication: the base's",
    ),
    "parameters": (set_key(target_parameters=["experts.w"]), "target_parameters: "),
    "a token that wakes it": (set_key(alora_invocation_tokens=[3]), "alora_invocation_tokens: "),
    "a key of a later peft": (set_key(use_xlora=True), "use_xlora: unknown key, and it may change"),
    "a pattern that takes for ever": (
        set_key(alpha_pattern={"(a+)+": 3}),
        "alpha_pattern: '(a+)+' is no",
    ),
    "a pattern that takes for ever by question marks": (
        set_key(rank_pattern={".?" * 60 + "Z": 8}),
        "rank_pattern: '.?.?",
    ),
    "a pattern with flags": (set_key(rank_pattern={"(?i)q_proj": 4}), "rank_pattern: '(?i)q_proj'"),
    "flags that exclude each other": (
        set_key(alpha_pattern={"(?a)(?u)q": 4}),
        "alpha_pattern: '(?a",
    ),
    "an alpha that is no number": (set_key(lora_alpha=True), "adapter_config.json: lora_alpha: "),
    "what PiSSA left of its base, in a folder": (
        set_key(base_model_name_or_path="/home/me/SmolLM3-3B-pissa"),
        "/home/me/SmolLM3-3B-pissa': by its name pissa has changed that base's weights",
    ),
    "what PiSSA left of its base, on the Hub": (
        set_key(base_model_name_or_path="fxmeng/PiSSA-SmolLM3-3B-r128"),
        "by its name PiSSA has changed",
    ),
    "no rank": (
        lambda config, tensors: config.pop("r"),
        "adapter_config.json: r: required, but missing",
    ),
    "a rank of nothing": (set_key(r=0), "adapter_config.json: r: "),
    "another rank": (set_key(r=8), ".lora_A.weight: has rank 4, but adapter_config.json says 8"),
    "halves of two ranks": (change(B, lambda b: b[:, :3]), f"{B}: has rank 3, but"),
    "a half": (drop(B), f"{A}: has no lora_B beside it"),
    "the other half": (drop(A), f"{B}: has no lora_A beside it"),
    "half a file": (drop("layers.3."), "model.layers.3.self_attn.q_proj: has no pair, but"),
    "half a file of layers that are listed": (
        lambda config, tensors: (
            config.update(layers_to_transform=[0, 1, 3]),
            drop("layers.2.")(config, tensors),
            drop("layers.3.")(config, tensors),
        ),
        "model.layers.3.self_attn.q_proj: has no pair, but",
    ),
    "half a file of layers by their own pattern": (
        lambda config, tensors: (
            config.update(layers_to_transform=[1], layers_pattern="(layers|h)"),
            [drop(f"layers.{layer}.")(config, tensors) for layer in (0, 2, 3)],
            drop("v_proj")(config, tensors),
        ),
        "model.layers.1.self_attn.v_proj: has no pair, but",
    ),
    "half a file by a pattern": (
        lambda config, tensors: (
            config.update(target_modules=r".*\.(q|v|down)_proj"),
            drop("layers.1.")(config, tensors),
        ),
        "model.layers.1.self_attn.q_proj: has no pair, but",
    ),
    "half a file beside what is excluded": (
        lambda config, tensors: (
            config.update(exclude_modules=["layers.2.mlp.down_proj"]),
            drop("down_proj")(config, tensors),
        ),
        "model.layers.0.mlp.down_proj: has no pair, but",
    ),
    "one weight by two names": (
        lambda config, tensors: tensors.update(
            {
                name.replace("model.model.model", "model.model"): t.clone()
                for name, t in tensors.items()
                if FIRST in name
            }
        ),
        "adapts the base's model.layers.0.self_attn.q_proj.weight, as another pair does",
    ),
    "nothing": (drop("lora"), "adapter_model.safetensors: holds no tensor"),
    "a layer more": (
        lambda config, tensors: tensors.update(
            {
                name.replace("layers.0", "layers.4"): t.clone()
                for name, t in tensors.items()
                if "layers.0" in name
            }
        ),
        "layers.4.mlp.down_proj.lora_A.weight: the base has no linear layer model.layers.4",
    ),
    "another width": (change(A, lambda a: a[:, :32]), f"{A}: is for 32 values, but the base's"),
    "other rows": (change(B, lambda b: b[:32]), f"{B}: is for 32 values, but the base's"),
    "no number": (
        change(A, lambda a: a.index_fill(0, torch.tensor(1), torch.nan)),
        f"{A}: holds numbers",
    ),
    "an infinity": (
        change(B, lambda b: (b * 1e9).to(torch.float16)),
        f"{B}: holds numbers that are not",
    ),
    "8-bit halves": (change(A, lambda a: a.to(torch.int8)), f"{A}: of type I8; 16 or 32 bits"),
    "a tensor of nobody's": (put("optimizer.step", 1), "optimizer.step: is no tensor of a LoRA"),
    "a tied head": (
        lambda config, tensors: tensors.update(
            {
                f"base_model.model.lm_head.lora_{h}.weight": torch.ones(s)
                for h, s in (("A", (4, 64)), ("B", (49152, 4)))
            }
        ),
        "lm_head is the base's embedding, or tied to it",
    ),
    "a base's sister of the same shape": (
        set_key(base_model_name_or_path="acme/SmolLM3-3B-legal-sft"),
        "base_model_name_or_path: acme/SmolLM3-3B-legal-sft, but the rung smollm3 merges it",
    ),
    "trained on another of the publisher's": (
        set_key(base_model_name_or_path="HuggingFaceTB/SmolLM3-3B-Base"),
        "base_model_name_or_path: HuggingFaceTB/SmolLM3-3B-Base, but the rung smollm3 merges it",
    ),
    "CorDA": (set_key(init_lora_weights="corda"), "init_lora_weights: 'corda' changes the base's"),
    "another base by name": (
        set_key(base_model_name_or_path="Qwen/Qwen2.5-0.5B"),
        "base_model_name_or_path: says Qwen/Qwen2.5-0.5B, but the rung smollm3 is made from",
    ),
}
"""What is refused: how the good adapter is spoilt, and a part of the sentence."""


class TestRefused:
    @pytest.mark.parametrize("what", BAD)
    def test_by_file_and_key(self, base: Path, root: Path, what: str) -> None:
        spoil, words = BAD[what]
        write_adapter(root / "models" / "legal" / "adapter", base, spoil)
        assert words in refusal()

    def test_but_not_the_layers_that_it_says_it_leaves_out(self, base: Path, root: Path) -> None:
        def some(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
            config.update(layers_to_transform=[0, 1, 2], exclude_modules=r".*\.0\.mlp.*")
            for part in ("layers.3.", "layers.0.mlp"):
                drop(part)(config, tensors)

        write_adapter(root / "models" / "legal" / "adapter", base, some)
        source_stage(the_rung())

    @pytest.mark.parametrize("alpha", ["1e999", '"inf"'])
    def test_an_alpha_without_end(self, base: Path, root: Path, alpha: str) -> None:
        config = write_adapter(root / "models" / "legal" / "adapter", base) / CONFIG
        told = config.read_text().replace('"lora_alpha": 8', f'"lora_alpha": {alpha}')
        config.write_text(told)
        assert "adapter_config.json: lora_alpha: " in refusal()
        config.write_text(told.replace(alpha, f'8, "alpha_pattern": {{"q_proj": {alpha}}}'))
        assert "adapter_config.json: alpha_pattern.q_proj: " in refusal()

    def test_not_a_base_that_pissa_changed_where_the_rung_takes_that_one(
        self, base: Path, root: Path
    ) -> None:
        shutil.copytree(base, root / "models" / "base-pissa")
        trained = set_key(base_model_name_or_path="/home/me/base-pissa")
        write_adapter(root / "models" / "legal" / "adapter", base, trained)
        source_stage(the_rung(source="models/base-pissa"))

    def test_a_pickle(self, base: Path, root: Path) -> None:
        adapter = root / "models" / "legal" / "adapter"
        (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
        assert "models/legal/adapter/adapter_model.bin: a pickle, which can run code" in refusal()

    def test_a_pickle_by_another_name(self, base: Path, root: Path) -> None:
        torch.save({"a": torch.ones(3)}, root / "models" / "legal" / "adapter" / WEIGHTS)
        assert f"{WEIGHTS}: holds a zip archive, as torch.save writes it" in refusal()

    def test_code_in_the_tokenizer_that_was_saved_beside_it(self, base: Path, root: Path) -> None:
        config = root / "models" / "legal" / "adapter" / "tokenizer_config.json"
        config.write_text(json.dumps({"auto_map": {"AutoTokenizer": "evil.Evil"}}))
        assert "adapter/tokenizer_config.json: auto_map: names code to be run" in refusal()

    def test_by_the_doctor_though_its_base_is_on_the_hub(self, base: Path, root: Path) -> None:
        rung = the_rung(source="hf:acme/base@main")
        words = "hf:acme/base@main + models/legal/adapter would be fetched from the Hub"
        assert _looked_at(rung) == ("not looked at", words, "")
        write_adapter(root / "models" / "legal" / "adapter", base, BAD["DoRA"][0])
        state, why, refused = _looked_at(rung)
        assert state == "not taken" and refused == "bad" and "use_dora: DoRA scales each row" in why

    def test_no_configuration(self, base: Path, root: Path) -> None:
        (root / "models" / "legal" / "adapter" / CONFIG).unlink()
        assert refusal() == f"models/legal/adapter/{CONFIG}: the file is missing"

    def test_another_commit_of_its_base(self, base: Path, root: Path, near: HubDouble) -> None:
        commit = near.add("acme/base", {path.name: path.read_bytes() for path in base.iterdir()})
        adapter = root / "models" / "legal" / "adapter"
        write_adapter(adapter, base, set_key(revision="a" * 40))
        assert f"revision: {'a' * 40} of its base, but" in refusal(source=f"hf:acme/base@{commit}")

    def test_a_base_that_the_rungs_own_source_is_not(
        self, base: Path, root: Path, near: HubDouble
    ) -> None:
        """The source says what the weights are; `base` whose name and licence the card has."""
        files = {path.name: path.read_bytes() for path in base.iterdir()}
        adapter = root / "models" / "legal" / "adapter"
        write_adapter(adapter, base, set_key(base_model_name_or_path="acme/SmolLM3-3B-sft"))
        taken = {"adapter": "models/legal/adapter"}
        sft = near.add("acme/SmolLM3-3B-sft", files)
        source_stage(the_rung(source=f"hf:acme/SmolLM3-3B-sft@{sft}", **taken))
        write_adapter(adapter, base, set_key(base_model_name_or_path="HuggingFaceTB/SmolLM3-3B"))
        other = near.add("HuggingFaceTB/SmolLM3-3B-Base", files)
        why = refusal(source=f"hf:HuggingFaceTB/SmolLM3-3B-Base@{other}", **taken)
        assert "HuggingFaceTB/SmolLM3-3B, but the rung smollm3 merges it into " in why
        assert why.count("HuggingFaceTB/SmolLM3-3B-Base") == 1

    def test_a_chat_template_without_the_tokenizer_that_has_it(
        self, base: Path, root: Path
    ) -> None:
        adapter = root / "models" / "legal" / "adapter"
        (adapter / "tokenizer.json").unlink(missing_ok=True)
        told = {"chat_template": "### {{ messages[0].content }}"}
        (adapter / "tokenizer_config.json").write_text(json.dumps(told))
        assert "models/legal/adapter/tokenizer.json: missing beside tokenizer_conf" in refusal()

    def test_by_the_file_that_a_person_can_mend(self, base: Path, root: Path) -> None:
        adapter = root / "models" / "legal" / "adapter"
        (adapter / "chat_template.jinja").write_text("{{ messages[-1].content }}")
        assert refusal().startswith("models/legal/adapter/chat_template.jinja: chat_template: ")

    def test_not_what_a_trainer_leaves_beside_it(self, base: Path, root: Path) -> None:
        torch.save({"lr": 1.0}, root / "models" / "legal" / "adapter" / "training_args.bin")
        source_stage(the_rung())

    @pytest.mark.parametrize("what", ["DoRA", "another width", "an infinity"])
    def test_before_torch_is_imported(self, base: Path, root: Path, what: str) -> None:
        write_adapter(root / "models" / "legal" / "adapter", base, BAD[what][0])
        code = (
            "import sys; from shared.domain.domain import load_domain; "
            "from shared.source.source import source_stage; "
            "from shared.base.errors import RungFailed; "
            "rung = load_domain('legal').rung('smollm3').model_copy(update={'source': 'models/base', "
            "'adapter': 'models/legal/adapter'})\n"
            "try: source_stage(rung)\n"
            "except RungFailed: sys.exit(3 if 'torch' in sys.modules else 0)\n"
            "sys.exit(4)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=CEILING_SECONDS
        )
        assert run.returncode == 0, run.stderr[-500:]


def refusal(**changes: Any) -> str:
    with pytest.raises(RungFailed) as caught:
        source_stage(the_rung(**changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)
