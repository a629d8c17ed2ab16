"""The same page in Firefox, driven by Marionette: a WebGPU device with shader-f16 and no GPU.

On Linux, Firefox runs WebGPU on Mesa's lavapipe (a Vulkan driver that computes on the CPU), which has
shader-f16, so q4f16 can really be run where Chromium's SwiftShader has only q4.

>>> result = run_in_firefox(package, request, firefox=Path("/usr/bin/firefox-esr"), timeout_s=200)
>>> result.dtype, result.software_adapter
('q4f16', True)
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from shared.errors import RungFailed
from shared.webgpu_bench.driver import _is_software, _page_mounts, _parsed, _require_vendor
from shared.webgpu_bench.result import BrowserResult
from shared.webgpu_bench.server import serve

LOOK_EVERY_SECONDS = 0.25
SCRIPT_SECONDS = 30
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
    _require_vendor()
    mounts = _page_mounts() | {f"/models/{request['model']}": package}
    until = time.monotonic() + timeout_s
    with serve(mounts, {"/models/index.json": list}) as url, _session(firefox) as session:
        answer = _ask(session, url, request | {"placement": False}, until, on_progress)
    if answer is None:
        reason = "the page did not answer in time; the browser was ended"
        return BrowserResult(outcome="timeout", error=reason)
    result = _parsed(answer)
    result.software_adapter = _is_software(result.adapter)
    result.placement_reason = "Firefox's console was not read for it"
    return result


@contextmanager
def _session(firefox: Path) -> Iterator[Any]:
    """A headless Firefox with a profile of its own; none of its processes outlives the block."""
    from marionette_driver.marionette import Marionette

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        driver = Marionette(bin=str(firefox), headless=True, prefs=PREFS, port=_free_port())
        driver.start_session()
    except Exception as error:  # mozrunner, sockets, Marionette: no common base
        _end(before)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RungFailed(f"Firefox does not start: {first}") from error
    try:
        yield driver
    finally:
        with contextlib.suppress(Exception):
            driver.quit()
        with contextlib.suppress(Exception):
            driver.cleanup()
        _end(before)


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _end(before: set[int]) -> None:
    """Kill what this session started and has not ended by itself."""
    started = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    mine = [c for c in started if "firefox" in _name(c)]
    for process in mine:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(mine, timeout=5)


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name().lower()
    return ""


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
