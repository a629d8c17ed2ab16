"""Forced text: the check and the page write the same tokens without asking the model, and no others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from benchmarks.forced.gold import along
from shared.base.paths import REPOSITORY
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.domain.records import spread
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.forced import FORCING, Forced
from shared.evaluate.models.masks import Masks

BENCH = REPOSITORY / "shared" / "webgpu_bench"
DOMAINS = ("legal", "contracts", "financial", "medical")
STOP = [0, 2]


def in_page(
    folder: Path, cases: list[dict[str, Any]], work: Path, stop: Sequence[int] = (0, 2)
) -> Any:
    """What tests/forced.mjs prints for `cases`."""
    pages = {"modules": str(BENCH / "node_modules"), "page": str(BENCH / "page")}
    job = pages | {"folder": str(folder), "stop": list(stop), "cases": cases}
    (work / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("forced.mjs")
    command = ["node", str(script), str(work / "job.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", DOMAINS)
def test_along_the_gold_answers_page_and_check_force_the_same_tokens(
    embedded: Path, name: str, tmp_path: Path
) -> None:
    chat, domain = Chat(embedded), load_domain(name)
    held = grammar(domain.schema)
    forced = Forced(Masks(chat.tokenizer_json(), STOP, held), chat.encode, on=True)
    gold = [json.dumps(record.gold, ensure_ascii=False) for record in domain.records]
    texts = [text for text in gold if forced.masks.start(1)[0].accept_string(text)]
    assert len(texts) > 0.9 * len(gold), "a few have what the grammar would escape"
    found = [along(forced, chat, text) for text in texts]
    cases = [{"grammar": held, "chosen": [run[0] for run in runs]} for runs in found]
    asked = spread(range(len(cases)))[:24]
    theirs = in_page(embedded, [cases[i] for i in asked], tmp_path)
    assert theirs == [[run[1:] for run in found[i]] for i in asked]
    for text, runs in zip(texts, found, strict=True):
        ids = [token for run in runs for token in run]
        assert ids == [*chat.encode(text), STOP[0]], "what a fine-tuned model learnt to write"
        assert forced.writes(ids)
    assert all(runs[0][1:] for runs in found), "after the first token, which the model chooses"


def test_page_and_check_both_force_or_neither_does() -> None:
    page = (BENCH / "page" / "forced.js").read_text()
    assert f"export const FORCING = {str(FORCING).lower()};" in page


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As Llama 2's and Mistral's are: a space stands before what begins a text, and only there."""
    texts = [
        json.dumps(r.gold, ensure_ascii=False) for n in DOMAINS for r in load_domain(n).records
    ]
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>", "<s>", "</s>", *every_byte], show_progress=False
    )
    words = Regex(r"▁?[^\w▁]+|▁?\w+")  # what no merge goes across, and nothing splits afterwards
    made.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    made.train_from_iterator([f"x {text}" for text in texts], trainer)
    raw = json.loads(made.to_str())
    return Tokenizer.from_str(json.dumps(raw | {"pre_tokenizer": None}))


@pytest.mark.parametrize("name", DOMAINS)
def test_a_tokenizer_that_puts_a_space_before_a_text_puts_none_into_forced_text(
    sentencepiece: Tokenizer, name: str, tmp_path: Path
) -> None:
    def encode(text: str) -> list[int]:
        return list(sentencepiece.encode(text, add_special_tokens=False).ids)

    line = encode("\n")
    domain = load_domain(name)
    held = grammar(domain.schema)
    forced = Forced(Masks(sentencepiece.to_str(), [2], held), encode, on=True)
    after_a_line = SimpleNamespace(encode=lambda text: encode(f"\n{text}")[len(line) :])
    gold = [json.dumps(record.gold, ensure_ascii=False) for record in domain.records[:24]]
    texts = [text for text in gold if forced.masks.start(1)[0].accept_string(text)]
    found = [along(forced, after_a_line, text) for text in texts]
    for text, runs in zip(texts, found, strict=True):
        ids = [token for run in runs for token in run]
        assert ids == [*after_a_line.encode(text), 2], "what a fine-tuned model learnt to write"
    (tmp_path / "tokenizer.json").write_text(sentencepiece.to_str())
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    cases = [{"grammar": held, "chosen": [run[0] for run in runs]} for runs in found[:8]]
    theirs = in_page(tmp_path, cases, tmp_path, [2])
    assert theirs == [[run[1:] for run in runs] for runs in found[:8]]
    assert sum(len(run) - 1 for runs in found for run in runs) > 0.05 * sum(
        len(run) for runs in found for run in runs
    )


def test_an_answer_that_ends_in_another_stop_token_is_the_forced_one(
    few: Callable[[str], Path],
) -> None:
    chat, domain = Chat(few("llama")), load_domain("legal")
    stops = [0, 1, 2]
    forced = Forced(
        Masks(chat.tokenizer_json(), stops, grammar(domain.schema)), chat.encode, on=True
    )
    ids = chat.encode(json.dumps(domain.records[0].gold, ensure_ascii=False))
    assert all(forced.writes([*ids, stop]) for stop in stops)
    assert not forced.writes([*ids[:-2], 0])
