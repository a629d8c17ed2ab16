"""The check stage: who was asked and how, what loads, and what an answer in the store depends on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.manifest import Manifest
from shared.base.stage import Plan, Produced, run_stage
from shared.domain.domain import Domain, load_domain
from shared.domain.records import spread
from shared.evaluate import systems
from shared.evaluate.check import Selection, check_stage
from shared.evaluate.models.chat import Answer
from shared.evaluate.models.device import rows_at_once
from shared.evaluate.systems import System, parse_minutes
from shared.release.card.quality import quality_note
from shared.release.gates import judge_gates
from shared.source.source import answering_hash, source_stage
from tests.events import wait_until

Tiny = Callable[[str], Path]


class StandIn:
    """Answers every prompt with the same words; `refuses` any schema, as a runtime would."""

    def __init__(self, refuses: type[Exception] | None = None) -> None:
        self.chat, self.refuses = self, refuses

    def prompt_ids(self, system: str | None, user: str) -> list[int]:
        return [1, 2, 3]

    def answers(
        self, prompts: Sequence[list[int]], limit: int, schema: str | None, **_: object
    ) -> Iterator[tuple[int, Answer]]:
        if schema and self.refuses:
            raise self.refuses("no grammar can be made of this\nand more")
        for index, _ in enumerate(prompts):
            yield index, Answer('{"issue": "secret words"}', 3, [4, 5], 0.1, 0.1)


@pytest.fixture
def domain(root: Path, few: Tiny) -> Domain:
    shutil.copytree(few("llama"), root / "models" / "legal" / "merged")
    return load_domain("legal")


def check(domain: Domain, **selected: Any) -> Manifest:
    rung = domain.rung("smollm3")
    chosen = Selection(domain.records[:2], "two records", **selected)
    package = run_stage(Plan("package", {}), lambda work: Produced())
    return check_stage(domain, rung, source_stage(rung), package, chosen).manifest


def load(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    def make(folder: Path, runtime: str, device: str) -> Any:
        if isinstance(model, Exception) and runtime != "torch":
            raise model
        return StandIn() if isinstance(model, Exception) else model

    monkeypatch.setattr(systems, "_load", make)


class TestWhetherTheReleaseLoads:
    def test_is_not_measured_where_it_was_not_asked(
        self, domain: Domain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(monkeypatch, StandIn())
        found = check(domain, systems=("parent",)).measurements
        assert found["loads"].value is None
        assert found["loads"].reason == "the release was not asked"
        gate = next(g for g in domain.chain.gate if g.measurement == "check.loads")
        made = Manifest.model_construct(measurements={"loads": found["loads"]})
        assert judge_gates([gate], {"check": made})[0].outcome == "not measured"
        assert check(domain, systems=("release",)).measurements["loads"].value is True

    def test_is_told_and_the_others_are_not_said_to_be_unwanted(
        self, domain: Domain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(monkeypatch, RungFailed("onnxruntime-genai cannot load it: no"))
        made = check(domain, systems=("parent", "release"), modes=("free",))
        found = made.measurements
        assert found["loads"].value is False
        assert found["release.free.json_validity"].reason == "onnxruntime-genai cannot load it: no"
        why = "not asked, as the release cannot be loaded"
        assert found["parent.free.json_validity"].reason == why
        assert found["parent.constrained.json_validity"].reason == "not asked for"
        assert found["base.free.json_validity"].reason == "not asked for"


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_a_schema_that_no_grammar_can_be_made_of_costs_only_that_mode(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    load(monkeypatch, StandIn(refuses=kind))
    made = check(domain, systems=("parent", "release"))
    found, why = made.measurements, "cannot be held to schema.json: no grammar can be made of this"
    assert found["loads"].value is True
    assert found["release.free.json_validity"].value == 1.0
    assert found["release.constrained.json_validity"].reason == why
    assert found["parent.constrained.json_validity"].reason == why
    assert made.facts["constrained_answers"] == 0


def test_another_fault_of_a_free_answer_is_no_refusal(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> Iterator[tuple[int, Answer]]:
        raise RuntimeError("out of memory")
        yield

    model = StandIn()
    monkeypatch.setattr(model, "answers", out_of_memory)
    load(monkeypatch, model)
    with pytest.raises(RuntimeError, match="out of memory"):
        check(domain, systems=("parent",), modes=("free",))


def test_a_real_runtime_refuses_such_a_schema_in_a_sentence(few: Tiny, package: Path) -> None:
    from shared.evaluate.models.genai import GenaiModel
    from shared.evaluate.models.torch import TorchModel

    schema = json.dumps({"type": "object", "properties": {"a": {"type": "no such type"}}})
    for model in (TorchModel(few("llama")), GenaiModel(package)):
        prompts = [model.chat.prompt_ids(None, "Hello")]
        with pytest.raises(systems.Refused, match=r"cannot be held to schema\.json: .+"):
            list(systems._refusing(model.answers(prompts, 8, schema), schema))


class TestWhatStandsInTheFacts:
    def test_is_no_answer_to_text_from_elsewhere(
        self, domain: Domain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(monkeypatch, StandIn())
        ours = check(domain, systems=("release",)).facts
        assert ours["example"]["id"] == domain.records[0].id and ours["exceptions"]
        theirs = check(domain, systems=("release",), own=False).facts
        public = tuple(r.model_copy(update={"licence": "cc-by"}) for r in domain.records)
        licensed = check(replace(domain, records=public), systems=("release",)).facts
        for facts in (theirs, licensed):
            assert "example" not in facts and facts["exceptions"]
            assert "secret" not in json.dumps(facts)


class TestAStoredAnswer:
    @pytest.mark.parametrize(
        "file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"]
    )
    def test_is_not_taken_for_that_of_a_changed_model_folder(
        self, domain: Domain, file: str
    ) -> None:
        folder = paths.models("legal") / "merged"
        before = answering_hash(folder)
        assert answering_hash(folder) == before
        (folder / file).write_bytes((folder / file).read_bytes() + b"\n")
        assert answering_hash(folder) != before

    def test_is_not_taken_where_the_tokens_that_end_it_are_others(self, domain: Domain) -> None:
        folder = paths.models("legal") / "merged"
        before = answering_hash(folder)
        (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
        assert answering_hash(folder) != before

    def test_is_asked_for_again_where_the_code_or_the_number_format_is_another(
        self, domain: Domain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        system = System("parent", paths.models("legal") / "merged", "w", "p")
        before = system.store("free", domain).path
        assert system.store("free", domain).path == before
        with monkeypatch.context() as patch:
            patch.setattr(systems, "RUNTIMES", {"torch": "shared.evaluate.models.genai"})
            assert system.store("free", domain).path != before
        assert system.store("free", domain).path == before
        monkeypatch.setattr(systems, "computing", lambda *_: "bfloat16 on the CPU")
        assert system.store("free", domain).path != before


class TestATimeBudget:
    """Every answer of the stand-in takes 0.2 s; two systems in two modes, and the release once more
    token by token: 1 s a record."""

    @staticmethod
    def run(domain: Domain, minutes: float | None, count: int = 32) -> Manifest:
        rung = domain.rung("smollm3")
        chosen = Selection(
            domain.records[:count], "ours", systems=("parent", "release"), minutes=minutes
        )
        package = run_stage(Plan("package", {}), lambda work: Produced())
        return check_stage(domain, rung, source_stage(rung), package, chosen).manifest

    @pytest.mark.parametrize(
        ("minutes", "records"),
        [(None, 32), (100, 32), (0.38, 20), (0.01, 8)],
        ids=["none", "ample", "for twenty", "for not even the first eight"],
    )
    def test_cuts_the_records_alike_for_everyone_and_spreads_them_evenly(
        self,
        domain: Domain,
        monkeypatch: pytest.MonkeyPatch,
        minutes: float | None,
        records: int,
    ) -> None:
        load(monkeypatch, StandIn())
        made = self.run(domain, minutes)
        assert made.facts["records"] == records
        for who in ("parent.free", "parent.constrained", "release.free", "release.constrained"):
            assert made.measurements[f"{who}.json_validity"].n == records
        lines = (paths.build() / "check" / made.key / "records.jsonl").read_text().splitlines()
        chosen = spread(domain.records[:32])[:records]
        kept = [record.id for record in domain.records if record in chosen]
        assert [json.loads(line)["id"] for line in lines] == kept
        note = quality_note(made.facts)
        cut = f": {records} of 32, evenly spread, cut by --time-budget {minutes})"
        assert (cut in note) == (records < 32)

    def test_spreads_any_number_of_records_evenly(self) -> None:
        assert [sorted(spread(range(32))[:n]) for n in (2, 4)] == [[0, 16], [0, 8, 16, 24]]
        for n in range(8, 50):
            gaps = [b - a for a, b in pairwise(sorted(spread(range(50))[:n]))]
            assert max(gaps) <= 2 * 50 / n and sorted(spread(range(n))) == [*range(n)]

    def test_cuts_alike_when_the_first_answers_are_there_already(
        self, domain: Domain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(monkeypatch, StandIn())
        self.run(domain, None, count=10)
        assert self.run(domain, 0.38).facts["records"] == 20

    @pytest.mark.parametrize("text", ["soon", "0", "-3", "inf", "nan"])
    def test_is_a_number_of_minutes(self, text: str) -> None:
        with pytest.raises(UserError, match="--time-budget: a number of minutes is wanted"):
            parse_minutes(text)


KILLED = """
import sys
from pathlib import Path
from shared.domain.records import Record
from shared.domain.domain import load_domain
from shared.evaluate.systems import Runner, System
domain = load_domain("legal")
records = [Record(id=f"n{i}", input=f"Matter {i} of a hundred.", gold={}) for i in range(100)]
Runner(System("parent", Path(sys.argv[1]), "w", "Answer in JSON."), domain, records).run("free")
"""


def test_a_killed_check_in_pytorch_asks_only_what_was_not_answered(root: Path, few: Tiny) -> None:
    """kill -9 among 100 records: every answer that had ended is there, and is not asked for again."""
    command = [sys.executable, "-c", KILLED, str(few("llama"))]
    process = subprocess.Popen(
        command, cwd=paths.REPOSITORY, env=os.environ | {"DOCINTEL_ROOT": str(root)}
    )
    files = wait_until(lambda: list(root.glob("build/answers/*.jsonl")), process)
    wait_until(lambda: b"\n" in files[0].read_bytes(), process, every=0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (file,) = files
    before = file.read_text(encoding="utf-8")
    kept = before[: before.rfind("\n") + 1]
    had = {json.loads(line)["record"] for line in kept.split("\n") if line}
    assert 0 < len(had) < 100
    subprocess.run(command, cwd=paths.REPOSITORY, check=True)
    after = file.read_text(encoding="utf-8")
    asked = [json.loads(line)["record"] for line in after[len(before) :].split("\n") if line]
    assert after.startswith(kept) and not had & set(asked)
    assert len(had) + len(asked) == len(had | set(asked)) == 100


def test_a_batch_is_of_as_many_prompts_as_their_cache_has_room_for() -> None:
    """SmolLM3's rows of 1,000 tokens, a small model's, Phi-3's, and Phi-3's in float32."""
    sizes = (74_000_000, 1_000_000, 400_000_000, 2_000_000_000)
    assert [rows_at_once(size) for size in sizes] == [8, 32, 3, 1]


def test_another_order_of_the_fields_is_another_task(domain: Domain) -> None:
    """Answers are held to the schema's order: a quote before the label is not the label before it."""
    load_nothing = {"systems": (), "modes": ("constrained",)}
    properties = domain.schema["properties"]
    turned = domain.schema | {"properties": dict(reversed(properties.items()))}
    keys = [check(replace(domain, schema=s), **load_nothing).key for s in (domain.schema, turned)]
    assert keys[0] != keys[1]


def test_force_asks_everything_again_and_an_answer_from_before_is_told(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Counting(StandIn):
        def answers(self, prompts: Any, *rest: Any, **more: Any) -> Any:
            asked.append(len(prompts))
            return super().answers(prompts, *rest, **more)

    load(monkeypatch, Counting())
    rung, package = domain.rung("smollm3"), run_stage(Plan("package", {}), lambda work: Produced())
    two, three = (Selection(domain.records[:n], "n", systems=("release",)) for n in (2, 3))
    source = source_stage(rung)
    assert not check_stage(domain, rung, source, package, two).manifest.resumed
    assert asked == [2, 2, 2]
    assert check_stage(domain, rung, source, package, three).manifest.resumed
    assert asked[3:] == [1, 1, 1]
    forced = check_stage(domain, rung, source, package, three, force=True)
    assert asked[6:] == [3, 3, 3] and not forced.manifest.resumed
