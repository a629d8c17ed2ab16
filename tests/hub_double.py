"""The Hub's server side as a small HTTP double: what huggingface_hub 2.4.0 asks, honestly answered.

>>> with HubDouble() as hub:
...     commit = hub.add("org/name", {"config.json": b"{}"})
...     HfApi(endpoint=hub.url, token=WRITE_TOKEN).model_info("org/name").sha == commit

With hf_xet installed that client uploads by Xet alone and never asks which protocol the server
wants. Xet is not doubled: set `huggingface_hub.constants.HF_HUB_DISABLE_XET` (HF_HUB_DISABLE_XET=1
for another process), the client's own switch, and it uploads by git LFS, which is.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import huggingface_hub.constants
import pytest

from tests import hub_pulls  # noqa: F401 (its routes)
from tests.hub_routes import READ_TOKEN, ROUTES, WRITE_TOKEN, Answer, Ask, give
from tests.hub_store import Keeper, Refusal, Repo, new_repo


class Fault(NamedTuple):
    """What the next such request meets, once; `after` the Hub did its work, if so wished.

    `how`: "status" answers with `status`; "cut" breaks the answer off in its middle; "silence"
    answers too late; "hang up" closes the line in the middle of the request's body; "kill" ends
    the process `hub.victim` with SIGKILL, and "kill in the body" in the middle of the request.
    "then" lets `do(hub)` happen and answers as if nothing had. `skip`: so many such requests pass.
    """

    method: str
    path: str
    status: int = 500
    headers: dict[str, str] = {}  # noqa: RUF012 (never changed)
    after: bool = False
    how: str = "status"
    skip: int = 0
    do: Callable[[HubDouble], object] | None = None


class Request(NamedTuple):
    """What came in: `received` counts the bytes of the body."""

    method: str
    path: str
    received: int
    with_token: bool


def use_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client in this process upload by LFS, with a token that may write."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def closed_port() -> str:
    """An endpoint that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


