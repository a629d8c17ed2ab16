"""Calibration never sees what a model is measured on: by id, by text, in part, from any file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import sha256_file
from shared.base.stage import Plan, StageResult
from shared.domain.domain import GENERAL_FILE, domain_names, load_domain
from shared.domain.records import read_instructions, read_records, spread
from shared.olive import build as stage
from shared.olive.build import build_stage
from shared.olive.calibrated_pass import _tell_rounded
from shared.olive.calibration_loader import rows_of
from shared.olive.calibration_text import (
    END,
    EQUAL_ROWS,
    FILE,
    MAX_TOKENS,
    TOKENS,
    bound,
    bounded,
    calibration_stage,
    chat_tokens,
    refuse_common,
    wants_calibration,
    within,
)
from shared.pipeline.chain import run_chain
from shared.pipeline.one_domain import run_until
from shared.pipeline.stages import Options
from shared.pipeline.tune.tune import tune
from shared.source.source import source_stage
from shared.source.tokenizer import Tokenizer

Tiny = Callable[[str], Path]
CALIBRATED = {"type": "CalibratedQuant", "calibration": FILE}


@pytest.fixture
def model(root: Path, few: Tiny) -> Path:
    """The domain with a tiny model, and an olive.json that calibrates."""
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    write_pass(root, CALIBRATED)
    return root / "models" / "legal" / "merged"


def write_pass(root: Path, settings: dict[str, Any]) -> None:
    path = root / "domains" / "legal" / "olive.json"
    workflow = json.loads(path.read_text())
    builder = {k: v for k, v in workflow["passes"].items() if v["type"] == "StreamingModelBuilder"}
    path.write_text(json.dumps(workflow | {"passes": {"first": settings} | builder}))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def put(root: Path, record: dict[str, Any]) -> None:
    """Add a record to the domain's calibration texts."""
    path = root / "domains" / "legal" / FILE
    path.write_text(path.read_text() + json.dumps(record) + "\n")


def build(**measured: Any) -> None:
    domain = load_domain("legal")
    rung = domain.rung("smollm3")
    build_stage(domain, rung, source_stage(rung), **measured)


@pytest.mark.parametrize("name", domain_names())
def test_what_is_shipped_shares_nothing_with_the_held_out_records(name: str) -> None:
    domain = load_domain(name)
    records = read_records(domain.folder / FILE, domain.schema)
    assert len(records) >= 10
    refuse_common(records, domain.records, name)


@pytest.mark.parametrize("name", domain_names())
def test_what_is_shipped_is_read_to_the_end_of_its_answer(name: str, embedded: Path) -> None:
    domain, tokenizer = load_domain(name), Tokenizer(embedded)
    records = read_records(domain.folder / FILE, domain.schema)
    assert max(len(chat_tokens(tokenizer, domain.prompt, r)) for r in records) < MAX_TOKENS


def test_a_build_reads_whole_texts_evenly_spread_until_it_has_the_tokens_asked_for() -> None:
    texts = [[place] * 10 for place in range(16)]
    assert [text[0] for text in within(texts, 45)] == [0, 8, 4, 12]
    assert within(texts, 160) == list(spread(texts)) and within(texts, 3) == [texts[0]]


def test_a_long_text_is_read_without_its_middle_and_with_its_answer() -> None:
    ids = list(range(5000))
    found = bounded(ids)
    assert len(found) == MAX_TOKENS and found[: MAX_TOKENS - END] == ids[: MAX_TOKENS - END]
    assert found[-END:] == ids[-END:] and bounded(ids[:MAX_TOKENS]) == ids[:MAX_TOKENS]


