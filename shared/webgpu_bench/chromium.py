"""One headless Chromium with WebGPU, on the GPU where there is one, which leaves no process behind.

>>> with open_page(Path("/usr/bin/chromium"), hardware=has_gpu()) as tab:
...     tab.page.goto(url)
"""

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
    Playwright,
    Route,
    WebSocketRoute,
    sync_playwright,
)
from playwright.sync_api import Error as PlaywrightError

from shared.base.gpu import has_gpu as has_gpu
from shared.base.processes import ProcessTree

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
    "--js-flags=--expose-gc",  # page/driven.js
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
SOFTWARE = ("--use-webgpu-adapter=swiftshader",)
LINUX_HARDWARE = ("--enable-features=Vulkan", "--use-angle=vulkan")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SOFTWARE_NAMES = re.compile(r"swiftshader|llvmpipe|lavapipe|microsoft basic render", re.IGNORECASE)
ELSEWHERE = re.compile(r"^(https?|wss?)://", re.IGNORECASE)


def flags(*, hardware: bool, sandbox: bool = True) -> list[str]:
    """The command line. `sandbox`: whether Chromium ran in it; as root it never does."""
    adapter = (LINUX_HARDWARE if sys.platform == "linux" else ()) if hardware else SOFTWARE
    return [*QUIET, *adapter, *(() if sandbox and not _is_root() else ("--no-sandbox",))]


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@dataclass
class Tab:
    """A page and what it did: its console, and the requests that were not let out."""

    page: Page
    family: ProcessTree
    console: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    crashed: bool = False
    sandbox: bool = True

    def kill(self) -> None:
        """End the browser and everything it started, from any thread."""
        self.family.kill()


@contextmanager
def open_page(
    browser: Path, *, hardware: bool, width: int = 1280, height: int = 900
) -> Iterator[Tab]:
    """A fresh page; when the block ends, however it ends, the browser's processes are gone."""
    family = ProcessTree(f"--docintel-run={uuid.uuid4().hex}")
    try:
        with sync_playwright() as playwright, family.watched():
            launched, sandbox = _launched(playwright, browser, family, hardware=hardware)
            tab = _watched(launched, family, width, height)
            tab.sandbox = sandbox
            family.look()
            yield tab
            family.look()
            launched.close()
    finally:
        family.kill()


def _launched(
    playwright: Playwright, browser: Path, family: ProcessTree, *, hardware: bool
) -> tuple[Browser, bool]:
    """The browser, in its sandbox where the system lets it have one (Ubuntu's AppArmor may not, nor a
    container), and whether it is; Playwright itself would always leave it out."""

    def launch(*, sandbox: bool) -> Browser:
        return playwright.chromium.launch(
            executable_path=str(browser),
            ignore_default_args=["--headless"],
            args=[*flags(hardware=hardware, sandbox=sandbox), family.mark],
            chromium_sandbox=sandbox,
            handle_sigint=False,
        )

    if _is_root():
        return launch(sandbox=False), False
    try:
        return launch(sandbox=True), True
    except PlaywrightError:
        return launch(sandbox=False), False


def _watched(browser: Browser, family: ProcessTree, width: int, height: int) -> Tab:
    context = browser.new_context(viewport={"width": width, "height": height})
    tab = Tab(context.new_page(), family)
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


def marked(mark: str) -> list[psutil.Process]:
    """The processes whose command line carries `mark`."""
    return [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]