class HubDouble:
    """Repositories in memory, served on 127.0.0.1 while the `with` block lasts. A Space's name in
    `repos` is `spaces/org/name`.

    `faults` are consumed once each. A file named in `damaged` is stored with one bit flipped; with
    "lfs" in it that happens to every LFS upload on its way. `page`: entries sent at once.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.keeper = Keeper()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.ranges: list[int] = []
        self.victim = 0
        self.page = 1000
        self._lock, self._over = threading.Lock(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn = f"http://localhost:{self._server.server_port}/cdn"

    def __enter__(self) -> HubDouble:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def objects(self) -> dict[str, bytes]:
        return self.keeper.objects

    @property
    def damaged(self) -> set[str]:
        return self.keeper.damaged

    @damaged.setter
    def damaged(self, names: set[str]) -> None:
        self.keeper.damaged = names

    def add(self, repo: str, files: dict[str, bytes], **kind: bool) -> str:
        """Put a repository there (`private`, `gated`) with one commit; its hash."""
        self.repos[repo] = new_repo(files, **kind)
        return self.repos[repo].refs["main"]

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What the revision holds."""
        return {name: blob.content for name, blob in self.repos[repo].at(revision)[1].items()}

    def asked(self, method: str, path: str = "") -> list[Request]:
        """The requests with that method whose path has that in it."""
        return [r for r in self.requests if r.method == method and path in r.path]

    def readable(self, ask: Ask) -> Repo:
        repo = self.repos.get(ask.repo)
        if repo is None or (repo.private and not ask.token):
            raise Refusal(404 if ask.token else 401, "Repository not found", "RepoNotFound")
        return repo

    def take_fault(self, method: str, target: str) -> Fault | None:
        """The fault that this request meets, if any; others that it would meet come nearer."""
        path = unquote(urlsplit(target).path)
        with self._lock:
            for index, fault in enumerate(self.faults):
                if fault.method in ("", method) and fault.path in path:
                    if fault.skip == 0:
                        return self.faults.pop(index)
                    self.faults[index] = fault._replace(skip=fault.skip - 1)
        return None

    def answer(
        self, method: str, target: str, token: str, body: bytes, fault: Fault | None, ranged: bool
    ) -> Answer:
        """One request at a time: recorded, then answered by its route or by the fault. `ranged`: only
        the first byte is asked for."""
        if fault and fault.how == "kill" and not fault.after:
            self.kill()
        with self._lock:
            path = unquote(urlsplit(target).path)
            self.requests.append(Request(method, path, len(body), bool(token)))
            if fault and fault.do and not fault.after:
                fault.do(self)
            works = fault is None or fault.after or fault.how == "then"
            answer = self._do(method, target, token, body, ranged) if works else Answer()
            if fault and fault.do and fault.after:
                fault.do(self)
        if fault is None or fault.how in ("cut", "then"):
            return answer
        if fault.how == "kill" and fault.after:
            self.kill()
        if fault.how == "silence":
            self._over.wait()
        return give({"error": "a fault"}, fault.status, fault.headers)

    def from_there(self, answer: Answer, asked: str) -> Answer:
        """The rest of a file, where a range to its end is asked for; noted in `ranges`."""
        found = re.fullmatch(r"bytes=([1-9]\d*)-", asked)
        if not found or answer.status != 200:
            return answer
        first, size = int(found[1]), len(answer.body)
        self.ranges.append(first)
        told = {"Content-Range": f"bytes {first}-{size - 1}/{size}"}
        return replace(answer, status=206, body=answer.body[first:], headers=answer.headers | told)

    def kill(self) -> None:
        """As a power cut would: nothing of the publisher runs after this line."""
        while not self.victim:  # it may ask before its number is known here
            time.sleep(0.001)
        os.kill(self.victim, signal.SIGKILL)

    def _do(self, method: str, target: str, token: str, body: bytes, ranged: bool) -> Answer:
        parts = urlsplit(target)
        try:
            if token not in ("", WRITE_TOKEN, READ_TOKEN):
                raise Refusal(401, "Invalid credentials in Authorization header")
            for methods, pattern, function in ROUTES:
                if method in methods and (found := pattern.fullmatch(parts.path)):
                    rest = {name: unquote(text) for name, text in found.groupdict().items()}
                    query = dict(parse_qsl(parts.query))
                    kind = "spaces/" if rest.pop("kind", "") == "spaces" else ""
                    repo = kind + rest.pop("repo", "")
                    return function(self, Ask(repo, rest, query, body, token, ranged))
            raise Refusal(404, f"no such route: {method} {parts.path}")
        except Refusal as refusal:
            return give({"error": str(refusal)}, refusal.status, refusal.headers)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Whoever asked is gone: killed, or tired of waiting. Defects end up in answers."""


def _handler(hub: HubDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def serve(self) -> None:
            fault = hub.take_fault(self.command, self.path)
            if fault and fault.how in ("hang up", "kill in the body"):
                self.close_connection = True
                if self.headers.get("Content-Length") != "0":
                    self.rfile.read1(200)  # what there is: a small body never has 200
                if fault.how == "kill in the body":
                    hub.kill()
                return
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            body = b"".join(self.body())
            ranged = self.headers.get("Range") == "bytes=0-0"
            answer = hub.answer(self.command, self.path, token, body, fault, ranged)
            answer = hub.from_there(answer, self.headers.get("Range", ""))
            try:
                self.send(answer, cut=fault is not None and fault.how == "cut")
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # whoever asked is gone

        def send(self, answer: Answer, cut: bool) -> None:
            self.send_response(answer.status)
            size = len(answer.body) + (1000 if cut else 0)
            headers = {"Content-Length": str(size), "Access-Control-Allow-Origin": "*"}
            for name, text in (headers | answer.headers).items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
            self.close_connection = self.close_connection or cut

        def body(self) -> Iterator[bytes]:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def log_message(self, *_: object) -> None:
            """The double keeps its own record."""

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.serve)
    return Handler
