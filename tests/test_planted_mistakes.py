"""Mistakes as a person types them: the exit code, one sentence with file and key, nothing left behind.

The sentences of every kind of mistake stand in other tests (test_bad_inputs.py, test_bad_remotes.py,
test_domain.py, test_environment.py, docs/publish-faults.md), as does each line's number. What is seen
here is that they reach whoever typed the command, alone on stderr.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_bad_inputs import Spoil, drop, need_nothing_half_made, put, replace
from tests.test_commands import Typed, typed

__all__ = ["typed"]
Tiny = Callable[[str], Path]
RELEASE = ("release", "--domain", "legal", "--rung", "smollm3")
TUNE = ("tune", "--domain", "legal")
MERGED = "models/legal/merged"


def model(spoil: Spoil) -> Spoil:
    """The same done to the model's folder."""
    return lambda domain: spoil(domain.parent.parent / MERGED)


def measured_again(domain: Path) -> None:
    shutil.copy(domain / "eval.jsonl", domain / "calibration.jsonl")


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.bin")


WORDS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a command misspelt": (("relase",), 2, "No idea what 'relase' is!"),
    "an option misspelt": ((*RELEASE, "--recrods", "3"), 2, "No idea what '--recrods' is!"),
    "no domain": (
        ("release",),
        2,
        "'release' did not receive required positional arguments: 'domain'",
    ),
    "words for a number": (
        ("release-all", "--jobs", "two"),
        2,
        "a whole number is wanted, not 'two'",
    ),
    "a domain misspelt": (
        ("check", "--domain", "legl"),
        1,
        "error: domains/legl: no such domain; did you mean 'legal'?",
    ),
    "a rung misspelt": (
        (*RELEASE[:3], "--rung", "smolm3"),
        1,
        "error: domains/legal/fallback.toml: no rung is named 'smolm3'; did you mean 'smollm3'?",
    ),
    "a file of records that is not there": (
        (*RELEASE, "--records-file", "no.jsonl"),
        1,
        "error: no.jsonl: the file is missing",
    ),
    "a number of records that is none": (
        (*RELEASE, "--records", "few"),
        1,
        "error: --records: a number or 'all' is wanted, not 'few'",
    ),
    "a system that nobody knows": (
        ("check", *RELEASE[1:], "--systems", "relase"),
        1,
        "error: --systems: there is no 'relase'; did you mean 'release'?",
    ),
    "a size in another unit": (
        (*TUNE, "--budget", "2XB"),
        1,
        "error: --budget: a size like 16GB is wanted, not '2XB'",
    ),
    "a recipe misspelt": (
        (*TUNE, "--recipes", "calibrate"),
        1,
        "error: --recipes: no recipe 'calibrate'; did you mean 'calibrated'?",
    ),
    "a release that is not there": (
        ("verify", "nowhere"),
        1,
        "error: nowhere: neither a folder nor a repository; write org/name, org/name@<commit or "
        "tag>, or a folder",
    ),
    "publishing before a release": (
        ("publish", "--domain", "legal"),
        1,
        "error: models/legal/webgpu/release.json: missing; run `./inv release` first",
    ),
}

