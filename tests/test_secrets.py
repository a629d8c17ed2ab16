"""A file that looks like a secret never leaves the machine; a release's own hashes are none."""

from __future__ import annotations

import bz2
import pickle
from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.base.hashing import files_below
from shared.safety.content import holds, refuse_unsafe
from shared.safety.kinds import is_known, need_known
from shared.safety.secrets import refuse_secrets, secret_in_text
from tests.hub_release import graph

# Put together here, so that no scanner takes this file itself for a leak.
TOKENS = {
    "a Hub token": "hf_" + "aBcD" * 9,
    "a Hub token of an organisation": "api_org_" + "aBcD" * 9,
    "a Hub token by OAuth": "hf_oauth_" + "eyJhbGci.eyJz-dWI_9" * 3,
    "a Hub token of a job": "hf_jwt_" + "eyJhbGci.eyJz-dWI_9" * 3,
    "aws access key": "AKIA" + "ABCDEFGH23456789",
    "github token": "ghp_" + "a1B2" * 9,
    "private key": "-----BEGIN " + "PRIVATE KEY-----",
    "openai token": "sk-" + "a" * 20 + "T3BlbkFJ" + "b" * 20,
    "pypi token": "pypi-AgEIcHlwaS5vcmc" + "x" * 80,
    "slack token": "xoxb-" + "1" * 12 + "-" + "a" * 24,
}


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_in_a_file_is_refused_and_not_repeated(tmp_path: Path, kind: str) -> None:
    (tmp_path / "notes.md").write_text(f"# Notes\nkey = {TOKENS[kind]}\n")
    with pytest.raises(UserError, match="looks like a secret") as raised:
        refuse_secrets(tmp_path, ["notes.md"])
    assert TOKENS[kind] not in str(raised.value)
    assert "notes.md" in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "id_rsa", "server.pem", "MY.KEY", "token", ".netrc", "credentials.json"],
)
def test_a_file_named_like_a_secret_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"looks like a secret \(by its name\)"):
        refuse_secrets(tmp_path, [name])


def test_a_private_key_in_a_binary_file_is_refused(tmp_path: Path) -> None:
    key = b"-----BEGIN EC " + b"PRIVATE KEY-----"
    (tmp_path / "model.onnx").write_bytes(b"\0\1" + key)
    with pytest.raises(UserError, match="a private key"):
        refuse_secrets(tmp_path, ["model.onnx"])


@pytest.mark.parametrize("kind", ["a Hub token", "a Hub token by OAuth", "github token"])
@pytest.mark.parametrize("form", ["latin-1", "utf-16-le", "utf-16-be", "utf-16"])
def test_a_token_in_a_binary_or_utf_16_file_is_refused(
    tmp_path: Path, kind: str, form: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(
        b"\0\xff" * 20_000 + f" key={TOKENS[kind]} ".encode(form) + b"\0\1"
    )
    with pytest.raises(UserError, match="looks like a secret") as raised:
        refuse_secrets(tmp_path, ["model.onnx"])
    assert TOKENS[kind] not in str(raised.value)


def test_a_token_at_the_start_of_large_weights_is_refused(tmp_path: Path) -> None:
    start = b"\0" + TOKENS["a Hub token"].encode()
    (tmp_path / "model.onnx_data").write_bytes(start + bytes(1_200_000))
    with pytest.raises(UserError, match="looks like a secret"):
        refuse_secrets(tmp_path, ["model.onnx_data"])


def test_nothing_in_a_release_looks_like_a_secret(pristine: Path) -> None:
    """tokenizer.json is the embedded model's; release.json and README.md are full of hashes."""
    names = files_below(pristine)
    assert {"tokenizer.json", "release.json", "README.md", "schema.json"} <= set(names)
    refuse_secrets(pristine, names)
    refuse_unsafe(pristine, names)
    need_known(pristine, names)


def test_nothing_in_the_embedded_model_looks_like_a_secret_or_a_pickle(embedded: Path) -> None:
    refuse_secrets(embedded, files_below(embedded))
    refuse_unsafe(embedded)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 64,
        "0123456789abcdef" * 4,
        '"sha256": "872be49dbb638044a2c3c6d1e5f0b9a8872be49dbb638044a2c3c6d1e5f0b9a8"',
        "see http://127.0.0.1:8000 and https://huggingface.co/a/b",
        'the word "password": it is a word',
        "hf_hub_download, hf_transfer, hf_xet",
    ],
)
def test_hashes_addresses_and_words_are_none(text: str) -> None:
    assert secret_in_text(text) is None


@pytest.mark.parametrize("size", [640, 0x0380, 0x0480, 0x0580, 0x280 + 65536])
def test_a_safetensors_header_of_any_length_is_no_pickle(tmp_path: Path, size: int) -> None:
    """640 = 0x0280: its length begins with the very bytes of a pickle of protocol 2."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"}}'.ljust(size))
    assert holds(path) is None and is_known(path)


HIDDEN = b"cposix\nsystem\n(S'id'\ntR."
PICKLES = {
    "a long text first": pickle.dumps(["x" * 5000, print]),
    "a longer one": pickle.dumps(["x" * 500_000, print]),
    "a few names first": pickle.dumps(["x", "y", print], protocol=2),
    "protocol 1, a number first": b"K\x050" + HIDDEN,
    "protocol 1, a text first": b"X\x01\0\0\0a0" + HIDDEN,
    "a thousand nothings first": b"N0" * 5000 + HIDDEN,
    "nothings without an end": b"N0" * 200_000 + HIDDEN,
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_a_pickle_is_found_whatever_it_begins_with(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx_data").write_bytes(content)
    assert "a pickle" in str(holds(tmp_path / "model.onnx_data"))


def test_a_bzip2_archive_is_found(tmp_path: Path) -> None:
    for number, content in enumerate((b"text", b"")):
        (tmp_path / f"{number}").write_bytes(bz2.compress(content))
        assert holds(tmp_path / f"{number}") == "a bzip2 archive"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.bin", b"\0\1\2"),
        ("model.txt", "ü".encode("utf-16")),
        ("model.onnx", b"not an \xff graph"),
        ("model.onnx", graph(b"x") + b"\0"),
        ("model.onnx_data", bytes(100)),
        ("model_q4.onnx_data", bytes(100)),
    ],
)
def test_what_is_of_no_known_kind_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "model_q4.onnx").write_bytes(graph(b"model_q4f16.onnx_data"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="is neither UTF-8 text, safetensors, an ONNX graph"):
        need_known(tmp_path, [name])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "ü".encode()),
        ("empty.txt", b""),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0"),
        ("model_q4.onnx", graph(b"model_q4.onnx_data_1")),
        ("model_q4.onnx_data_1", bytes(100)),
    ],
)
def test_what_a_release_is_made_of_is_known(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "model_q4.onnx").write_bytes(graph(b"model_q4.onnx_data_1"))
    (tmp_path / name).write_bytes(content)
    need_known(tmp_path, [name])
