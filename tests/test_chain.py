"""The chain tries rungs in order and remembers in one sentence why each ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.evaluate.scoring.statistics import paired
from shared.pipeline.chain import run_chain, select_records
from shared.pipeline.stages import Options
from tests.stand_ins import as_shipped, share_embedded
from tests.tiny import write_tiny

Tiny = Callable[[str], Path]
Edit = Callable[[str, str, str], None]

BUILD_ONLY = Options(until="package")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def give(root: Path, name: str, model: Path) -> None:
    shutil.copytree(model, root / "models" / "legal" / name)


class TestTheFirstRung:
    def test_is_taken_where_its_folder_is_there(self, root: Path, few: Tiny) -> None:
        give(root, "merged", few("qwen2"))
        walked = run_chain(load_domain("legal"), BUILD_ONLY)
        assert walked.rung and walked.rung.name == "smollm3"
        assert [a.outcome for a in walked.attempts] == ["taken"]

    def test_leaves_a_package_that_both_runtimes_can_read(self, root: Path, few: Tiny) -> None:
        give(root, "merged", few("qwen2"))
        package = run_chain(load_domain("legal"), BUILD_ONLY).package
        names = {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()}
        assert {
            "config.json",
            "generation_config.json",
            "genai_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "onnx/model_q4f16.onnx",
            "onnx/model_q4f16.onnx_data",
            "onnx/model_q4.onnx",
            "onnx/model_q4.onnx_data",
        } <= names


class TestSkippedRungs:
    def test_each_say_why_in_one_sentence(self, root: Path, embedded: Path) -> None:
        share_embedded(root)
        walked = run_chain(load_domain("legal"), Options(until="source"))
        reasons = {a.rung: a.reason for a in walked.attempts}
        assert walked.rung and walked.rung.name == "embedded"
        assert [a.outcome for a in walked.attempts] == ["skipped"] * 6 + ["taken"]
        assert "models/legal/merged: the folder is not there" in reasons["smollm3"]
        assert "HF_HUB_OFFLINE" in reasons["base-with-prompt"]
        assert all("\n" not in reason for reason in reasons.values())

    def test_are_told_from_failed_ones(self, root: Path, embedded: Path) -> None:
        """Heads of eight values are a model, but none that the runtime takes."""
        heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
        write_tiny(root / "models" / "legal" / "merged", "qwen2", embedded, **heads)
        only = Options(rung="smollm3", until="package")
        attempt = run_chain(load_domain("legal"), only).attempts[0]
        assert (attempt.outcome, attempt.stage) == ("failed", "build")
        assert "head_dim: 8 does not fit the runtime" in attempt.reason


class TestAnExample:
    """The embedded model, and the small one that examples/finetune makes of it."""

    def test_is_not_taken_in_place_of_a_model_that_failed(self, root: Path, embedded: Path) -> None:
        heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
        write_tiny(root / "models" / "legal" / "merged", "qwen2", embedded, **heads)
        walked = run_chain(load_domain("legal"), BUILD_ONLY)
        ends = {a.rung: (a.outcome, a.reason) for a in walked.attempts}
        assert walked.rung is None and ends["smollm3"][0] == "failed"
        assert ends["base-with-prompt"][1] != "", "a real rung is tried all the same"
        for name in ("smollm2", "example", "embedded"):
            assert ends[name][0] == "skipped" and "in place of smollm3" in ends[name][1]

    @pytest.mark.parametrize("key", ["source", "adapter"])
    def test_is_not_taken_in_place_of_one_that_is_named_on_the_hub_and_cannot_be_had(
        self, root: Path, key: str, edit: Edit
    ) -> None:
        there = 'source = "models/{domain}/merged"\nbase = "HuggingFaceTB/SmolLM3-3B"'
        named = f'hf:acme/legal@{"1" * 40}"'
        source = "" if key == "source" else 'source = "hf:HuggingFaceTB/SmolLM3-3B@main"\n'
        edit("fallback.toml", there, f'{source}{key} = "{named}\nbase = "HuggingFaceTB/SmolLM3-3B"')
        walked = run_chain(load_domain("legal"), Options(until="source"))
        ends = {a.rung: (a.outcome, a.reason) for a in walked.attempts}
        assert walked.rung is None and ends["smollm3"][0] == "failed"
        assert "HF_HUB_OFFLINE" in ends["smollm3"][1]
        assert "in place of smollm3" in ends["embedded"][1]

    @pytest.mark.parametrize(
        ("put", "words"),
        [
            (lambda place: place.symlink_to("/mnt/away"), "links to /mnt/away, which is not there"),
            (
                lambda place: place.write_text("a pointer"),
                "models/legal/merged: a file; the folder of",
            ),
        ],
        ids=["a disk that is away", "a file"],
    )
    def test_is_not_taken_where_something_lies_in_a_models_place(
        self, root: Path, put: Callable[[Path], object], words: str
    ) -> None:
        (root / "models" / "legal").mkdir(parents=True)
        put(root / "models" / "legal" / "merged")
        walked = run_chain(load_domain("legal"), Options(until="source"))
        assert walked.rung is None and words in walked.attempts[0].reason
        assert "in place of smollm3" in walked.attempts[-1].reason

    def test_is_not_taken_in_place_of_a_model_that_no_rung_is_made_for(
        self, root: Path, few: Tiny
    ) -> None:
        as_shipped(root)
        give(root, "merged", few("qwen2"))
        walked = run_chain(load_domain("legal"), Options(until="source"))
        assert walked.rung is None
        assert "model_type: 'qwen2' is not what" in walked.attempts[0].reason
        assert "in place of smollm3" in walked.attempts[-1].reason

    def test_nor_is_such_a_model_passed_over_in_silence_where_a_real_rung_is_taken(
        self, root: Path, few: Tiny, edit: Edit
    ) -> None:
        """The card's first lines tell of what failed."""
        give(root, "merged", few("qwen2"))
        give(root, "base", few("smollm3"))
        for rung in ("smollm3", "smollm2"):
            edit("fallback.toml", f'name = "{rung}"', f'name = "{rung}"\nmodel_type = "gemma"')
        edit("fallback.toml", "hf:HuggingFaceTB/SmolLM3-3B@main", "models/legal/base")
        walked = run_chain(load_domain("legal"), Options(until="source"))
        assert walked.rung and walked.rung.name == "base-with-prompt"
        assert [a.rung for a in walked.attempts if a.outcome == "failed"] == ["smollm3"]

    def test_of_our_own_making_is_taken_from_the_same_folder(
        self, root: Path, embedded: Path
    ) -> None:
        as_shipped(root)
        give(root, "merged", embedded)
        share_embedded(root)
        walked = run_chain(load_domain("legal"), Options(until="source"))
        assert walked.rung and walked.rung.name == "smollm2"

    def test_is_taken_where_it_is_asked_for(self, root: Path, embedded: Path) -> None:
        (root / "models" / "legal" / "merged").mkdir(parents=True)
        (root / "models" / "legal" / "merged" / "config.json").write_text("{")
        share_embedded(root)
        walked = run_chain(load_domain("legal"), Options(until="source", rung="embedded"))
        assert walked.rung and walked.rung.name == "embedded"


