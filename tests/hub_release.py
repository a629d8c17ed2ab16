"""What the tests of publishing share: a release of three files, and how it is sent to the double."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from shared.base.errors import UserError
from shared.hub.files import Order
from shared.hub.publish import Published, publish
from tests.hub_double import READ_TOKEN, WRITE_TOKEN, HubDouble

REPO = "acme/docintel-legal-tiny-webgpu"
KEY, NEXT_KEY = "0123456789abcdef", "fedcba9876543210"
WEIGHTS = "onnx/model_q4f16.onnx"


def graph(payload: bytes) -> bytes:
    """The frame of an ONNX ModelProto around that many bytes in place of a graph."""
    size = len(payload)
    length = b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return b"\x08\x0a\x3a" + length + bytes([size]) + payload


def write_release(folder: Path) -> Path:
    """Two small files, and one that the Hub stores as LFS."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Card\n", encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "onnx" / "model_q4f16.onnx").write_bytes(graph(bytes(range(256)) * 4000))
    return folder


def order(folder: Path, key: str = KEY, **more: Any) -> Order:
    return Order(folder, key, "DocIntel legal: tiny", **more)


def send(hub: HubDouble, folder: Path, slept: list[float] | None = None, **more: Any) -> Published:
    naps = [] if slept is None else slept
    return publish(order(folder, **more), REPO, endpoint=hub.url, sleep=naps.append)


def refused(hub: HubDouble, folder: Path, slept: list[float] | None = None, **more: Any) -> str:
    """The sentence; no token may be in it, nor in the traceback."""
    with pytest.raises(UserError) as raised:
        send(hub, folder, slept, **more)
    told = "".join(traceback.format_exception(raised.value))
    assert WRITE_TOKEN not in told and READ_TOKEN not in told
    assert "\n" not in str(raised.value)
    return str(raised.value)


def on_disk(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def on_the_hub(hub: HubDouble) -> dict[str, bytes]:
    return {name: c for name, c in hub.files(REPO).items() if name != ".gitattributes"}
