"""One headless Chromium with WebGPU, on the GPU where there is one, which leaves no process behind.

>>> with open_page(Path("/usr/bin/chromium"), hardware=has_gpu()) as tab:
...     tab.page.goto(url)
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Route,
    WebSocketRoute,
    sync_playwright,
)

from shared.webgpu_bench.gpu import has_gpu as has_gpu

QUIET = (
    "--headless=new",
    "--enable-unsafe-webgpu",
    "--enable-webgpu-developer-features",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
SOFTWARE = ("--use-webgpu-adapter=swiftshader",)
LINUX_HARDWARE = ("--enable-features=Vulkan", "--use-angle=vulkan")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SOFTWARE_NAMES = re.compile(r"swiftshader|llvmpipe|lavapipe|microsoft basic render", re.IGNORECASE)
ELSEWHERE = re.compile(r"^(https?|wss?)://", re.IGNORECASE)


def flags(*, hardware: bool) -> list[str]:
    """The command line; the sandbox is given up only where Chromium refuses it, as root."""
    adapter = (LINUX_HARDWARE if sys.platform == "linux" else ()) if hardware else SOFTWARE
    root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    return [*QUIET, *adapter, *root]


@dataclass
class Tab:
    """A page and what it did: its console, and the requests that were not let out."""

    page: Page
    mark: str
    console: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    crashed: bool = False

    def kill(self) -> None:
        """End the browser and everything it started, from any thread."""
        kill_marked(self.mark)


@contextmanager
def open_page(
    browser: Path, *, hardware: bool, width: int = 1280, height: int = 900
) -> Iterator[Tab]:
    """A fresh page; when the block ends, however it ends, the browser's processes are gone."""
    mark = f"--docintel-run={uuid.uuid4().hex}"
    family: list[psutil.Process] = []
    try:
        with sync_playwright() as playwright:
            launched = playwright.chromium.launch(
                executable_path=str(browser),
                ignore_default_args=["--headless"],
                args=[*flags(hardware=hardware), mark],
                handle_sigint=False,
            )
            yield _watched(launched, mark, width, height)
            family = _family(mark)
            launched.close()
    finally:
        kill_marked(mark)
        psutil.wait_procs(family, timeout=5)


def _watched(browser: Browser, mark: str, width: int, height: int) -> Tab:
    context = browser.new_context(viewport={"width": width, "height": height})
    tab = Tab(context.new_page(), mark)
    tab.page.on("console", lambda message: _heard(tab, message))
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("crash", lambda _: setattr(tab, "crashed", True))
    _keep_in(context, tab)
    return tab


def _heard(tab: Tab, message: ConsoleMessage) -> None:
    tab.console.append((message.type, message.text))


def _keep_in(context: BrowserContext, tab: Tab) -> None:
    """Refuse every request that is not for this machine, and remember it."""

    def outside(url: str) -> bool:
        return bool(ELSEWHERE.match(url)) and urlsplit(url).hostname not in LOOPBACK

    def refuse(route: Route) -> None:
        tab.blocked.append(route.request.url)
        route.abort()

    def refuse_socket(socket: WebSocketRoute) -> None:
        tab.blocked.append(socket.url)
        socket.close()

    context.route(outside, refuse)
    context.route_web_socket(outside, refuse_socket)


def kill_marked(mark: str) -> None:
    """Kill the process trees whose command line carries `mark`; nothing else is touched."""
    family = _family(mark)
    for process in family:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(family, timeout=5)


def _family(mark: str) -> list[psutil.Process]:
    return [member for root in marked(mark) for member in [root, *_children(root)]]


def marked(mark: str) -> list[psutil.Process]:
    """The processes whose command line carries `mark`."""
    return [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []
