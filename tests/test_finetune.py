"""examples/finetune: packing changes no loss, a killed run goes on, and the chain takes the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from examples.finetune import train as training
from examples.finetune.packing import Example, encode, pack
from examples.finetune.public import FILLED, Unsure, gold_of
from examples.finetune.records import keep_apart, training_records
from examples.finetune.run import Job, finetune
from examples.finetune.train import (
    Course,
    Recipe,
    answer_loss,
    examples_of,
    pace,
    train,
    with_adapter,
)
from shared.base import paths
from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.domain.records import Record
from shared.evaluate.models.chat import Chat
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options
from shared.source.adapter import WEIGHTS, read_adapter
from shared.source.source import base_stage
from shared.source.training import training_details

Tiny = Callable[[str], Path]
SHORT = Recipe(epochs=2, rank=4, first_layer=1, examples_per_pack=3, warm_up_steps=1)


def record(number: int, text: str = "") -> Record:
    gold = load_domain("legal").records[number].gold
    return Record(id=f"own-{number}", input=text or f"Number {number} of a kind. " * 3, gold=gold)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def examples(root: Path, tiny: Tiny) -> list[Example]:
    chat = Chat(tiny("llama"))
    return [encode(chat, "Answer in JSON.", record(i)) for i in range(5)]


class TestAPack:
    def test_has_the_loss_of_its_examples_alone(
        self, examples: list[Example], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = load(tiny("llama"))
        alone = []
        for example in examples:
            ids = torch.tensor([[*example.prompt, *example.answer]])
            labels = ids.clone()
            labels[0, : len(example.prompt)] = -100
            alone.append(float(model(input_ids=ids, labels=labels).loss.detach()))
        assert len({round(loss, 3) for loss in alone}) == len(alone)
        monkeypatch.setattr(training, "is_bfloat16_fast", lambda: False)
        assert float(answer_loss(model, examples).detach()) == pytest.approx(
            sum(alone) / 5, abs=1e-4
        )
        monkeypatch.setattr(training, "is_bfloat16_fast", lambda: True)
        assert float(answer_loss(model, examples).detach()) == pytest.approx(
            sum(alone) / 5, rel=0.01
        )

    def test_gives_each_matrix_the_gradient_of_its_examples_alone(
        self, examples: list[Example], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training, "is_bfloat16_fast", lambda: False)
        together, alone = load(tiny("llama")), load(tiny("llama"))
        answer_loss(together, examples).backward()
        for example in examples:
            (answer_loss(alone, [example]) / len(examples)).backward()
        theirs = dict(alone.named_parameters())
        for name, parameter in together.named_parameters():
            assert torch.allclose(parameter.grad, theirs[name].grad, atol=1e-5), name

    def test_leaves_the_model_its_own_attention(self, examples: list[Example], tiny: Tiny) -> None:
        model = load(tiny("llama"))
        before = model.config._attn_implementation
        answer_loss(model, examples)
        assert model.config._attn_implementation == before != "packed"

    def test_holds_the_prompt_once(self, examples: list[Example]) -> None:
        whole = sum(len(e.prompt) + len(e.answer) for e in examples)
        shared = len(
            [a for a, b in zip(examples[0].prompt, examples[1].prompt, strict=False) if a == b]
        )
        assert shared > 5 and pack(examples).ids.shape[1] < whole - 3 * 5


class TestAStep:
    def test_has_examples_of_like_length_and_an_epoch_has_each_once(self) -> None:
        lengths = [7 * i % 103 for i in range(1, 103)]
        examples = [Example([0] * length, [1]) for length in lengths]
        recipe = Recipe(examples_per_pack=10)
        steps = [examples_of(examples, step, recipe) for step in range(22)]
        for epoch in (steps[:11], steps[11:]):
            assert sorted(e.length for step in epoch for e in step) == sorted(
                n + 1 for n in lengths
            )
        assert [e.length for e in steps[0]] != [e.length for e in steps[11]]
        padded = sum(len(step) * max(e.length for e in step) for step in steps)
        assert padded < 1.25 * sum(e.length for step in steps for e in step)


class TestTheLearningRate:
    def test_is_zero_when_the_time_is_up_however_many_steps_are_left(self) -> None:
        assert pace(Course(step=10, seconds=900.0), 10_000, Recipe(minutes=15)) == 0
        assert pace(Course(step=10_000, seconds=1.0), 10_000, Recipe(minutes=15)) == 0
        assert pace(Course(step=10, seconds=1.0), 10_000, Recipe(minutes=15)) > 0.99


class TestTraining:
    def test_goes_on_after_a_kill_to_the_very_same_weights(
        self,
        examples: list[Example],
        tiny: Tiny,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
        straight = with_adapter(load(tiny("llama")), SHORT)
        course = train(straight, examples, SHORT, tmp_path / "straight.safetensors")
        assert course.step == 4 and course.losses and course.losses[-1] < course.losses[0]

        calls, loss = [], training.answer_loss

        def dying(model: Any, batch: Any) -> torch.Tensor:
            calls.append(batch)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return loss(model, batch)

        monkeypatch.setattr(training, "answer_loss", dying)
        state = tmp_path / "killed.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train(with_adapter(load(tiny("llama")), SHORT), examples, SHORT, state)
        again = with_adapter(load(tiny("llama")), SHORT)
        resumed = train(again, examples, SHORT, state)
        assert len(calls) == 5, "two steps, the one it died in, and the two that were missing"
        assert resumed.losses == course.losses
        theirs = dict(again.named_parameters())
        assert all(torch.equal(p, theirs[name]) for name, p in straight.named_parameters())


class TestTrainingRecords:
    def test_of_the_held_out_set_are_refused(self, root: Path) -> None:
        domain = load_domain("legal")
        for wrong in (
            record(0).model_copy(update={"id": domain.records[3].id}),
            record(0, domain.records[3].input.upper() + "."),
        ):
            with pytest.raises(UserError, match="is a held-out record"):
                keep_apart([record(1), wrong], domain.records, "train.jsonl")

    def test_near_a_held_out_one_are_left_out_and_named(self, root: Path) -> None:
        domain = load_domain("legal")
        near = record(0, domain.records[3].input + " Some words more.")
        found = keep_apart([record(1), near], domain.records, "train.jsonl")
        assert found.left_out == (near.id,) and [r.id for r in found.records] == ["own-1"]

    def test_are_held_apart_from_the_eval_jsonl_beside_them_too(
        self, root: Path, tmp_path: Path
    ) -> None:
        for name in ("train.jsonl", "eval.jsonl"):
            (tmp_path / name).write_text(record(1).model_dump_json() + "\n")
        with pytest.raises(UserError, match="own-1: is a held-out record"):
            training_records(load_domain("legal"), [tmp_path / "train.jsonl"])


@pytest.fixture
def job(root: Path, tiny: Tiny) -> Job:
    file = root / "train.jsonl"
    texts = [f"Matter {i}: " + " ".join(f"w{i}x{j}" for j in range(12)) for i in range(9)]
    lines = [record(i, text).model_dump_json() for i, text in enumerate(texts)]
    file.write_text("\n".join(lines))
    return Job("legal", (file,), recipe=SHORT, base=tiny("llama"))


class TestTheExample:
    def test_writes_merged_and_adapter_and_does_nothing_twice(
        self, job: Job, capsys: pytest.CaptureFixture[str]
    ) -> None:
        merged = finetune(job)
        assert merged == paths.models("legal") / "merged"
        note = json.loads((merged.parent / "adapter" / "finetune.json").read_bytes())
        assert note["records"] == 9 and note["steps"] == 6
        assert (merged.parent / "adapter" / "adapter_model.safetensors").is_file()
        words = (merged.parent / "adapter" / "README.md").read_text()
        assert "on 9 records: 6 steps" in words and "More Information" not in words
        assert not list((paths.build() / "finetune").glob("*.safetensors"))
        before = (merged / "model.safetensors").stat().st_mtime_ns
        capsys.readouterr()
        finetune(job)
        assert "unchanged" in capsys.readouterr().err
        assert (merged / "model.safetensors").stat().st_mtime_ns == before

    def test_changes_the_weights_from_the_first_layer_asked_for_and_no_shape(
        self, job: Job
    ) -> None:
        assert job.base
        old, new = (load_file(f / "model.safetensors") for f in (job.base, finetune(job)))
        assert {n: t.shape for n, t in old.items()} == {n: t.shape for n, t in new.items()}
        assert {t.dtype for t in new.values()} == {torch.bfloat16}
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        assert changed and not any(".layers.0." in n or "embed" in n for n in changed)

    def test_replaces_no_model_that_it_did_not_write(self, job: Job, tiny: Tiny) -> None:
        theirs = paths.models("legal") / "merged"
        shutil.copytree(tiny("smollm3"), theirs)
        with pytest.raises(UserError, match="--replace puts the new one in its place"):
            finetune(job)
        assert json.loads((theirs / "config.json").read_text())["model_type"] == "smollm3"
        finetune(replace(job, replace=True))
        assert json.loads((theirs / "config.json").read_text())["model_type"] == "llama"

    def test_deletes_no_adapter_that_somebody_put_in_its_place(
        self, job: Job, tmp_path: Path
    ) -> None:
        for asked in (job, replace(job, to=tmp_path / "theirs", replace=True)):
            theirs = asked.to or paths.models("legal") / "adapter"
            theirs.mkdir(parents=True)
            for name in ("adapter_config.json", "optimizer.pt"):
                (theirs / name).write_text("{}")
            with pytest.raises(UserError, match="files that this example did not write; move it"):
                finetune(asked)
            assert (theirs / "optimizer.pt").exists()

    @pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
    def test_wants_some_time(self, job: Job, minutes: float) -> None:
        with pytest.raises(UserError, match="--minutes: a number above 0 is wanted"):
            finetune(replace(job, recipe=replace(SHORT, minutes=minutes)))

    @pytest.mark.parametrize("again", ["the same command", "another one"])
    def test_takes_no_model_for_its_own_that_was_put_in_its_place(
        self, job: Job, tiny: Tiny, again: str
    ) -> None:
        """The note in adapter/ stays where it is when an owner lays weights of their own in merged/."""
        merged = finetune(job)
        shutil.copyfile(tiny("smollm3") / "model.safetensors", merged / "model.safetensors")
        theirs = (merged / "model.safetensors").read_bytes()
        if again == "another one":
            job = replace(job, recipe=replace(SHORT, seed=7))
        with pytest.raises(UserError, match="--replace puts the new one in its place"):
            finetune(job)
        assert (merged / "model.safetensors").read_bytes() == theirs

    def test_writes_the_adapter_alone_where_it_is_told_to_and_does_nothing_twice(
        self, job: Job, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        alone = replace(job, to=root / "examples" / "legal", data=("A set CC-BY-4.0",))
        folder = finetune(alone)
        assert read_adapter(folder).pairs and not paths.models("legal").exists()
        assert {t.dtype for t in load_file(folder / WEIGHTS).values()} == {torch.float16}
        assert training_details(folder)["data"] == "A set CC-BY-4.0"
        capsys.readouterr()
        finetune(alone)
        assert "unchanged" in capsys.readouterr().err
        finetune(replace(alone, recipe=replace(SHORT, seed=7)))
        assert json.loads((folder / "finetune.json").read_bytes())["recipe"]["seed"] == 7

    def test_goes_on_from_an_adapter_of_its_own_and_tells_every_leg(
        self, job: Job, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = finetune(replace(job, to=root / "first", data=("A set CC-BY-4.0",)))
        slow = replace(SHORT, learning_rate=1e-6)
        on = replace(job, recipe=slow, to=root / "second", start=first, data=("Ours MIT",))
        second = finetune(on)
        before, after = (load_file(folder / WEIGHTS) for folder in (first, second))
        assert all(torch.allclose(before[n], after[n], atol=1e-3) for n in before)
        assert any(not torch.equal(before[n], after[n]) for n in before)
        note = json.loads((second / "finetune.json").read_bytes())
        assert [leg["to_step"] for leg in note["legs"]] == [6, 12] and note["steps"] == 12
        assert [leg["recipe"]["learning_rate"] for leg in note["legs"]] == [
            SHORT.learning_rate,
            1e-6,
        ]
        assert training_details(second)["data"] == "A set CC-BY-4.0, Ours MIT"
        assert "12 steps" in (second / "README.md").read_text()
        assert "in 2 legs" in (second / "README.md").read_text()
        capsys.readouterr()
        finetune(on)
        assert "unchanged" in capsys.readouterr().err
        finetune(replace(on, recipe=replace(slow, seed=3), to=root / "third", start=second))
        assert len(json.loads((root / "third" / "finetune.json").read_bytes())["legs"]) == 3

    def test_goes_on_from_nothing_else(self, job: Job, root: Path) -> None:
        mine = finetune(replace(job, to=root / "mine"))
        with pytest.raises(UserError, match="cannot be begun with and written at once; copy it"):
            finetune(replace(job, to=mine, start=mine))
        with pytest.raises(UserError, match="holds no adapter that this example wrote"):
            finetune(replace(job, to=root / "other", start=root))
        wider = replace(job, recipe=replace(SHORT, rank=2), to=root / "other", start=mine)
        with pytest.raises(UserError, match="mine: has not the matrices that this recipe trains"):
            finetune(wider)

    def test_takes_no_folder_with_something_else_in_it(self, job: Job, root: Path) -> None:
        for name in ("theirs.txt", "adapter_model.safetensors"):
            (root / name / "x").mkdir(parents=True)
            (root / name / "x" / name).write_text("theirs")
            with pytest.raises(UserError, match="x: holds a model that this example did not write"):
                finetune(replace(job, to=root / name / "x"))
            assert (root / name / "x" / name).read_text() == "theirs"

    def test_replaces_its_own_model_by_another_unasked(self, job: Job) -> None:
        before = (finetune(job) / "model.safetensors").read_bytes()
        after = finetune(replace(job, recipe=replace(SHORT, seed=7)))
        assert (after / "model.safetensors").read_bytes() != before


class TestTheChain:
    """With the domain's own fallback.toml, whose rungs say what they are made from."""

    @pytest.fixture
    def merged(self, root: Path, embedded: Path) -> Path:
        for file in ("defaults.toml", "legal/fallback.toml"):
            shutil.copy(paths.REPOSITORY / "domains" / file, root / "domains" / file)
        (root / "build").mkdir()
        (root / "build" / "embedded").symlink_to(embedded.parent)
        return root / "models" / "legal" / "merged"

    def test_takes_a_tuned_smollm2_with_its_base_named(self, merged: Path, embedded: Path) -> None:
        shutil.copytree(embedded, merged)
        walked = run_chain(load_domain("legal"), Options(until="source"))
        assert walked.rung and walked.rung.name == "smollm2"
        assert walked.rung.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
        base = base_stage(walked.rung)
        assert base and base.folder == paths.build() / "embedded" / embedded.name
        assert "'llama' is not what the rung smollm3" in walked.attempts[0].reason

    def test_takes_no_other_llama_by_that_name(self, merged: Path, tiny: Tiny) -> None:
        shutil.copytree(tiny("llama"), merged)
        walked = run_chain(load_domain("legal"), Options(until="source"))
        reasons = {a.rung: a.reason for a in walked.attempts}
        assert "hidden_size: 64 is not HuggingFaceTB/SmolLM2-135M-In" in reasons["smollm2"]
        assert walked.rung is None and "not tried in place of" in reasons["embedded"]


