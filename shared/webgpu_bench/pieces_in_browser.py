"""Pieces of a graph (cut.py) on WebGPU: one browser, its page (page/layers.js), a piece at a time.

>>> with pieces_in_browser(browser, package / "onnx", seconds=300, hardware=False) as run:
...     outputs = run(piece, inputs)
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from playwright.sync_api import Error as PlaywrightError

from shared.base.text import first_line
from shared.webgpu_bench.chromium import Tab, open_page
from shared.webgpu_bench.cut import DATA, Arrays, Piece, with_own_data
from shared.webgpu_bench.driver import GRACE_SECONDS, page_mounts, require_vendor
from shared.webgpu_bench.server import FileRange, serve

RENEW_BYTES = 1_000_000_000
"""onnxruntime-web keeps buffers that no session needs any more; a new page has none."""


class BrowserFailed(Exception):
    """A piece has no outputs: it cannot be loaded or run, or the browser went away. `wrong`: the GPU
    refused to run it, which is no matter of time or room."""

    def __init__(self, words: str, *, wrong: bool = False) -> None:
        super().__init__(words)
        self.wrong = wrong


@contextmanager
def pieces_in_browser(
    browser: Path, folder: Path, seconds: float, hardware: bool
) -> Iterator[Callable[[Piece, Arrays], Arrays]]:
    """A function that runs a piece; the data files lie in `folder`. Ends the browser when done, or
    when `seconds` are over. Raises BrowserFailed."""
    require_vendor()
    joined: dict[str, list[FileRange]] = {}
    end = time.monotonic() + seconds + GRACE_SECONDS
    try:
        with (
            serve(page_mounts(), joined=joined) as url,
            open_page(browser, hardware=hardware) as tab,
            _ended_at(end, tab),
        ):
            tab.page.set_default_timeout(0)
            session = _Session(tab, url, folder, joined)
            session.renew()
            yield session.run
    except PlaywrightError as error:
        gone = f"the browser went away ({first_line(error.message)})"
        late = "the page did not answer in time; the browser was ended"
        raise BrowserFailed(late if time.monotonic() >= end else gone) from error


@contextmanager
def _ended_at(end: float, tab: Tab) -> Iterator[None]:
    watchdog = threading.Timer(end - time.monotonic(), tab.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


@dataclass
class _Session:
    tab: Tab
    url: str
    folder: Path
    joined: dict[str, list[FileRange]]

    def renew(self) -> None:
        """A new page, with a device of its own."""
        self.tab.page.goto(f"{self.url}?driven")
        self.tab.page.wait_for_function("() => window.docintel !== undefined")

    def run(self, piece: Piece, feeds: Arrays) -> Arrays:
        """The piece's outputs."""
        model, ranges = with_own_data(piece.model(feeds), self.folder)
        path = f"/pieces/{piece.name.replace(' ', '-')}"
        self.joined[path] = ranges
        request = {
            "graph": _base64(model.SerializeToString()),
            "data": {"path": DATA, "url": path} if ranges else None,
            "smallest": _base64(_smallest()),
            "inputs": {name: _sent(value) for name, value in feeds.items()},
        }
        answer = self.tab.page.evaluate("piece => window.docintel.runPiece(piece)", request)
        del self.joined[path]
        if answer["error"]:
            words = f"{piece.name}: {answer['outcome']}: {answer['error']}"
            raise BrowserFailed(words, wrong=answer["outcome"] == "run_failed")
        if answer["live_bytes"] > RENEW_BYTES:
            self.renew()
        return {name: _received(value) for name, value in answer["outputs"].items()}


def _smallest() -> bytes:
    """A graph that does next to nothing."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _sent(value: np.ndarray) -> dict[str, Any]:
    content = np.ascontiguousarray(value).tobytes()
    return {"type": value.dtype.name, "dims": list(value.shape), "base64": _base64(content)}


def _received(value: dict[str, Any]) -> np.ndarray:
    found = np.frombuffer(base64.b64decode(value["base64"]), value["type"])
    return found.reshape(value["dims"])
