"""The text that a recipe is calibrated on: the domain's own, never what it is measured on.

A pass of olive.json that names "calibration.jsonl" gets the domain's file of that name: records like
those of eval.jsonl, in chat form with the domain's prompt and their gold answers, as token ids, and
after them the instructions of domains/general.jsonl, where that is there, without a prompt. A record
that is also measured would let the quantiser fit what it is judged by; so every text is compared with
all records that are measured, by id and by runs of words, and one in common is an error.
"""

import argparse
import copy
import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.hashing import sha256_file, sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.parsing import read_json
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.base.text import word_runs
from shared.domain.defaults import CHAIN_FILE, DEFAULTS_FILE
from shared.domain.domain import CALIBRATION_FILE as FILE
from shared.domain.domain import GENERAL_FILE, Domain, load_domain
from shared.domain.records import (
    Instruction,
    Record,
    read_chats,
    read_instructions,
    read_records,
    spread,
)
from shared.source.source import Source, answering_hash
from shared.source.tokenizer import Tokenizer

OF_A_DOMAIN = ("prompt.md", CHAIN_FILE, f"../{DEFAULTS_FILE}", f"../{GENERAL_FILE}")
"""What a domain's texts depend on besides, from its folder."""
KEYS = ("calibration", "data_config")
"""Keys of passes that take calibration text: ours, and Olive's own."""

OTHER_KEYS = ("calibration_data_config", "train_data_config", "eval_data_config")
"""Keys of Olive's passes that take text which cannot be bound to the file, and so is refused."""

WORDS_IN_COMMON = 13
"""A run of as many words in two texts is no accident (the length GPT-3's authors used)."""

Own = tuple[Domain, tuple[Record, ...]]
"""A domain and its calibration records."""

TOKENS = "tokens.json"
MAX_TOKENS, END = 1024, 512
"""Of a longer text the beginning is read, and END tokens of its end, where the answer is. The prompts
alone take up to 460 tokens and the longest calibration text of the four domains 790 (the embedded
model's tokenizer); time and hidden states grow with the tokens that there are, not with this bound."""

EQUAL_ROWS = {"autoclip": 512}
"""Olive's passes that can only take texts of one length, and that length in tokens."""


def wants_calibration(workflow: dict[str, Any]) -> bool:
    """Whether a pass of the workflow names the calibration file.

    Raises UserError where a pass takes text from anywhere else: that could be held-out text.
    """
    wanted = False
    for name, settings in zip(workflow["passes"], settings_of(workflow), strict=True):
        for key in (*KEYS, *OTHER_KEYS):
            value = settings.get(key)
            if value is not None and (value != FILE or key in OTHER_KEYS):
                raise UserError(
                    f"olive.json: passes.{name}.{key}: only {FILE!r}, which is "
                    "compared with the held-out records, may calibrate a model"
                )
            wanted = wanted or value == FILE
    return wanted


def calibration_stage(
    domain: Domain,
    source: Source,
    measured: Iterable[Record] = (),
    *,
    beside: Sequence[Domain] = (),
    force: bool = False,
) -> StageResult:
    """Token ids of the domain's calibration text, in `tokens.json`; with the text of those `beside` it.

    Raises UserError where a file is missing, or where it shares an id or a text with the held-out
    records of any of the domains or with `measured`, others that this run measures.
    """
    domains = (domain, *beside)
    for path in (d.calibration_file for d in domains):
        if not path.is_file():
            raise UserError(
                f"{paths.shown(path)}: olive.json calibrates on it, but it is missing; write a few "
                "dozen records of your training data into it, or take that pass out of olive.json"
            )
    held_out = [*measured, *(record for d in domains for record in d.records)]
    texts = [(d, calibration_records(d, held_out)[0]) for d in domains]
    general = general_instructions()
    records = [record for _, own in texts for record in own]
    plan = Plan(
        "calibration",
        inputs={
            "source": answering_hash(source.folder),
            "prompt": sha256_json([d.prompt for d in domains]),
        },
        settings={
            "records": [r.model_dump() for r in (*records, *general)],
            "answers": [json.dumps(r.gold) for r in records],  # the order of the fields is read too
            "longest": [MAX_TOKENS, END],
            "tokens": [d.chain.calibration.tokens for d in domains],
        },
        tools=tool_versions("transformers"),
        code=(__name__,),
    )
    return run_stage(plan, lambda work: _tokenise(source, texts, general, work), force=force)


def token_ids(name: str | None, model: Path) -> list[list[int]]:
    """Token ids of the calibration texts that a pass is given, by the tokenizer in `model`.

    JSON: lists of token ids. JSONL: a domain's calibration.jsonl, read as its build reads it, or one of
    chats, with the model's template. RungFailed where it is neither, or not there.
    """
    if not name:
        raise RungFailed("olive.json: calibration: required where feedback is on, but missing")
    path = _place(name)
    if path.suffix != ".jsonl":
        texts = read_json(path)
        if not isinstance(texts, list) or not all(_are_ids(text) for text in texts) or not texts:
            raise RungFailed(
                f"{paths.shown(path)}: must hold lists of token ids, or be JSONL of chats"
            )
        return texts
    tokenizer = Tokenizer(model)
    if path.parent.parent == paths.domains().resolve() and path.name == FILE:
        domain = load_domain(path.parent.name)
        own, general = calibration_records(domain)
        return _ids(tokenizer, [(domain, own)], general)
    every = ([m.content for m in chat.messages] for chat in read_chats(path))
    return [bounded(tokenizer.answered_ids("".join(s), u, a)) for *s, u, a in every]


