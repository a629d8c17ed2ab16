"""Base, parent and release answer: alike whether alone or in company, free or held to a schema."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonschema
import pytest

from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.domain.records import Record
from shared.evaluate.answer_store import Store
from shared.evaluate.models.chat import Answer, common_prefix, prompt_prefix, room
from shared.evaluate.systems import Runner, System, parse_constrained, parse_systems

Tiny = Callable[[str], Path]
LIMIT = 24
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["law", "sale"]}, "paid": {"type": ["boolean", "null"]}},
    "required": ["kind", "paid"],
    "additionalProperties": False,
}


def answers(model: object, prompts: Sequence[list[int]], schema: str | None = None) -> list[Answer]:
    found = dict(model.answers(prompts, LIMIT, schema))  # type: ignore[attr-defined]
    return [found[index] for index in range(len(prompts))]


@pytest.fixture(params=["torch", "onnxruntime-genai"])
def model(request: pytest.FixtureRequest, tiny: Tiny, package: Path) -> object:
    """A tiny Qwen2 in each runtime; weights are random, so what it says is noise."""
    if request.param == "torch":
        from shared.evaluate.models.torch import TorchModel

        return TorchModel(tiny("qwen2"))
    from shared.evaluate.models.genai import GenaiModel

    return GenaiModel(package)


def prompts_of(model: object) -> list[list[int]]:
    texts = ["A short one.", "Another, which is a good deal longer than the first.", "Third"]
    system = "Say in JSON what kind of matter this is, and whether it was paid, and no more."
    return [model.chat.prompt_ids(system, text) for text in texts]  # type: ignore[attr-defined]


class TestAnswers:
    def test_are_the_same_alone_and_in_company(self, model: object) -> None:
        """In company the common beginning is read once and, in PyTorch, rows are padded."""
        prompts = prompts_of(model)
        together = answers(model, prompts)
        alone = [answers(model, [prompt])[0] for prompt in prompts]
        assert len(common_prefix(prompts)) >= 16
        assert [a.output_ids for a in together] == [a.output_ids for a in alone]
        assert [a.prompt_tokens for a in together] == [len(p) for p in prompts]

    def test_are_the_same_held_to_a_schema_alone_and_in_company(self, model: object) -> None:
        prompts, schema = prompts_of(model), grammar(SCHEMA)
        together = answers(model, prompts, schema)
        assert together[1].output_ids == answers(model, prompts[1:2], schema)[0].output_ids

    def test_held_to_a_schema_satisfy_it_even_from_noise(self, model: object) -> None:
        for answer in answers(model, prompts_of(model), grammar(SCHEMA)):
            jsonschema.validate(json.loads(answer.text), SCHEMA)
            assert answer.output_ids[-1] in model.stop, "it ends by itself"  # type: ignore[attr-defined]

    def test_held_to_a_schema_with_forced_text_satisfy_it_in_fewer_runs(
        self, model: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Alone and in company alike; a row's forced text may be longer than another's."""
        monkeypatch.setattr("shared.evaluate.models.forced.FORCING", True)
        prompts, schema = prompts_of(model), grammar(SCHEMA)
        together = answers(model, prompts, schema)
        alone = [answers(model, [prompt], schema)[0] for prompt in prompts]
        assert [a.output_ids for a in together] == [a.output_ids for a in alone]
        for answer in together:
            jsonschema.validate(json.loads(answer.text), SCHEMA)
            assert answer.output_ids[-1] in model.stop  # type: ignore[attr-defined]
            assert answer.forced[0] == 1, "the model chooses how it begins"
            assert 0 < answer.model_runs < len(answer.output_ids) / 2

    def test_free_of_it_are_noise(self, model: object) -> None:
        (answer, *_) = answers(model, prompts_of(model))
        with pytest.raises(ValueError):
            json.loads(answer.text)

    def test_to_a_prompt_beyond_the_context_are_empty(self, model: object) -> None:
        long, short = [7] * 5000, prompts_of(model)[0]
        found = answers(model, [short, long])
        assert found[1].output_ids == [] and found[1].prompt_tokens == 5000
        assert found[0].output_ids

    def test_to_a_prompt_near_the_contexts_end_are_what_there_is_room_for(
        self, model: object
    ) -> None:
        """In both runtimes alike, alone and in a batch: refused is only what has no room at all."""
        context = model.context_length  # type: ignore[attr-defined]
        prompts = [[7] * (context - left) for left in (3, 1, 0)]
        lengths = [len(a.output_ids) for a in answers(model, [prompts_of(model)[0], *prompts])]
        assert 0 < lengths[1] <= 3 and lengths[2:] == [1, 0]
        assert lengths[0] > 3


