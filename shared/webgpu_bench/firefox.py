"""The same page in Firefox, driven by Marionette: a WebGPU device with shader-f16 and no GPU.

On Linux, Firefox runs WebGPU on Mesa's lavapipe (a Vulkan driver that computes on the CPU), which has
shader-f16, so q4f16 can really be run where Chromium's SwiftShader has only q4.

>>> result = run_in_firefox(package, request, firefox=Path("/usr/bin/firefox-esr"), timeout_s=200)
>>> result.dtype, result.software_adapter
('q4f16', True)
"""

import contextlib
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base.errors import RungFailed
from shared.base.processes import ProcessTree
from shared.base.text import first_line
from shared.webgpu_bench.driver import is_software, page_mounts, parsed, require_vendor
from shared.webgpu_bench.result import BrowserResult
from shared.webgpu_bench.server import serve

LOOK_EVERY_SECONDS = 0.25
SCRIPT_SECONDS = 30
GRACE_SECONDS = 15
FLAGS = ["--headless"]
PREFS: dict[str, Any] = {
    "dom.webgpu.enabled": True,
    "gfx.webgpu.ignore-blocklist": True,
    "app.update.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.max_script_run_time": 0,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.no_proxies_on": "127.0.0.1, localhost",
    "toolkit.telemetry.enabled": False,
}
"""WebGPU on a software adapter; what is not for this machine goes to a port nobody listens on."""

START = """
window.docintelSaid = [];
for (const kind of ["info", "error"]) {
  const original = console[kind];
  console[kind] = (...words) => { window.docintelSaid.push(words.join(" ")); original(...words); };
}
window.docintel.run(arguments[0]).then(
  (result) => { window.docintelResult = JSON.stringify(result); },
  (error) => {
    const answer = { outcome: "run_failed", error: String(error) };
    window.docintelResult = JSON.stringify(answer);
  },
);
"""
LOOK = "return [window.docintelSaid.splice(0), window.docintelResult ?? null]"
SAID = "[docintel] "


def run_in_firefox(
    package: Path,
    request: dict[str, Any],
    *,
    firefox: Path,
    timeout_s: float,
    on_progress: Callable[[str], None] = lambda line: None,
) -> BrowserResult:
    """As run_in_browser does in Chromium; the placement log is not read here.

    What goes wrong in the browser is the result's outcome. Raises RungFailed where Firefox does not
    start.
    """
    require_vendor()
    mounts = page_mounts() | {f"/models/{request['model']}": package}
    until = time.monotonic() + timeout_s
    with serve(mounts) as url, _session(firefox) as tab:
        result = _answered(tab, url, request | {"placement": False}, until, on_progress)
    result.software_adapter = is_software(result.adapter)
    result.placement_reason = "Firefox's console was not read for it"
    result.flags = FLAGS
    return result


@dataclass(frozen=True)
class _Tab:
    """Marionette's session, and the processes behind it."""

    session: Any
    family: ProcessTree


@contextmanager
def _session(firefox: Path) -> Iterator[_Tab]:
    """A headless Firefox with a profile of its own; none of its processes outlives the block."""
    from marionette_driver.marionette import Marionette

    family = ProcessTree(f"--docintel-run={uuid.uuid4().hex}")
    driver: Any = None
    try:
        with tempfile.TemporaryDirectory() as logs, family.watched():
            try:
                driver = Marionette(
                    bin=str(firefox),
                    headless=True,
                    prefs=PREFS,
                    port=_free_port(),
                    app_args=[family.mark],
                    gecko_log=logs,
                )
                driver.start_session()
            except Exception as error:  # mozrunner, sockets, Marionette: no common base
                raise RungFailed(f"Firefox does not start: {first_line(error)}") from error
            family.look()
            yield _Tab(driver, family)
    finally:
        family.kill()  # first: to ask a page that hangs to close would hang as well
        with contextlib.suppress(Exception):
            if driver is not None:
                driver.cleanup()


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answered(
    tab: _Tab, url: str, request: dict[str, Any], until: float, on_progress: Callable[[str], None]
) -> BrowserResult:
    """The page's result; or the outcome of what went wrong on the way to it."""
    late = threading.Event()

    def give_up() -> None:
        """Marionette waits on a page that hangs: end it, which wakes us."""
        late.set()
        tab.family.kill()

    timer = threading.Timer(max(1.0, until - time.monotonic()) + GRACE_SECONDS, give_up)
    timer.start()
    try:
        answer = _ask(tab.session, url, request, until, on_progress)
    except Exception as error:  # Marionette's and the socket's have no common base
        return _fault(error, late=late.is_set())
    finally:
        timer.cancel()
    return parsed(answer) if answer is not None else _fault(TimeoutError(), late=True)


def _fault(error: Exception, *, late: bool) -> BrowserResult:
    """`run_failed` where the page threw, `timeout` where it hung, `crashed` where it went away."""
    from marionette_driver import errors

    if late or isinstance(
        error, TimeoutError | errors.ScriptTimeoutException | errors.TimeoutException
    ):
        reason = "the page did not answer in time; the browser was ended"
        return BrowserResult(outcome="timeout", error=reason)
    if isinstance(error, errors.JavascriptException):
        return BrowserResult(outcome="run_failed", error=first_line(error)[:400])
    return BrowserResult(outcome="crashed", error=f"Firefox went away ({first_line(error)})")


def _ask(
    session: Any,
    url: str,
    request: dict[str, Any],
    until: float,
    on_progress: Callable[[str], None],
) -> str | None:
    """The page's answer as JSON; None where the time was up first."""
    session.timeout.script = SCRIPT_SECONDS
    session.navigate(f"{url}?driven")
    session.execute_script(START, script_args=[json.loads(json.dumps(request))], sandbox=None)
    while time.monotonic() < until:
        said, answer = session.execute_script(LOOK, sandbox=None)
        for line in said:
            if line.startswith(SAID):
                on_progress(line.removeprefix(SAID))
        if answer is not None:
            return str(answer)
        time.sleep(LOOK_EVERY_SECONDS)
    return None