OF_PHI3 = {
    "AutoConfig": "microsoft/Phi-3-mini-4k-instruct--configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "microsoft/Phi-3-mini-4k-instruct--modeling_phi3.Phi3ForCausalLM",
}


def test_one_rung_can_be_asked_for_and_its_name_for_its_code_is_not_passed_on(
    root: Path, embedded: Path
) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 256}  # a row must hold a block of 128
    source = write_tiny(root / "models" / "legal" / "phi3-mini", "phi3", embedded, **wide)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"auto_map": OF_PHI3}))
    walked = run_chain(load_domain("legal"), Options(rung="phi3-mini", until="package"))
    folder = walked.stages["package"].folder
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert [a.rung for a in walked.attempts] == ["phi3-mini"]
    settings = walked.manifests["build"].settings["olive"]["passes"]["int4"]
    assert settings["int4_block_size"] == 128


def test_a_rung_that_does_not_exist_is_answered_with_the_nearest(root: Path) -> None:
    with pytest.raises(UserError, match=r"no rung is named 'phi3'; did you mean 'phi3-mini'"):
        run_chain(load_domain("legal"), Options(rung="phi3"))


def test_a_build_option_we_do_not_honour_is_refused_not_ignored(
    root: Path, few: Tiny, edit: Edit
) -> None:
    give(root, "merged", few("qwen2"))
    edit("olive.json", '"precision": "int4",', '"precision": "int4", "use_qdq": true,')
    attempt = run_chain(load_domain("legal"), Options(rung="smollm3", until="build")).attempts[0]
    assert attempt.outcome == "failed"
    assert "use_qdq: not supported by the streaming builder" in attempt.reason


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_broken_json_beside_the_weights_ends_the_rung_not_the_chain(
    root: Path, few: Tiny, name: str
) -> None:
    give(root, "merged", few("qwen2"))
    (root / "models" / "legal" / "merged" / name).write_text("{")
    attempt = run_chain(load_domain("legal"), Options(rung="smollm3", until="package")).attempts[0]
    assert attempt.outcome == "failed"
    assert f"models/legal/merged/{name}: not valid JSON" in attempt.reason


