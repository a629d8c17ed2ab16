"""A language model of a hundred thousand weights that answers as a domain's records do, trained here.

A software adapter takes seconds for one token of a vocabulary of 49,152: whole answers of many records
can be had from a small vocabulary only. Its weights are worth nothing; that two runtimes read the same
prompt, keep to the same grammar and end alike shows in it as in a large one.

>>> write_small_model(folder, domains, template)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from shared.base.progress import bar
from shared.domain.domain import Domain
from shared.source.tokenizer import Tokenizer as Chats

VOCABULARY = 1024
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = 2
STEPS, BATCH = 300, 4
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "no_rope_layers": [1, 0],
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": END,
    "pad_token_id": END,
    "tie_word_embeddings": True,
}


def write_small_model(
    folder: Path, domains: Sequence[Domain], template: str, steps: int = STEPS
) -> Path:
    """Train a tokenizer and a SmolLM3 on the domains' records and save both to `folder`."""
    folder.mkdir(parents=True)
    _write_tokenizer(folder, domains, template)
    torch.manual_seed(0)
    model: Any = SmolLM3ForCausalLM(SmolLM3Config(**SHAPE))
    _train(model, list(_chats(Chats(folder), domains)), steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path, domains: Sequence[Domain], template: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [record.input for domain in domains for record in domain.records]
    tokenizer.train_from_iterator([*(domain.prompt for domain in domains), *texts], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[END]}
    names |= {"bos_token": SPECIAL[0], "unk_token": SPECIAL[0], "pad_token": SPECIAL[END]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(template)


def _chats(chat: Chats, domains: Sequence[Domain]) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt, answer) of each record."""
    for domain in domains:
        for record in domain.records:
            answer = json.dumps(record.gold, ensure_ascii=False)
            ids = chat.tokenizer.encode(answer, add_special_tokens=False)
            yield chat.prompt_ids(domain.prompt, record.input), [*ids, END]


def _train(model: SmolLM3ForCausalLM, chats: list[tuple[list[int], list[int]]], steps: int) -> None:
    """Answers only, a few chats a step, in order of their length so that little is padding."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    chats.sort(key=lambda chat: len(chat[0]))
    starts = torch.randint(0, len(chats) - BATCH + 1, (steps,)).tolist()
    with bar("training the small model", steps) as step:
        for start in starts:
            ids, labels = _batch(chats[start : start + BATCH])
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step(f"loss {loss.item():.2f}")


def _batch(chats: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and labels [chats, tokens], padded on the right; -100 is no label."""
    longest = max(len(prompt) + len(answer) for prompt, answer in chats)
    ids = torch.full((len(chats), longest), END)
    labels = torch.full((len(chats), longest), -100)
    for row, (prompt, answer) in enumerate(chats):
        whole = torch.tensor([*prompt, *answer])
        ids[row, : len(whole)] = whole
        labels[row, len(prompt) : len(whole)] = torch.tensor(answer)
    return ids, labels