DOMAINS: dict[str, tuple[Spoil, str]] = {
    "a typo in a key": (
        replace("../defaults.toml", "max_new_tokens", "max_new_token"),
        "domains/defaults.toml: check.max_new_token: unknown key; did you mean 'max_new_tokens'?",
    ),
    "TOML cut short": (
        replace("fallback.toml", "[metrics]", "[metrics"),
        "domains/legal/fallback.toml: not valid TOML: Expected ']' at the end of a table",
    ),
    "a text for a number": (
        replace("../defaults.toml", "records = 32", 'records = "many"'),
        "domains/defaults.toml: check.records: Input should be a valid integer",
    ),
    "a field scored that the schema lacks": (
        replace("fallback.toml", "[metrics]", '[metrics]\nweather = "exact"'),
        "domains/legal/fallback.toml: metrics.weather: schema.json has no such field; valid are: ",
    ),
    "a comment in JSON": (
        put("olive.json", "{ // no\n}"),
        "domains/legal/olive.json: not valid JSON: ",
    ),
    "an option that a pass lacks": (
        replace("olive.json", "int4_block_size", "int4_blocksize"),
        "domains/legal/olive.json: passes.int4.int4_blocksize: unknown key; did you mean ",
    ),
    "the builder by the name that it had": (
        replace("olive.json", "StreamingModelBuilder", "ModelBuilder"),
        "domains/legal/olive.json: passes.int4.type: ModelBuilder is Olive's own, ",
    ),
    "a record cut short": (
        put("eval.jsonl", '{"id": "a", "inp'),
        "domains/legal/eval.jsonl:1: not valid JSON: ",
    ),
    "a gold answer that the schema refuses": (
        put("eval.jsonl", '{"id": "a", "input": "x", "gold": {"issue": "weather"}}\n'),
        "domains/legal/eval.jsonl:1: gold.issue: 'weather' is not one of ",
    ),
    "a file removed": (drop("card.md"), "domains/legal/card.md: the file is missing"),
    "a figure typed into the card": (
        put("card.md", "{{ title }}\nRight in 95 % of cases."),
        "domains/legal/card.md:2: '95 %' is a figure; ",
    ),
    "text to calibrate with that is measured": (
        measured_again,
        "domains/legal/calibration.jsonl: r0001: a held-out record has this id",
    ),
}

MODELS: dict[str, tuple[Spoil, str]] = {
    "no folder": (shutil.rmtree, f"{MERGED}: the folder is not there; put "),
    "an adapter that is not merged": (
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        f"{MERGED}: holds a LoRA adapter, not a model; merge it first",
    ),
    "weights as torch saves them": (
        as_pickle,
        f"{MERGED}: needs model.safetensors, found only model.bin, which can run code",
    ),
    "a config cut short": (put("config.json", '{"a'), f"{MERGED}/config.json: not valid JSON: "),
    "no tokenizer": (drop("tokenizer.json"), f"{MERGED}/tokenizer.json: the file is missing"),
}

LOST = "error: legal: no rung could be taken; see the table: smollm3 "
MISTAKES: dict[str, tuple[tuple[str, ...], Spoil, int, str]] = {
    **{name: (words, lambda _: None, code, text) for name, (words, code, text) in WORDS.items()},
    **{name: (RELEASE, spoil, 1, f"error: {text}") for name, (spoil, text) in DOMAINS.items()},
    **{name: (RELEASE, model(spoil), 1, text) for name, (spoil, text) in MODELS.items()},
}


def everything(root: Path) -> dict[str, bytes]:
    """Every file outside build/, and what it holds."""
    kept = (p for p in root.rglob("*") if p.is_file() and root / "build" not in p.parents)
    return {str(p.relative_to(root)): p.read_bytes() for p in kept}


@pytest.mark.parametrize(("words", "spoil", "wanted", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    words: tuple[str, ...],
    spoil: Spoil,
    wanted: int,
    text: str,
    root: Path,
    tiny: Tiny,
    typed: Typed,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(tiny("qwen2"), root / MERGED)
    spoil(root / "domains" / "legal")
    before = everything(root)
    capfd.readouterr()
    code, out, err = typed(*words, "--quiet")
    assert code == wanted and err.count("\n") == 1 and "Traceback" not in out + err
    said = re.sub(r"(\.toml):\d+: ", r"\1: ", err)
    assert said.startswith(text) or (said.startswith(LOST) and f" at source: {text}" in said)
    log = re.search(r"\(log: (.*)\)\n$", err)
    assert (log is not None) == (root / "build" / "logs").exists()
    assert log is None or (root / log[1]).is_file()
    assert everything(root) == before
    need_nothing_half_made(root)


def test_there_are_more_of_them_than_were_planted_at_first() -> None:
    assert len(MISTAKES) == len(WORDS) + len(DOMAINS) + len(MODELS) >= 27