class TestTheRoomForAnAnswer:
    @pytest.mark.parametrize(
        ("prompt", "tokens"), [(0, 24), (76, 24), (77, 23), (99, 1), (100, 0), (5000, 0)]
    )
    def test_is_what_the_context_still_holds(self, prompt: int, tokens: int) -> None:
        assert room(prompt, 24, 100) == tokens


def test_pytorch_and_transformers_own_generate_agree(tiny: Tiny) -> None:
    """Ours batches, pads on the left and reuses the cache; theirs is the reference."""
    import torch

    from shared.evaluate.models.torch import TorchModel

    model = TorchModel(tiny("smollm3"))
    prompts = prompts_of(model)
    for prompt, answer in zip(prompts, answers(model, prompts), strict=True):
        ids = torch.tensor([prompt])
        theirs = model._model.generate(ids, max_new_tokens=LIMIT, do_sample=False)
        expected = theirs[0, len(prompt) :].tolist()
        assert answer.output_ids == expected[: len(answer.output_ids)]
        assert len(answer.output_ids) in (len(expected), LIMIT) or "}" in answer.text


class TestWhatEveryQuestionBeginsWith:
    SYSTEM = "Say in JSON what kind of matter this is, and whether it was paid, and no more."

    def cuts(
        self, package: Path, prompts: list[list[int]], patch: pytest.MonkeyPatch
    ) -> tuple[list[list[int]], list[Answer]]:
        """The runs that read prompts, and the answers."""
        from shared.evaluate.models import genai

        runs, real = list[list[int]](), genai.og.Generator

        class Told:
            def __init__(self, *given: object) -> None:
                self.real = real(*given)

            def append_tokens(self, ids: list[int]) -> None:
                runs.append(list(ids))
                self.real.append_tokens(ids)

            def __getattr__(self, name: str) -> object:
                return getattr(self.real, name)

        model = genai.GenaiModel(package)
        prefix = prompt_prefix(model.chat, self.SYSTEM)
        patch.setattr(genai.og, "Generator", Told)
        found = dict(model.answers(prompts, LIMIT, prefix=prefix))
        return runs, [found[index] for index in range(len(prompts))]

    def test_is_a_run_of_its_own_whoever_else_is_asked(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other cuts round otherwise, and then an answer would depend on where a check was killed."""
        from shared.evaluate.models.genai import GenaiModel

        chat = GenaiModel(package).chat
        texts = ["Guest of the clinic.", "Guest of the house.", "Another one."]
        prompts = [chat.prompt_ids(self.SYSTEM, text) for text in texts]
        stranger = [9, *prompts[1]]
        prefix = prompt_prefix(chat, self.SYSTEM)
        assert len(prefix) >= 16 and all(p[: len(prefix)] == prefix for p in prompts)
        with monkeypatch.context() as patch:
            runs, together = self.cuts(package, [*prompts[:2], stranger, prompts[2]], patch)
        rests = [prompt[len(prefix) :] for prompt in prompts]
        assert runs == [prefix, rests[0], rests[1], stranger, prefix, rests[2]]
        for prompt, answer in zip(prompts, [*together[:2], together[3]], strict=True):
            with monkeypatch.context() as patch:
                runs, alone = self.cuts(package, [prompt], patch)
            assert runs == [prefix, prompt[len(prefix) :]]
            assert alone[0].output_ids == answer.output_ids


class TestTheCommonBeginning:
    def test_ends_where_two_prompts_part(self) -> None:
        same = list(range(20))
        assert common_prefix([[*same, 1, 2], [*same, 1, 3]]) == [*same, 1]

    def test_leaves_every_prompt_a_token_to_ask_with(self) -> None:
        same = list(range(20))
        assert common_prefix([same, [*same, 5]]) == same[:-1]

    def test_is_not_worth_a_pass_of_its_own_where_it_is_short(self) -> None:
        assert common_prefix([[1, 2, 3], [1, 2, 4]]) == []

    def test_of_one_prompt_is_none(self) -> None:
        assert common_prefix([list(range(50))]) == []


class TestTheStore:
    RECORD = Record(id="a", input="text", gold={})
    ANSWER = Answer('{"é": "\u2028"}', 3, [1, 2], 0.5, 0.25)

    def test_gives_back_what_was_put_in(self, root: Path) -> None:
        Store({"weights": "w"}).put(self.RECORD, self.ANSWER)
        assert Store({"weights": "w"}).get(self.RECORD) == self.ANSWER

    @pytest.mark.parametrize("other", [{"weights": "v"}, {"weights": "w", "prompt": "p"}])
    def test_keeps_answers_of_others_apart(self, root: Path, other: dict[str, str]) -> None:
        Store({"weights": "w"}).put(self.RECORD, self.ANSWER)
        assert Store(other).get(self.RECORD) is None

    def test_knows_that_a_record_has_changed_under_its_id(self, root: Path) -> None:
        Store({}).put(self.RECORD, self.ANSWER)
        assert Store({}).get(self.RECORD.model_copy(update={"input": "other"})) is None

    @pytest.mark.parametrize("cut", [1, 20, 60])
    def test_passes_over_the_line_a_kill_has_torn_and_goes_on_after_it(
        self, root: Path, cut: int
    ) -> None:
        store = Store({})
        second = Record(id="b", input="text", gold={})
        store.put(self.RECORD, self.ANSWER)
        store.put(second, self.ANSWER)
        store.path.write_bytes(store.path.read_bytes()[:-cut])
        torn = Store({})
        assert torn.get(self.RECORD) == self.ANSWER
        assert cut == 1 or torn.get(second) is None
        torn.put(Record(id="c", input="x", gold={}), self.ANSWER)
        again = Store({})
        assert again.get(Record(id="c", input="x", gold={})) == self.ANSWER
        assert again.get(self.RECORD) == self.ANSWER


class TestTheCommandLine:
    def test_takes_systems_in_any_order(self) -> None:
        assert parse_systems("release, base") == ("base", "release")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("parnet", "--systems: there is no 'parnet'; did you mean 'parent'?"),
            (" ,", "--systems: one or more of base, parent, release are wanted"),
        ],
    )
    def test_names_the_nearest_system(self, text: str, words: str) -> None:
        with pytest.raises(UserError) as error:
            parse_systems(text)
        assert words in str(error.value)

    def test_names_the_nearest_mode(self) -> None:
        assert parse_constrained("only") == ("constrained",)
        with pytest.raises(UserError, match=r"--constrained: there is no 'bth'; .*'both'"):
            parse_constrained("bth")


class TestWhereItIsComputed:
    def test_a_large_model_without_fast_bfloat16_keeps_its_weights_and_computes_in_float32(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Weights converted piece by piece as they are used: the same logits, half the memory."""
        import torch

        from shared.evaluate.models import device

        folder, ids = tiny("qwen2-untied"), list(range(40, 80))
        whole = device.load_on(folder, device.Computing())
        monkeypatch.setattr(device, "FLOAT32_BELOW_BYTES", 0)
        monkeypatch.setattr(device, "PART", 1000)
        model = device.load_on(folder, device.Computing())
        assert {p.dtype for p in model.parameters() if p.dim() == 2} == {torch.bfloat16}
        found, expected = (m(torch.tensor([ids])).logits for m in (model, whole))
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()

    @pytest.mark.parametrize(
        ("size", "capable", "dtype"),
        [("small", True, "float32"), ("large", True, "bfloat16"), ("large", False, "float32")],
    )
    def test_on_a_cpu_goes_by_the_size_and_by_what_the_cpu_is_fast_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, capable: bool, dtype: str
    ) -> None:
        from shared.base import bfloat16
        from shared.evaluate.models import device

        (tmp_path / "model.safetensors").write_bytes(b"x" * 10)
        monkeypatch.setattr(device, "FLOAT32_BELOW_BYTES", 5 if size == "large" else 50)
        monkeypatch.setattr(bfloat16, "FAST_BFLOAT16", ("architecture",) if capable else ("none",))
        assert device.computing(tmp_path, "cpu") == device.Computing("cpu", dtype)

    @pytest.mark.parametrize(("free", "where"), [(16, "cuda"), (14, "cpu")])
    def test_is_a_gpu_that_has_room_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, where: str
    ) -> None:
        from shared.evaluate.models import device

        (tmp_path / "model.safetensors").write_bytes(b"x" * 10)
        monkeypatch.setattr(device, "FLOAT32_BELOW_BYTES", 5)
        monkeypatch.setattr(device, "has_gpu", lambda: True)
        monkeypatch.setattr(device, "_accelerator", lambda: "cuda")
        monkeypatch.setattr(device, "_free_bytes", lambda _: free)
        assert device.computing(tmp_path).device == where
        assert str(device.computing(tmp_path, "cuda")) == "bfloat16 on CUDA"

    @pytest.mark.parametrize(
        ("name", "words"),
        [("cdua", "there is no 'cdua'; did you mean 'cuda'?"), ("mps", "finds no mps on this")],
    )
    def test_is_refused_by_its_name(
        self, name: str, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from shared.evaluate.models import device

        monkeypatch.setattr(device, "_accelerator", lambda: "cpu")
        with pytest.raises(UserError, match=re.escape(words)):
            device.parse_device(name)


@pytest.mark.parametrize("architecture", ["qwen2", "phi3-window"])
def test_batches_and_the_pieces_a_prompt_is_read_in_change_no_answer(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """In rows of two, four tokens at once, as at once."""
    from shared.evaluate.models import device
    from shared.evaluate.models import torch as runtime

    model = runtime.TorchModel(tiny(architecture))
    prompts = [*prompts_of(model), [9] * 30]
    at_once = answers(model, prompts)
    monkeypatch.setattr(runtime, "TOKENS_AT_ONCE", 8)
    longest = max(map(len, prompts)) + LIMIT + runtime.CACHE_ROOM
    monkeypatch.setattr(device, "CACHE_BYTES", 2 * longest * model._cell_bytes())
    order = sorted(range(4), key=lambda i: len(prompts[i]))
    assert [len(batch) for batch in model._batches(order, prompts, LIMIT)] == [4]
    monkeypatch.setattr(device, "LEAST_ROWS", 1)
    assert [len(batch) for batch in model._batches(order, prompts, LIMIT)] in ([2, 2], [3, 1])
    in_pieces = answers(model, prompts)
    assert [a.output_ids for a in in_pieces] == [a.output_ids for a in at_once]


class TestAFreeAnswerThatKeepsToTheGrammar:
    ANY = 'root ::= "{" [^}]* "}" | [^{]*'

    def test_is_the_answer_under_it(self, tiny: Tiny) -> None:
        """Asked again, the model gives the same; and what breaks the grammar is asked again."""
        from shared.evaluate.models.forced import Forced
        from shared.evaluate.models.torch import TorchModel

        model = TorchModel(tiny("qwen2"))
        prompts = [model.chat.prompt_ids(None, f"Matter {n} of many.") for n in range(12)]
        free, asked = answers(model, prompts), answers(model, prompts, self.ANY)
        forced = Forced.under(self.ANY, model.chat, model.chat.stop)
        kept = [index for index, answer in enumerate(free) if forced.writes(answer.output_ids)]
        assert 0 < len(kept) < len(prompts)
        given = model.answers(prompts, LIMIT, self.ANY, dict(enumerate(free)))
        found = dict(given)
        assert [found[i].output_ids for i in range(12)] == [a.output_ids for a in asked]
        assert [i for i, a in found.items() if not a.prefill_seconds] == kept
        assert all(asked[index].output_ids == free[index].output_ids for index in kept)

    def test_is_looked_for_where_pytorch_answers(self, root: Path, tiny: Tiny) -> None:
        domain, record = load_domain("legal"), Record(id="a", input="text", gold={})
        parent, release = (System(n, tiny("llama"), "w", "p") for n in ("parent", "release"))
        for system in (parent, release):
            system.store("free", domain).put(record, Answer("{}", 1, [2]))
        assert Runner(parent, domain, [record])._free("free", [record]) == {}
        assert Runner(release, domain, [record])._free("constrained", [record]) == {}
        kept = Runner(parent, domain, [record])._free("constrained", [record])
        assert kept == {"free": {0: Answer("{}", 1, [2])}}


def test_the_seconds_of_a_batchs_answers_are_the_batchs(tiny: Tiny) -> None:
    """Rows that end early are not charged for what follows, and the last one for all of it."""
    from shared.evaluate.models.torch import TorchModel

    model = TorchModel(tiny("llama"))
    prefix, context = [5] * 40, model.context_length - 40
    prompts = [prefix + [7 + n] * (context - rest) for n, rest in enumerate((2, 30, 60))]
    began = time.perf_counter()
    found = [answer for _, answer in model.answers(prompts, 60)]
    wall = time.perf_counter() - began
    told = sum(a.prefill_seconds + a.decode_seconds for a in found)
    assert 0.8 * wall < told <= wall


def test_a_batchs_prompts_are_read_without_a_copy_of_the_head_for_each_row(tiny: Tiny) -> None:
    """torch makes one of a batch's states that are a view: of a 3B model 7 GB for 13 rows."""
    from shared.evaluate.models.torch import TorchModel

    model, seen = TorchModel(tiny("smollm3")), []
    model._model.lm_head.register_forward_pre_hook(
        lambda _, states: seen.append((tuple(states[0].shape[:2]), states[0].is_contiguous()))
    )
    prompts = [[5] * 20 + [7 + n] * 9 for n in range(3)]
    assert len(list(model.answers(prompts, 2))) == 3
    assert ((3, 1), True) in seen and all(whole for _, whole in seen)