class TestAFileOfOnesOwn:
    """--calibration FILE stands in place of calibration.jsonl."""

    @pytest.fixture
    def own(self, root: Path, model: Path) -> Path:
        records = lines(root / "domains" / "legal" / FILE)
        new = {"id": "mine", "input": "Whatever my customers write of in their own words."}
        (root / "mine.jsonl").write_text(json.dumps(records[0] | new) + "\n")
        return root / "mine.jsonl"

    def test_is_what_calibrates(self, own: Path, model: Path) -> None:
        domain = load_domain("legal", own)
        made = calibration_stage(domain, source_stage(domain.rung("smollm3")))
        general = len(read_instructions(paths.domains() / GENERAL_FILE))
        texts = json.loads((made.folder / TOKENS).read_text())
        assert len(texts) == 1 + general and "my customers" in Tokenizer(model).text(texts[0])
        assert "given file's 1 calibration" in made.manifest.measurements["tokens"].how

    def test_is_the_one_that_a_release_names(self, own: Path) -> None:
        assert load_domain("legal", own).hashes[FILE] == sha256_file(own)
        assert load_domain("legal").hashes[FILE] != sha256_file(own)

    def test_of_a_tuning_is_read_by_its_recipes_whatever_the_domains_own_is(
        self, root: Path, own: Path
    ) -> None:
        write_pass(root, {"type": "Rtn"})
        with pytest.raises(UserError, match="--calibration: none of these recipes takes any text"):
            tune("legal", Options(calibration=own), 10**9, only="default,rtn-asym")
        held_out = paths.domains() / "legal" / "eval.jsonl"
        with pytest.raises(UserError, match="held-out record"):
            tune("legal", Options(calibration=held_out), 10**9, only="calibrated")

    def test_that_is_measured_is_refused_before_anything_is_built(self, own: Path) -> None:
        held_out = paths.domains() / "legal" / "eval.jsonl"
        result = run_until("legal", Options(calibration=held_out, until="package"))
        assert "eval.jsonl" in (result.error or "") and "held-out record" in (result.error or "")
        assert not list(paths.build().glob("build/*"))

    def test_that_nothing_reads_is_refused(self, root: Path, own: Path) -> None:
        write_pass(root, {"type": "Rtn"})
        result = run_until("legal", Options(calibration=own, until="package"))
        assert result.error == "--calibration: no pass of domains/legal/olive.json takes any text"


class TestAHeldOutRecordStopsTheBuild:
    def test_by_its_text_under_another_id(self, root: Path, model: Path) -> None:
        held_out = lines(root / "domains" / "legal" / "eval.jsonl")[3]
        put(root, held_out | {"id": "quite-another"})
        with pytest.raises(UserError, match=f"quite-another: its text.* {held_out['id']}"):
            build()
        assert not list((root / "build").glob("build/*")), "something was built all the same"

    def test_by_a_part_of_its_text_in_other_letters(self, root: Path, model: Path) -> None:
        held_out = lines(root / "domains" / "legal" / "eval.jsonl")[3]
        part = " ".join(held_out["input"].split()[2:17]).upper()
        put(root, held_out | {"id": "partly", "input": f"Something new, then -- {part}."})
        with pytest.raises(UserError, match="partly"):
            build()

    def test_by_its_id(self, root: Path, model: Path) -> None:
        held_out = lines(root / "domains" / "legal" / "eval.jsonl")[3]
        put(root, held_out | {"input": "An input that nobody has ever read."})
        with pytest.raises(UserError, match="a held-out record has this id"):
            build()

    def test_of_another_file_that_the_run_measures(self, root: Path, model: Path) -> None:
        other = root / "other.jsonl"
        record = lines(root / "domains" / "legal" / FILE)[2]
        other.write_text(json.dumps(record | {"id": "measured-1"}) + "\n")
        with pytest.raises(UserError, match="measured-1"):
            run_chain(
                load_domain("legal"), Options(rung="smollm3", records_file=other, until="package")
            )

    def test_even_where_the_build_is_there_already(self, root: Path, model: Path) -> None:
        build()
        records = read_records(root / "domains" / "legal" / FILE, load_domain("legal").schema)
        with pytest.raises(UserError, match=r"also in|has this id"):
            build(measured=records[:1])


class TestTheGeneralText:
    """domains/general.jsonl, which every domain adds."""

    ONE: ClassVar = {"id": "g1", "input": "Name a fruit that floats.", "answer": "An apple."}

    def tokens(self, root: Path, *general: dict[str, str]) -> list[list[int]]:
        lines = "".join(json.dumps(line) + "\n" for line in general)
        (root / "domains" / GENERAL_FILE).write_text(lines, encoding="utf-8")
        domain = load_domain("legal")
        made = calibration_stage(domain, source_stage(domain.rung("smollm3")))
        return list(json.loads((made.folder / TOKENS).read_text()))

    def test_follows_the_domains_own_without_its_prompt(self, root: Path, model: Path) -> None:
        own = self.tokens(root)
        *before, last = self.tokens(root, self.ONE)
        assert before == own
        text = Tokenizer(model).text(last)
        assert "floats" in text and "An apple." in text and "legal analyst" not in text

    def test_is_not_measured(self, root: Path, model: Path) -> None:
        held_out = lines(root / "domains" / "legal" / "eval.jsonl")[3]["input"]
        with pytest.raises(UserError, match=r"general\.jsonl: g1: its text is also"):
            self.tokens(root, self.ONE | {"input": held_out})

    def test_that_is_shipped_is_short_and_not_measured(self, embedded: Path) -> None:
        general = read_instructions(paths.REPOSITORY / "domains" / GENERAL_FILE)
        assert len({one.id for one in general}) == len(general) >= 20
        for name in domain_names():
            refuse_common(general, load_domain(name).records, name)
        tokenizer = Tokenizer(embedded)
        found = [len(tokenizer.answered_ids("", g.input, g.answer)) for g in general]
        assert max(found) < MAX_TOKENS / 4

    def test_with_a_mistake_is_refused_with_its_line(self, root: Path, model: Path) -> None:
        with pytest.raises(UserError, match=r"general\.jsonl:2: answer"):
            self.tokens(root, self.ONE, {"id": "g2", "input": "Why?"})