class TestSharing:
    def test_two_domains_with_the_same_bytes_build_once(self, root: Path, few: Tiny) -> None:
        """Where nothing of the domain goes into the weights: no calibration."""
        olive = root / "domains" / "legal" / "olive.json"
        workflow = json.loads(olive.read_text())
        del workflow["passes"]["calibrated"]
        olive.write_text(json.dumps(workflow))
        toml = olive.with_name("fallback.toml")
        toml.write_text(toml.read_text().replace('"passes.calibrated.group_size" = 128, ', ""))
        shutil.copytree(root / "domains" / "legal", root / "domains" / "tax")
        give(root, "merged", few("qwen2"))
        shutil.copytree(root / "models" / "legal", root / "models" / "tax")
        first = run_chain(load_domain("legal"), BUILD_ONLY)
        second = run_chain(load_domain("tax"), BUILD_ONLY)
        assert not first.stages["build"].reused
        assert second.stages["build"].reused and second.stages["package"].reused

    def test_two_domains_that_calibrate_with_prompts_of_their_own_do_not(
        self, root: Path, few: Tiny
    ) -> None:
        shutil.copytree(root / "domains" / "legal", root / "domains" / "tax")
        give(root, "merged", few("qwen2"))
        shutil.copytree(root / "models" / "legal", root / "models" / "tax")
        first = run_chain(load_domain("legal"), BUILD_ONLY)
        assert not run_chain(load_domain("tax"), BUILD_ONLY).stages["build"].reused
        assert run_chain(load_domain("legal"), BUILD_ONLY).stages["build"].reused
        assert "calibration" in first.stages["build"].manifest.inputs

    def test_the_second_run_does_nothing(self, root: Path, few: Tiny) -> None:
        give(root, "merged", few("qwen2"))
        run_chain(load_domain("legal"), BUILD_ONLY)
        again = run_chain(load_domain("legal"), BUILD_ONLY)
        assert all(done.reused for done in again.stages.values())

    def test_other_weights_are_built_anew(self, root: Path, few: Tiny) -> None:
        give(root, "merged", few("qwen2"))
        run_chain(load_domain("legal"), BUILD_ONLY)
        shutil.rmtree(root / "models" / "legal" / "merged")
        give(root, "merged", few("llama"))
        assert not run_chain(load_domain("legal"), BUILD_ONLY).stages["build"].reused


class TestRecords:
    def test_are_a_sample_of_our_own_by_default(self, root: Path) -> None:
        selection = select_records(load_domain("legal"), Options())
        assert (len(selection.records), selection.origin) == (32, "our own held-out records")

    @pytest.mark.parametrize("name", ["contracts", "financial", "legal", "medical"])
    def test_of_a_sample_are_enough_for_equal_answers_to_pass_the_gate(self, name: str) -> None:
        domain = load_domain(name)
        gate = next(
            g for g in domain.chain.gate if g.name == "field score minus the 16-bit parent's"
        )
        scores = [0.75] * len(select_records(domain, Options()).records)
        assert gate.with_confidence and gate.at_least is not None
        assert paired(scores, scores).low > gate.at_least
        assert paired([0.5, *scores[1:]], scores).low > gate.at_least, "one record a quarter worse"

    def test_can_be_all_of_them(self, root: Path) -> None:
        domain = load_domain("legal")
        assert select_records(domain, Options(records="all")).records == domain.records

    def test_can_come_from_another_file(self, root: Path, tmp_path: Path) -> None:
        lines = (root / "domains" / "legal" / "eval.jsonl").read_text().splitlines()[:3]
        other = tmp_path / "mine" / "held.jsonl"
        other.parent.mkdir()
        other.write_text("\n".join(lines))
        selection = select_records(load_domain("legal"), Options(records_file=other))
        assert (len(selection.records), selection.origin) == (3, "records of mine/held.jsonl")

    @pytest.mark.parametrize("word", ["some", "-1", "0", "1.5"])
    def test_are_not_counted_in_words(self, root: Path, word: str) -> None:
        with pytest.raises(UserError, match="--records: a number or 'all' is wanted"):
            select_records(load_domain("legal"), Options(records=word))


def test_a_full_precision_onnx_is_kept_only_where_one_is_made(root: Path) -> None:
    with pytest.raises(UserError, match="--keep-onnx: only the exporter optimum"):
        run_chain(load_domain("legal"), Options(keep_onnx=True, until="package"))
