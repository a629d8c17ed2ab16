"""A loopback web server for the page, its vendored packages and the models, from the standard library.

>>> with serve({"/": page, "/vendor": node_modules, "/models/legal": package}) as url:
...     browser.open(url)

Starlette and uvicorn were measured in its place and are slower: see docs/browser.md.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

HOST = "127.0.0.1"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
    ".jinja": "text/plain; charset=utf-8",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Accept-Ranges": "bytes",
}
RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Document = Callable[[], Any]


PAGE_CODE = ("shared/webgpu_bench/page", "shared/webgpu_bench/package-lock.json")
"""What the page consists of, for `code_hash`: its own files, and the lock of its packages."""


@dataclass(frozen=True)
class FileRange:
    """`length` bytes of a file from `offset` on, and as many zeros as `padding` after them."""

    file: Path
    offset: int
    length: int
    padding: int

    @property
    def size(self) -> int:
        """What is sent."""
        return self.length + self.padding


class Unsatisfiable(Exception):
    """The range asked for lies outside the file."""


@contextmanager
def serve(
    mounts: Mapping[str, Path],
    documents: Mapping[str, Document] | None = None,
    port: int = 0,
    joined: Mapping[str, Sequence[FileRange]] | None = None,
) -> Iterator[str]:
    """Serve until the block ends; yields the URL, which ends in '/'. Port 0 takes a free one.

    `mounts`: URL prefix → folder, the longest prefix wins. `documents`: exact path → a function
    whose value is sent as JSON. `joined`: exact path → ranges of files, sent as one file.
    """
    server = _Server(port, mounts, documents or {}, {} if joined is None else joined)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_or_any(port: int) -> int:
    """The port, or 0, which takes a free one, where somebody else has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return 0
    return port


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        port: int,
        mounts: Mapping[str, Path],
        documents: Mapping[str, Document],
        joined: Mapping[str, Sequence[FileRange]],
    ) -> None:
        super().__init__((HOST, port), _Handler)
        folders = {_prefix(key): path.resolve() for key, path in mounts.items()}
        self.mounts = sorted(folders.items(), key=lambda item: -len(item[0]))
        self.documents, self.joined = documents, joined

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection halfway is no news."""

    def file_for(self, path: str) -> Path | None:
        """The file that a decoded URL path names, if it lies inside its mount."""
        for prefix, root in self.mounts:
            if path.startswith(prefix):
                return _inside(root, path.removeprefix(prefix))
        return None


def _prefix(key: str) -> str:
    return f"/{key.strip('/')}/" if key.strip("/") else "/"


def _inside(root: Path, relative: str) -> Path | None:
    if "\0" in relative or "\\" in relative:
        return None
    try:
        path = (root / (relative.lstrip("/") or "index.html")).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if path.is_relative_to(root) and path.is_file() else None


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a single-range header; None where the whole file is meant.

    >>> byte_range("bytes=0-3", 10), byte_range("bytes=-2", 10), byte_range(None, 10)
    ((0, 3), (8, 9), None)
    """
    found = RANGE.fullmatch((header or "").strip())
    if not found or found[0] == "bytes=-":
        return None
    if not found[1]:
        first, last = size - min(int(found[2]), size), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size - 1), size - 1)
        if found[2] and int(found[2]) < first:
            return None
    if first >= size:
        raise Unsatisfiable
    return first, last


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine; port 80 stands in none."""
    try:
        return urlsplit(f"//{host}").hostname in (HOST, "localhost")
    except ValueError:
        return False


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "docintel"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with a document or a file, whole or in part."""
        if not _is_here(self.headers.get("Host", "")):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        path = unquote(urlsplit(self.path).path, errors="replace")
        if path in self.server.documents:
            self._send_json(self.server.documents[path]())
            return
        if path in self.server.joined:
            self._send_joined(self.server.joined[path])
            return
        file = self.server.file_for(path)
        if file is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._send_file(file)

    def do_HEAD(self) -> None:
        """The same headers without the body."""
        self.do_GET()

    def _send_file(self, file: Path) -> None:
        size = file.stat().st_size
        try:
            part = byte_range(self.headers.get("Range"), size)
        except Unsatisfiable:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"bytes */{size}")
            return
        first, last = part or (0, size - 1)
        content_range = f"bytes {first}-{last}/{size}" if part else None
        kind = TYPES.get(file.suffix, "application/octet-stream")
        status = HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK
        self._head(status, kind, last - first + 1, content_range)
        if self.command != "HEAD" and last >= first:
            with file.open("rb") as stream:
                self.connection.sendfile(stream, first, last - first + 1)

    def _send_joined(self, ranges: Sequence[FileRange]) -> None:
        """A file cut short ends the connection: the browser would wait for the rest for ever."""
        self._head(HTTPStatus.OK, "application/octet-stream", sum(part.size for part in ranges))
        for part in ranges if self.command != "HEAD" else ():
            with part.file.open("rb") as stream:
                sent = self.connection.sendfile(stream, part.offset, part.length)
            if sent != part.length:
                self.close_connection = True
                return
            self.wfile.write(bytes(part.padding))

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self._head(HTTPStatus.OK, TYPES[".json"], len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, content_range: str | None = None) -> None:
        body = f"{status.value} {status.phrase}\n".encode()
        self._head(status, TYPES[".txt"], len(body), content_range)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(
        self, status: HTTPStatus, kind: str, length: int, content_range: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: what a person wants to know, the page and the driver tell."""
