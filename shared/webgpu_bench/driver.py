"""Run a packaged model in a real browser and bring back what it found; or serve the page to a person.

>>> result = run_in_browser(package, request, browser=Path("/usr/bin/chromium"), timeout_s=200)
>>> result.outcome, result.runs[0].output_ids
('ok', [504, 3575, 282, 4649])
"""

import functools
import json
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Error as PlaywrightError
from pydantic import ValidationError

from shared.base.errors import UserError
from shared.base.parsing import sentence
from shared.base.progress import say
from shared.base.text import first_line
from shared.webgpu_bench.chromium import SOFTWARE_NAMES, Tab, flags, has_gpu, open_page
from shared.webgpu_bench.kernels import EVENT, read_kernels
from shared.webgpu_bench.model_list import HUB, MANIFEST, listing, page_manifest
from shared.webgpu_bench.placement import Unreadable, read_placement
from shared.webgpu_bench.result import Adapter, BrowserResult, Parity, ParityPiece
from shared.webgpu_bench.server import serve

__all__ = ["has_gpu", "run_in_browser", "serve_page"]

HERE = Path(__file__).resolve().parent
PAGE, VENDOR = HERE / "page", HERE / "node_modules"
INSTALL = "(cd shared/webgpu_bench && npm ci --ignore-scripts)"
SAID, PARTIAL, PIECE = "[docintel] ", "[docintel:partial] ", "[docintel:piece] "
ORT = ":onnxruntime:"
LOOK_EVERY_MS = 50
GRACE_SECONDS = 15
LARGEST_PORT = 65_535

AdapterKind = Literal["hardware", "software"]
Progress = Callable[[str], None]


def run_in_browser(
    package: Path,
    request: dict[str, Any],
    *,
    browser: Path,
    timeout_s: float,
    on_progress: Progress = lambda line: None,
    on_piece: Progress = lambda text: None,
    adapter: AdapterKind,
    extra: dict[str, Path] | None = None,
) -> BrowserResult:
    """Answer `request` with the package on WebGPU. Never leaves a process behind.

    `request`: model (the name it is mounted under), dtype ("auto", "q4f16" or "q4"), prompts (each
    id, input_ids, max_new_tokens), deadline_ms (generation stops after the token in hand; what
    there is comes back) and, if wanted, warmup_tokens, budget_bytes (a WebGPU buffer past it is
    refused), parity (see parity.request), documents (see documents.request), placement (False spares
    the second load that logs it), swap (`package` is a family's folder: the domain and the file of the
    adapter that answers),
    profile (True loads once more and times every kernel of a prompt and of a token), warm_load (True
    loads once more, from the browser's cache), hardware_only (True: a software adapter is no_webgpu)
    and engine ("wasm" or "wllama" instead of WebGPU, see page/peers.js). `on_piece` gets each
    ParityPiece as JSON as soon as it was read. `extra`: further folders to serve, URL prefix → folder.

    What goes wrong in the browser is the result's `outcome`, a GPU that is not offered as well;
    UserError is for a harness that cannot start.
    """
    _require(package, browser)
    until = time.monotonic() + timeout_s
    attempt = _Attempt(package, request, browser, until, on_progress, on_piece, extra or {})
    return attempt.run(hardware=adapter == "hardware")


def serve_page(
    models: dict[str, Path],
    port: int = 0,
    open_browser: bool = False,
    *,
    more: Sequence[dict[str, Any]] = (),
    hub: str = HUB,
) -> None:
    """Serve the page with these models (name → package folder) until Ctrl-C; prints the URL.

    `more`: entries of models that are on `hub`.
    """
    if not 0 <= port <= LARGEST_PORT:
        raise UserError(f"--port: a number from 0 to {LARGEST_PORT} is wanted, not {port}")
    require_vendor()
    mounts = page_mounts() | {f"/models/{name}": path for name, path in models.items()}
    documents = {f"/{MANIFEST}": lambda: page_manifest([*listing(models), *more], hub=hub)}
    try:
        with serve(mounts, documents, port) as url:
            print(url, flush=True)
            say("press Ctrl-C to stop")
            if open_browser:
                webbrowser.open(url)
            threading.Event().wait()
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; --port 0 takes a free one") from None
    except KeyboardInterrupt:
        say("stopped")


def page_mounts() -> dict[str, Path]:
    return {"/": PAGE, "/vendor": VENDOR}


def require_vendor() -> None:
    if not (VENDOR / "@huggingface" / "transformers" / "dist" / "transformers.web.js").is_file():
        raise UserError(f"the page's packages are not installed; run: {INSTALL}")


def _require(package: Path, browser: Path) -> None:
    require_vendor()
    if not (package / "config.json").is_file():
        raise UserError(f"{package}: no packaged model lies there (config.json is missing)")
    if not browser.is_file():
        raise UserError(f"{browser}: no such browser")


@dataclass
class _Attempt:
    """One browser, one page, one answer."""

    package: Path
    request: dict[str, Any]
    browser: Path
    until: float
    on_progress: Progress
    on_piece: Progress
    extra: dict[str, Path] = field(default_factory=dict)
    answer: str | None = None
    partial: str | None = None
    pieces: list[ParityPiece] = field(default_factory=list)
    timed_out: bool = False
    log: list[str] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run(self, hardware: bool) -> BrowserResult:
        mounts = page_mounts() | {f"/models/{self.request['model']}": self.package} | self.extra
        with serve(mounts) as url:
            tab, problem = self._drive(url, hardware)
        result = self._result(tab, problem)
        result.flags = flags(hardware=hardware, sandbox=tab is None or tab.sandbox)
        return result

    def _drive(self, url: str, hardware: bool) -> tuple[Tab | None, str]:
        """The tab and, if it did not answer, why: what Playwright said."""
        tab: Tab | None = None
        watchdog: threading.Timer | None = None
        try:
            with open_page(self.browser, hardware=hardware) as tab:
                left = max(1.0, self.until - time.monotonic())
                watchdog = threading.Timer(left + GRACE_SECONDS, self._give_up, [tab])
                watchdog.start()
                self._ask(tab, url)
        except PlaywrightError as error:
            if self.answer is None:
                return tab, first_line(error.message)
        finally:
            if watchdog:
                watchdog.cancel()
        return tab, ""

    def _give_up(self, tab: Tab) -> None:
        """End the browser, which wakes Playwright if the page's own clock has stopped."""
        self.timed_out = self.answer is None
        tab.kill()

    def _hear(self, text: str) -> None:
        """The page's answer; what it says of a browser that is being ended is none."""
        if not self.timed_out:
            self.answer = text

    def _ask(self, tab: Tab, url: str) -> None:
        tab.page.set_default_timeout(1000 * max(30.0, self.until - time.monotonic()))
        tab.page.expose_function("docintelAnswer", self._hear)
        tab.page.goto(f"{url}?driven")
        tab.page.wait_for_function("() => window.docintel !== undefined")
        tab.page.evaluate(
            "request => { window.docintel.run(request)"
            ".then(result => window.docintelAnswer(JSON.stringify(result)),"
            " error => window.docintelAnswer(JSON.stringify("
            "{outcome: 'run_failed', error: String(error).slice(0, 400)}))) }",
            self.request,
        )
        while self.answer is None and not tab.crashed:
            tab.page.wait_for_timeout(LOOK_EVERY_MS)
            self._listen(tab)
            if time.monotonic() > self.until:
                self._give_up(tab)
                return
        tab.page.wait_for_timeout(LOOK_EVERY_MS)
        self._listen(tab)

    def _listen(self, tab: Tab) -> None:
        while tab.console:
            kind, text = tab.console.pop(0)
            if text.startswith(SAID):
                self.on_progress(text.removeprefix(SAID))
            elif text.startswith(PARTIAL):
                self.partial = text.removeprefix(PARTIAL)
            elif text.startswith(PIECE):
                self._keep(text.removeprefix(PIECE))
            elif text.startswith(EVENT):
                self.profile.append(text)
            elif ORT in text[:60]:
                self.log.append(text)
            elif kind == "error":
                self.errors.append(text[:1000])

    def _keep(self, text: str) -> None:
        self.pieces.append(ParityPiece.model_validate_json(text))
        self.on_piece(text)

    def _result(self, tab: Tab | None, problem: str) -> BrowserResult:
        if tab:
            self._listen(tab)
        answered = self.answer is not None
        result = parsed(self.answer or "") if answered else self._unanswered(tab, problem)
        result.console_errors = self.errors + (tab.errors if tab else [])
        result.blocked_requests = tab.blocked if tab else []
        result.software_adapter = is_software(result.adapter)
        self._place(result)
        result.kernels = read_kernels(self.profile)
        return result

    def _unanswered(self, tab: Tab | None, problem: str) -> BrowserResult:
        """The page's partial result, where it did not answer; the outcome says why."""
        result = parsed(self.partial) if self.partial else BrowserResult(outcome="crashed")
        result.ok = False
        result.parity = Parity(pieces=self.pieces) if self.pieces else None
        if self.timed_out:
            result.outcome = "timeout"
            result.error = "the page did not answer in time; the browser was ended"
        else:
            result.outcome = "crashed"
            result.error = _silence(tab, problem)
        return result

    def _place(self, result: BrowserResult) -> None:
        try:
            result.placement = read_placement(self.log)
            result.placement_reason = None
        except Unreadable as error:
            early = None if result.ok else "the run ended before the placement was logged"
            result.placement_reason = result.placement_reason or early or str(error)


def _silence(tab: Tab | None, problem: str) -> str:
    if tab is None:
        return f"the browser did not start: {problem}"
    return "the page crashed" if tab.crashed else f"the browser went away ({problem})"


def parsed(text: str) -> BrowserResult:
    try:
        return BrowserResult.model_validate(json.loads(text))
    except ValidationError as error:
        words = sentence(error, BrowserResult, "the page's answer")
        return BrowserResult(outcome="run_failed", error=words)
    except ValueError as error:
        return BrowserResult(outcome="run_failed", error=f"the page's answer is no JSON: {error}")


OFFERED = """async () => {
  const found = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!found) return null;
  const { vendor, architecture, device, description, isFallbackAdapter } = found.info;
  const is_fallback = Boolean(isFallbackAdapter ?? found.isFallbackAdapter);
  return { vendor, architecture, device, description, is_fallback };
}"""


@functools.cache
def offered_gpu(browser: Path, version: str) -> str:
    """What the browser calls the GPU that it offers; empty where it offers none, or a software adapter.

    Asked once a process: some seconds. `version`: another browser may offer another.
    """
    try:
        with serve({"/": PAGE}) as url, open_page(browser, hardware=True) as tab:
            tab.page.goto(f"{url}style.css")
            found = tab.page.evaluate(OFFERED)
    except PlaywrightError:
        return ""
    adapter = Adapter.model_validate(found) if found else None
    return "" if adapter is None or is_software(adapter) else adapter.name


def is_software(adapter: Adapter) -> bool:
    names = " ".join([adapter.vendor, adapter.architecture, adapter.device, adapter.description])
    return adapter.is_fallback or bool(SOFTWARE_NAMES.search(names))
