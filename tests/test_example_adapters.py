"""The adapters in examples/adapters: what the rung `example` takes, and what they learnt from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open

from examples.finetune import adapters
from examples.finetune.adapters import ADAPTERS, PUBLIC, RECORDS, train_example
from examples.finetune.records import training_records
from examples.finetune.train import Recipe
from shared.base import paths
from shared.base.parsing import read_json
from shared.domain.domain import load_domain
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options
from shared.source.adapter import WEIGHTS, read_adapter
from shared.source.source import weights_hash
from shared.source.training import training_details
from tests.stand_ins import share_embedded

DOMAINS = sorted(folder.name for folder in ADAPTERS.iterdir())
MOST_BYTES = 6_000_000


@pytest.mark.parametrize("name", DOMAINS)
class TestTheAdapterOfEachDomain:
    def test_is_small_in_16_bits_and_names_the_base_it_was_trained_from(
        self, name: str, embedded: Path
    ) -> None:
        adapter = read_adapter(ADAPTERS / name)
        assert len(adapter.pairs) == 30 * 7, "every linear layer"
        assert (ADAPTERS / name / WEIGHTS).stat().st_size < MOST_BYTES
        with safe_open(ADAPTERS / name / WEIGHTS, "np") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
        told = read_json(ADAPTERS / name / "training.json")
        assert told["base_weights"] == weights_hash(embedded)

    def test_tells_the_card_its_data_with_their_licences(self, name: str) -> None:
        details = training_details(ADAPTERS / name)
        assert details["data"].startswith(PUBLIC[name])
        set_name, _, licence = PUBLIC[name].rpartition(" ")
        notice = (paths.REPOSITORY / "NOTICE").read_text(encoding="utf-8")
        assert set_name in notice and licence.replace("-", " ") in notice
        note = read_json(ADAPTERS / name / "finetune.json")
        assert int(details["steps"]) == note["steps"] == len(note["losses_nats_per_token"])


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_our_own_training_records_are_no_held_out_ones_and_quote_word_for_word(name: str) -> None:
    domain = load_domain(name)
    files = [RECORDS / f"{name}.jsonl", domain.folder / "calibration.jsonl"]
    found = training_records(domain, files)
    assert found.left_out == () and len(found.records) > 300
    for record in found.records:
        quote = record.gold.get("quote")
        assert quote is None or str(quote) in record.input, record.id


def test_these_domains_have_an_adapter() -> None:
    assert DOMAINS == ["contracts", "financial", "legal", "medical"]


class TestTheRung:
    @pytest.fixture
    def examples(self, root: Path, embedded: Path) -> Path:
        shutil.copytree(paths.REPOSITORY / "domains", root / "domains", dirs_exist_ok=True)
        share_embedded(root)
        shutil.copytree(ADAPTERS, root / "examples" / "adapters")
        return root

    def test_is_taken_where_nobody_brought_a_model(self, examples: Path) -> None:
        walked = run_chain(load_domain(DOMAINS[0]), Options(until="source"))
        assert walked.rung and walked.rung.name == "example"
        assert walked.rung.example and walked.rung.publishable
        facts = walked.manifests["source"].facts
        assert facts["training"]["rank (r)"] == "8"

    def test_of_a_copied_domain_without_an_adapter_falls_to_the_embedded_model(
        self, examples: Path
    ) -> None:
        shutil.copytree(examples / "domains" / DOMAINS[0], examples / "domains" / "tax")
        walked = run_chain(load_domain("tax"), Options(until="source"))
        reasons = {attempt.rung: attempt.reason for attempt in walked.attempts}
        assert walked.rung and walked.rung.name == "embedded"
        assert "examples/adapters/tax: the folder is not there" in reasons["example"]

    def test_that_fails_leaves_the_embedded_model_to_be_tried(self, examples: Path) -> None:
        """Nobody brought it: an example is taken in an example's place."""
        config = examples / "examples" / "adapters" / DOMAINS[0] / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
        walked = run_chain(load_domain(DOMAINS[0]), Options(until="source"))
        ends = {attempt.rung: attempt.outcome for attempt in walked.attempts}
        assert (ends["example"], ends["embedded"]) == ("failed", "taken")


def test_training_reads_public_rows_calibration_and_our_own_records(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = root / "sets" / "legal"
    sets.mkdir(parents=True)
    gold = (
        '{"issue": "overruling", "conclusion": "yes", "parties_diverse": null, "amount_met": null}'
    )
    rows = (
        "Wilmot v. Sand is overruled today.",
        "Whether Arden still stands is not for us to say.",
    )
    for file, row in zip(("train.jsonl", "eval.jsonl"), rows, strict=True):
        (sets / file).write_text(f'{{"id": "{file}", "input": "{row}", "gold": {gold}}}\n')
    jobs: list[SimpleNamespace] = []
    monkeypatch.setattr(adapters, "finetune", lambda job: jobs.append(job) or job.to)
    assert train_example("legal", root / "sets", Recipe(), root / "to") == root / "to" / "legal"
    (job,) = jobs
    assert [file.name for file in job.records] == [
        "train.jsonl",
        "calibration.jsonl",
        "legal.jsonl",
    ]
    assert job.data == ("LegalBench CC-BY-4.0", "our own records Apache-2.0")
    assert (job.records[0].parent / "eval.jsonl").is_file(), "what is judged on lies beside it"