class TestAPublicRow:
    """Somebody else's training row, in the form of our schema."""

    TABLE = "| | 2018 | 2019 |\n| Sales | $ 849 | $ 670 |\n\nQuestion: "

    def gold(self, question: str, *, scale: str = "million") -> dict[str, Any] | None:
        theirs = {"answer": ["670"], "scale": scale, "answer_type": "span"}
        return gold_of(load_domain("financial"), {"input": self.TABLE + question, "gold": theirs})

    def test_gets_the_unit_and_the_period_that_it_says(self) -> None:
        wanted = {"answer": ["670"], "scale": "million", "unit": "USD", "period": "2019"}
        assert self.gold("What were sales in 2019?") == wanted

    def test_is_left_out_where_it_does_not_say(self) -> None:
        assert self.gold("What were sales?") is None
        assert self.gold("How much did sales change in 2019?") is None
        assert self.gold("What were sales in 2019?", scale="none") is None

    def test_gets_words_of_its_own_as_a_quote(self) -> None:
        legal = load_domain("legal")
        theirs = {"issue": "overruling", "conclusion": "yes"} | dict.fromkeys(
            ("parties_diverse", "amount_met")
        )
        text = f"Wilmot is overruled. {'It was wrong. ' * 40}"
        found = gold_of(legal, {"input": text, "gold": theirs})
        assert found is not None and found["quote"] == "Wilmot is overruled."
        assert gold_of(legal, {"input": "no end " * 60, "gold": theirs}) is None

    @pytest.mark.parametrize("field", ["unit", "period"])
    def test_is_filled_as_our_records_are(self, field: str) -> None:
        found = {}
        for record in load_domain("financial").records:
            with suppress(Unsure):
                found[record.id] = (FILLED[field](record.input, record.gold), record.gold[field])
        assert len(found) > 70
        assert all(one == other or one in other for one, other in found.values()), found