class TestNoOtherTextIsTaken:
    @pytest.mark.parametrize(
        "settings",
        [
            {"type": "CalibratedQuant", "calibration": "eval.jsonl"},
            {"type": "Gptq", "data_config": {"name": "x", "type": "HuggingfaceContainer"}},
            {"type": "Gptq", "config": {"data_config": "elsewhere"}},
            {"type": "LoRA", "eval_data_config": FILE},
        ],
    )
    def test_is_an_error_that_names_the_key(self, settings: dict[str, Any]) -> None:
        key = next(k for k in settings.get("config", settings) if "calib" in k or "data" in k)
        with pytest.raises(UserError, match=rf"passes\.q\.{key}: only 'calibration.jsonl'"):
            wants_calibration({"passes": {"q": settings}})

    def test_a_missing_file_says_what_to_do(self, root: Path, model: Path) -> None:
        (root / "domains" / "legal" / FILE).unlink()
        with pytest.raises(UserError, match="take that pass out"):
            build()


def test_both_kinds_of_pass_are_bound_to_the_tokens(tmp_path: Path) -> None:
    workflow = {"passes": {"a": CALIBRATED, "b": {"type": "Gptq", "config": {"data_config": FILE}}}}
    tokens = tmp_path / "tokens.json"
    passes = bound(workflow, tokens)["passes"]
    assert passes["a"]["calibration"] == str(tokens)
    given = passes["b"]["config"]["data_config"]["load_dataset_config"]
    assert given["params"]["tokens"] == str(tokens)
    assert workflow["passes"]["a"]["calibration"] == FILE, "the workflow itself was changed"


def test_a_pass_that_wants_texts_of_one_length_gets_them_packed(tmp_path: Path) -> None:
    workflow = {"passes": {"a": {"type": "AutoClip", "data_config": FILE}}}
    given = bound(workflow, tmp_path)["passes"]["a"]["data_config"]["load_dataset_config"]
    assert given["params"]["row"] == EQUAL_ROWS["autoclip"]
    assert rows_of([[1, 2, 3], [4], [5, 6, 7]], 3) == [[1, 2, 3], [4, 5, 6]]
    assert rows_of([[1], [2]], 3) == [[1, 2]]


def test_the_order_of_passes_and_patterns_is_part_of_the_builds_key(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def asked(plan: Plan, *_: Any, **__: Any) -> StageResult:
        keys.append(plan.key)
        return cast(StageResult, SimpleNamespace(reused=True))

    monkeypatch.setattr(stage, "run_stage", asked)
    monkeypatch.setattr(stage, "wants_calibration", lambda _: False)
    path = root / "domains" / "legal" / "olive.json"
    build()
    workflow = json.loads(path.read_text())
    workflow["passes"] = dict(reversed(workflow["passes"].items()))
    path.write_text(json.dumps(workflow))
    build()
    patterns = {"*": {"bits": 4}, "*.v_proj": {"bits": 8}}  # of those that match the last counts
    for overrides in (patterns, dict(reversed(patterns.items()))):
        ours = {"type": "CalibratedQuant", "overrides": overrides}
        path.write_text(json.dumps(workflow | {"passes": {"ours": ours} | workflow["passes"]}))
        build()
    assert len(set(keys)) == 4


def test_a_corrected_card_beside_the_weights_calibrates_nothing_anew(
    root: Path, model: Path
) -> None:
    def key() -> str:
        domain = load_domain("legal")
        return calibration_stage(domain, source_stage(domain.rung("smollm3"))).manifest.key

    before = key()
    (model / "README.md").write_text("# A model\n")
    (model / "LICENSE").write_text("Apache\n")
    assert key() == before
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    assert key() != before


def test_experts_are_told_since_no_pass_calibrates_them(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    for config in (MixtralConfig(**sizes, **heads), LlamaConfig(**sizes, **heads)):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        _tell_rounded(model, linears)
        told = capsys.readouterr().err
        assert ("are no linear layers (0.mlp." in told) == (config.model_type == "mixtral")