def texts_hash(name: str | None) -> str | None:
    """SHA-256 of the files that token_ids reads the texts from; None where there is none to read."""
    try:
        path = _place(name or "")
    except RungFailed:
        return None
    read = [path, *(path.parent / name for name in OF_A_DOMAIN)] if path.name == FILE else [path]
    return sha256_json([sha256_file(file) for file in read if file.is_file()])


def _place(name: str) -> Path:
    """The file of a relative name: beside what `olive run --config` names, else in this folder."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run-config", "--config", nargs="?")
    config = parser.parse_known_args()[0].run_config or ""
    for folder in (Path(config).parent, Path()):
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise RungFailed(f"olive.json: calibration: no file {name}; give its whole path")


def _are_ids(text: Any) -> bool:
    return isinstance(text, list) and bool(text) and all(type(token) is int for token in text)


def calibration_records(
    domain: Domain, measured: Iterable[Record] = ()
) -> tuple[tuple[Record, ...], tuple[Instruction, ...]]:
    """The domain's calibration records and the general ones; UserError where one is also measured."""
    path = domain.calibration_file
    records, general = read_records(path, domain.schema), general_instructions()
    held_out = [*domain.records, *measured]
    refuse_common(records, held_out, paths.shown(path))
    refuse_common(general, held_out, paths.shown(paths.domains() / GENERAL_FILE))
    return records, general


def general_instructions() -> tuple[Instruction, ...]:
    """What every domain calibrates with beside its own records; none where there is no such file."""
    return read_instructions(paths.domains() / GENERAL_FILE)


def refuse_common(
    calibration: Iterable[Record | Instruction], measured: Iterable[Record], where: str
) -> None:
    """UserError naming the first calibration record that is also measured, wholly or in part."""
    ids, runs = set(), dict[tuple[str, ...], str]()
    for record in measured:
        ids.add(record.id)
        for run in word_runs(record.input, WORDS_IN_COMMON):
            runs.setdefault(run, record.id)
    for text in calibration:
        if text.id in ids:
            raise UserError(f"{where}: {text.id}: a held-out record has this id")
        for run in word_runs(text.input, WORDS_IN_COMMON):
            if run in runs:
                raise UserError(
                    f"{where}: {text.id}: its text is also in the held-out record {runs[run]}; "
                    "what a model is measured on must not calibrate it"
                )


def chat_tokens(tokenizer: Tokenizer, prompt: str, record: Record) -> list[int]:
    """A record as the model sees it when it answers right: prompt, input and gold answer."""
    answer = json.dumps(record.gold, ensure_ascii=False)
    return bounded(tokenizer.answered_ids(prompt, record.input, answer))


def bounded(ids: list[int]) -> list[int]:
    """Token ids of a text, without its middle where it is longer than MAX_TOKENS."""
    return ids if len(ids) <= MAX_TOKENS else ids[: MAX_TOKENS - END] + ids[-END:]


def _tokenise(
    source: Source, records: Sequence[Own], general: Sequence[Instruction], work: Path
) -> Produced:
    texts = _ids(Tokenizer(source.folder), records, general)
    (work / TOKENS).write_text(json.dumps(texts))
    count, names = sum(len(own) for _, own in records), ", ".join(d.name for d, _ in records[1:])
    whose = f"{records[0][0].name}, {names}'s" if names else "the domain's"
    if any(domain.calibration for domain, _ in records):
        whose = "the given file's"
    how = f"of {whose} {count} calibration texts, evenly spread, and the general ones"
    return Produced(
        {
            "records": Measurement(value=len(texts), unit="records", how=how),
            "tokens": Measurement(value=sum(map(len, texts)), unit="tokens", how=how),
        }
    )


def _ids(
    tokenizer: Tokenizer, records: Sequence[Own], general: Iterable[Instruction]
) -> list[list[int]]:
    texts: list[list[int]] = []
    for domain, own in records:
        every = [chat_tokens(tokenizer, domain.prompt, record) for record in own]
        texts += within(every, domain.chain.calibration.tokens)
    return texts + [bounded(tokenizer.answered_ids("", g.input, g.answer)) for g in general]


def within(texts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Texts evenly spread over all of them, as many as have `tokens` at most; one in any case."""
    order = spread(texts)
    so_far = accumulate(map(len, order))
    return [text for text, total in zip(order, so_far, strict=True) if total <= tokens] or [
        order[0]
    ]


def bound(workflow: dict[str, Any], tokens: Path, device: str = "cpu") -> dict[str, Any]:
    """The workflow with the calibration file's name replaced by what the passes read; `device`: where
    our own pass computes, in place of what it says."""
    copied = copy.deepcopy(workflow)
    for settings, whole in zip(settings_of(copied), copied["passes"].values(), strict=True):
        if settings.get("calibration") == FILE:
            settings["calibration"] = str(tokens)
            settings["device"] = device
        if settings.get("data_config") == FILE:
            settings["data_config"] = data_config(
                tokens, EQUAL_ROWS.get(whole.get("type", "").lower())
            )
    return copied


def data_config(tokens: Path, row: int | None = None) -> dict[str, Any]:
    """The same token ids for Olive's own passes (Gptq, AutoClip, SelectiveMixedPrecision); with `row`
    packed into rows of so many."""
    where = {"tokens": str(tokens)} | ({"row": row} if row else {})
    return {
        "name": "calibration",
        "user_script": str(Path(__file__).with_name("calibration_loader.py")),
        "load_dataset_config": {"type": "docintel_tokens", "params": where},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"params": {"batch_size": 1}},
    }


def settings_of(workflow: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Of each pass, in its order."""
    return [settings.get("config", settings) for settings in workflow["passes"].values()]
