"""Bad inputs, each through the real command: one expected sentence, no traceback, nothing half-made.

A row of a table is (what is wrong, how it is made so, the sentence). Configurations and model folders
go through `release_domain`, remotes through it or `verify` with the real client over real HTTP.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.pipeline.one_domain import Result, release_domain
from shared.pipeline.stages import Options

Tiny = Callable[[str], Path]
Spoil = Callable[[Path], object]
Row = tuple[str, Spoil, str]


def replace(file: str, old: str, new: str) -> Spoil:
    def do(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    return do


def put(file: str, content: str | bytes) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def drop(*files: str) -> Spoil:
    return lambda folder: [(folder / file).unlink() for file in files]


def update(file: str, **changes: Any) -> Spoil:
    def do(folder: Path) -> None:
        data = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(data | changes))

    return do


def both(*steps: Spoil) -> Spoil:
    return lambda folder: [step(folder) for step in steps]


CONFIGS: list[Row] = [
    (
        "a typo in a key",
        replace("../defaults.toml", "max_new_tokens", "max_new_token"),
        ": check.max_new_token: unknown key; did you mean",
    ),
    (
        "TOML cut short",
        replace("fallback.toml", "[metrics]", "[metrics"),
        "domains/legal/fallback.toml: not valid TOML: ",
    ),
    (
        "a text for a number",
        replace("../defaults.toml", "records = 32", 'records = "many"'),
        ": check.records: Input should be a valid integer",
    ),
    (
        "a gate with two bounds",
        replace("../defaults.toml", "at_most = 0.1", "at_most = 0.1\nat_least = 0.0"),
        "needs exactly one of at_least, at_most, equals",
    ),
    (
        "two rungs of one name",
        replace("fallback.toml", 'name = "phi3-mini"', 'name = "smollm3"'),
        "rung: the name 'smollm3' stands twice",
    ),
    (
        "an unknown exporter",
        replace("fallback.toml", 'name = "smollm3"', 'name = "smollm3"\nexporters = ["magic"]'),
        ": rung.0.exporters.0: ",
    ),
    (
        "no rung",
        put("fallback.toml", "version = 1\n"),
        "domains/legal/fallback.toml: rung: required",
    ),
    (
        "a version from the future",
        replace("fallback.toml", "version = 1", "version = 2"),
        "domains/legal/fallback.toml:4: version: ",
    ),
    ("JSON with a comment", put("olive.json", "{ // no\n}"), "olive.json: not valid JSON: "),
    (
        "a key twice",
        put("schema.json", '{"type": "object", "type": "array"}'),
        "domains/legal/schema.json: not valid JSON: the key 'type' stands twice",
    ),
    ("NaN", put("schema.json", '{"type": NaN}'), "schema.json: not valid JSON: NaN is not JSON"),
    (
        "a schema of no object",
        put("schema.json", '{"type": "array"}'),
        "domains/legal/schema.json: type: the answer's schema must be of type object",
    ),
    (
        "JSON a thousand levels deep",
        put("schema.json", "[" * 1000 + "]" * 1000),
        "domains/legal/schema.json: not valid JSON: nested deeper than 100 levels",
    ),
    (
        "JSON so deep that the parser gives up",
        put("schema.json", "[" * 200_000),
        "domains/legal/schema.json: not valid JSON: nested deeper than 100 levels",
    ),
    (
        "a number of five thousand digits",
        put("schema.json", '{"type": ' + "9" * 5000 + "}"),
        "domains/legal/schema.json: type: an integer of about 5,001 digits",
    ),
    ("text that is not UTF-8", put("prompt.md", b"\xff\xfe"), "prompt.md: not UTF-8 text (byte 0)"),
    ("a missing file", drop("card.md"), "domains/legal/card.md: the file is missing"),
    (
        "a folder in a file's place",
        both(drop("prompt.md"), lambda folder: (folder / "prompt.md").mkdir()),
        "domains/legal/prompt.md: a folder; a file is wanted",
    ),
    ("no records", put("eval.jsonl", "\n"), "domains/legal/eval.jsonl: holds no records"),
    (
        "a gold answer that its schema refuses",
        put("eval.jsonl", '{"id": "a", "input": "x", "gold": {"issue": "weather"}}\n'),
        "domains/legal/eval.jsonl:1: gold",
    ),
    (
        "a record cut short",
        put("eval.jsonl", '{"id": "a", "inp'),
        "domains/legal/eval.jsonl:1: not valid JSON: ",
    ),
    (
        "a repository's name with a space",
        replace("../defaults.toml", 'org = "docintel"', 'org = "doc intel"'),
        ": publish.name: ",
    ),
]

CARDS: list[tuple[str, str, str]] = [
    ("a place not closed", "{{ title ", "domains/legal/card.md:1: "),
    (
        "a loop",
        "\n{% for x in title %}{% endfor %}",
        "card.md:2: only {{ name }} and {% if name %}",
    ),
    ("a call", "{{ title.upper() }}", "may stand here, found call"),
    ("a way out of the sandbox", "{{ title.__class__ }}", "may stand here, found getattr"),
    ("a file from elsewhere", "{% include '/etc/passwd' %}", "may stand here, found include"),
    ("a multiplied text", "{{ 'a' * 999999999 }}", "may stand here, found mul"),
    (
        "a figure",
        "{{ title }}\nRight in 95 % of cases.",
        "card.md:2: '95 %' is a figure; figures come from measurements",
    ),
]
CONFIGS += [(f"a card with {name}", put("card.md", text), words) for name, text, words in CARDS]


def header(length: int, body: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + body


def saved_by_torch(folder: Path) -> None:
    torch.save({"a": torch.zeros(2)}, folder / "model.safetensors")


def link_out(folder: Path) -> None:
    outside = folder.parent.parent.parent / "outside.json"
    shutil.move(folder / "config.json", outside)
    (folder / "config.json").symlink_to(outside)


def index(weight_map: Any) -> Spoil:
    return put("model.safetensors.index.json", json.dumps({"weight_map": weight_map}))


WEIGHTS = "models/legal/merged/model.safetensors: "
FOLDERS: list[Row] = [
    ("nothing at all", lambda f: shutil.rmtree(f), "models/legal/merged: the folder is not there"),
    ("no config", drop("config.json"), "models/legal/merged/config.json: the file is missing"),
    ("no tokenizer", drop("tokenizer.json"), "merged/tokenizer.json: the file is missing"),
    ("a config cut short", put("config.json", '{"a'), "config.json: not valid JSON: "),
    ("a config that is a list", put("config.json", "[]"), "config.json: must be one JSON object"),
    (
        "a config as deep as a well",
        put("config.json", '{"a":' * 500 + "1" + "}" * 500),
        "models/legal/merged/config.json: not valid JSON: nested deeper than 100 levels",
    ),
    (
        "another file in the config's place",
        update("config.json", configuration_files=["config.4.0.0.json"]),
        "models/legal/merged/config.json: configuration_files: has another file read in this one's",
    ),
    (
        "code named in the config",
        update("config.json", text_config={"auto_map": {"AutoModel": "modeling.Model"}}),
        "models/legal/merged/config.json: text_config.auto_map: names code to be run",
    ),
    (
        "code named at the config's top",
        update("config.json", auto_map={"AutoModel": "modeling.Model"}),
        "models/legal/merged/config.json: auto_map: names code to be run, which is never done here",
    ),
    (
        "code named in the tokenizer's config",
        update("tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}),
        "models/legal/merged/tokenizer_config.json: auto_map: names code to be run",
    ),
    (
        "a note of quantisation over 16-bit weights",
        update("config.json", quantization_config={"quant_method": "gptq"}),
        "quantization_config: left over from a quantised base",
    ),
    (
        "an adapter, not merged",
        both(drop("config.json"), put("adapter_config.json", "{}")),
        "models/legal/merged: holds a LoRA adapter, not a model; merge it first",
    ),
    (
        "a config that leads out",
        link_out,
        "models/legal/merged/config.json: leads out of the folder",
    ),
    (
        "a link to a device",
        lambda f: (f / "LICENSE").symlink_to("/dev/zero"),
        "models/legal/merged/LICENSE: leads out of the folder",
    ),
    (
        "a pipe",
        lambda f: os.mkfifo(f / "special_tokens_map.json"),
        "models/legal/merged/special_tokens_map.json: not a plain file; remove it",
    ),
    ("weights saved by torch", saved_by_torch, WEIGHTS + "holds a zip archive, as torch.save"),
    (
        "weights that are a pickle",
        put("model.safetensors", pickle.dumps({"a": print})),
        WEIGHTS + "holds a pickle, which can run code when read; remove it from the folder",
    ),
    (
        "weights that are an old pickle",
        put("model.safetensors", pickle.dumps({"a": print}, protocol=0)),
        WEIGHTS + "holds a pickle",
    ),
    (
        "a pickle beside good weights",
        put("training_args.bin", pickle.dumps(Options, protocol=2)),
        "models/legal/merged/training_args.bin: holds a pickle",
    ),
    (
        "an archive bomb",
        put("README.md", gzip.compress(bytes(1 << 20))),
        "models/legal/merged/README.md: holds a gzip archive",
    ),
    (
        "empty weights",
        put("model.safetensors", b""),
        WEIGHTS + "cannot be read: it is no safetensors",
    ),
    (
        "weights that are text",
        put("model.safetensors", "weights" * 9),
        WEIGHTS + "cannot be read: it is",
    ),
    (
        "a header of an exabyte",
        put("model.safetensors", header(1 << 60)),
        WEIGHTS + "its header claims",
    ),
    (
        "a header cut short",
        put("model.safetensors", header(5000)),
        WEIGHTS + "cannot be read: its header",
    ),
    (
        "a header that is no JSON",
        put("model.safetensors", header(4, b"{{{{")),
        WEIGHTS + "cannot be read: ",
    ),
    (
        "a header that claims bytes which are not there",
        put(
            "model.safetensors",
            header(62, b'{"a":{"dtype":"BF16","shape":[99],"data_offsets":[0,198]}}    '),
        ),
        WEIGHTS + "cannot be read: ",
    ),
    (
        "weights of eight bits",
        put(
            "model.safetensors",
            header(56, b'{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}   ') + b"ab",
        ),
        "merged/model.safetensors: a: weights of type I8; 16-bit ones are needed",
    ),
    (
        "an index that leads out",
        index({"a": "../../../etc/passwd"}),
        "model.safetensors.index.json: weight_map: '../../../etc/passwd' is not here",
    ),
    (
        "an index with an absolute path",
        index({"a": "/etc/passwd"}),
        "model.safetensors.index.json: weight_map: '/etc/passwd' is not here",
    ),
    (
        "an index that names other files",
        index({"a": "config.json"}),
        "weight_map: 'config.json' is not safetensors, and nothing else is read",
    ),
    (
        "an index of numbers",
        index({"a": 1}),
        "weight_map: must be an object of tensor names and file",
    ),
    (
        "an index that is a list",
        index([]),
        "weight_map: must be an object of tensor names and file",
    ),
    ("an empty index", index({}), "model.safetensors.index.json: weight_map: names no file"),
    (
        "no chat template",
        drop("chat_template.jinja"),
        "tokenizer_config.json: chat_template: missing",
    ),
]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(rung: str = "smollm3") -> Result:
    """`./inv release --domain legal --rung …`, as tasks.py calls it."""
    result = release_domain("legal", Options(rung=rung))
    assert not result.ok and result.release is None
    assert "\n" not in str(result.error)
    return result


def need_nothing_half_made(root: Path) -> None:
    """No release; and under build/, every visible stage folder has its manifest."""
    assert not list(root.glob("models/*/webgpu"))
    for folder in root.glob("build/*/*"):
        if folder.is_dir() and not folder.name.startswith(".") and folder.parent.name != "attempts":
            assert (folder / "manifest.json").exists(), folder


def rows(table: list[Row]) -> Any:
    return pytest.mark.parametrize(
        ("spoil", "words"), [r[1:] for r in table], ids=[r[0] for r in table]
    )


@rows(CONFIGS)
def test_a_domain_with(root: Path, offline: None, spoil: Spoil, words: str) -> None:
    spoil(root / "domains" / "legal")
    put_a_model(root)
    assert words in str(run().error)
    need_nothing_half_made(root)


def put_a_model(root: Path) -> None:
    """Something at the first rung's place, so that reading goes on to the domain's own mistakes."""
    (root / "models" / "legal" / "merged").mkdir(parents=True)


@rows(FOLDERS)
def test_a_model_folder_with(
    root: Path, offline: None, tiny: Tiny, spoil: Spoil, words: str
) -> None:
    folder = root / "models" / "legal" / "merged"
    shutil.copytree(tiny("qwen2"), folder)
    spoil(folder)
    result = run()
    assert result.chain is not None
    (attempt,) = result.chain.attempts
    assert words in attempt.reason and "\n" not in attempt.reason
    outcome = "failed" if folder.exists() else "skipped"
    assert (attempt.outcome, attempt.stage) == (outcome, "source")
    need_nothing_half_made(root)
