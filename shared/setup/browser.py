"""Find the Chrome or Chromium that the WebGPU checks drive, or install one.

$ python -m shared.setup.browser             # print the path, or fail with the command to run
$ python -m shared.setup.browser --install   # the same, installing Chromium where there is none
$ python -m shared.setup.browser --install firefox   # Firefox and a WebGPU driver for it, beside it
$ CHROME_PATH=/opt/chrome/chrome ./inv test  # this one and no other
"""

import functools
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shared.base.errors import UserError

INSTALL_COMMAND = "./.venv/bin/python -m shared.setup.browser --install"
DOWNLOAD_SECONDS = 120
APT_SECONDS = 480
"""How long an installer may be silent."""
VERSION = re.compile(r"^[\w ]+ \d+(\.\d+)+")
LINUX_NAMES = ("google-chrome", "google-chrome-stable", "chromium", "chromium-browser")
MAC_APPS = (
    "Google Chrome.app/Contents/MacOS/Google Chrome",
    "Chromium.app/Contents/MacOS/Chromium",
)
FIREFOX_NAMES = ("firefox-esr", "firefox")
FIREFOX_PACKAGES = "firefox-esr mesa-vulkan-drivers"
INSTALL_FIREFOX = f"apt-get install -y {FIREFOX_PACKAGES}"
PLAYWRIGHT_PATH_SNIPPET = (
    "from playwright.sync_api import sync_playwright as s\n"
    "with s() as p: print(p.chromium.executable_path)"
)


@dataclass(frozen=True)
class Browser:
    """One executable and where it was found; asking its version starts it, so that is lazy."""

    path: Path
    kind: str  # "CHROME_PATH", "chrome", "chromium" or "playwright"

    @cached_property
    def version(self) -> str:
        """What the binary says of itself; empty when it does not start (missing libraries)."""
        return _version(self.path, self.path.stat().st_mtime_ns if self.path.exists() else 0)


@functools.cache
def _version(path: Path, mtime_ns: int) -> str:
    """Asked once for many domains, not once for each.

    Debian's start script may put a shell's complaint beside it, so a version is looked for.
    """
    code, output = _run([str(path), "--version"], silent=20)
    versions = [line.strip() for line in output.splitlines() if VERSION.search(line)]
    return versions[0] if code == 0 and versions else ""


def find_browser() -> Browser | None:
    """The first that starts: CHROME_PATH, an installed Chrome or Chromium, Playwright's own download.

    Ubuntu's chromium-browser may be a stub for a snap that is not there, and Playwright's may lack the
    system's libraries. UserError where CHROME_PATH names none that starts."""
    chosen = os.environ.get("CHROME_PATH")
    if chosen:
        browser = Browser(_executable(chosen), "CHROME_PATH")
        if not browser.version:
            raise UserError(f"CHROME_PATH={chosen}: does not start; correct it or unset it")
        return browser
    installed = (b for b in _installed() if _is_executable(b.path) and b.version)
    return next(installed, None) or _playwrights_own()


def require_browser() -> Browser:
    """The same, for a caller that cannot do without one."""
    found = find_browser()
    if found is None:
        raise UserError(
            f"no Chrome or Chromium that starts; run: {INSTALL_COMMAND} (or set CHROME_PATH)"
        )
    return found


def install_browser() -> Browser:
    """Install Chromium by Playwright, else by apt; trust neither until the binary has started.

    Playwright downloads a browser without its system libraries, and Ubuntu's apt package may be
    an empty stub for a snap: both leave an executable behind that cannot run.
    """
    attempts: dict[str, Callable[[], str]] = {"playwright install chromium": _by_playwright}
    if _may_use_apt():
        attempts["apt-get install chromium"] = _by_apt
    reasons = []
    for name, attempt in attempts.items():
        _note(f"browser: trying `{name}`")
        reason = attempt()
        found = find_browser()
        if found:
            return found
        reasons.append(f"`{name}`: {reason or 'installed, but it does not start'}")
        _note(f"browser: {reasons[-1]}")
    raise UserError(f"no browser could be installed; {_by_hand()} ({'; '.join(reasons)})")


def _executable(chosen: str) -> Path:
    path = Path(chosen)
    if not _is_executable(path):
        raise UserError(f"CHROME_PATH={chosen}: not an executable file; correct it or unset it")
    return path


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _installed() -> Iterator[Browser]:
    for name in LINUX_NAMES:
        found = shutil.which(name)
        if found:
            yield Browser(Path(found), "chrome" if "chrome" in name else "chromium")
    if sys.platform == "darwin":
        for folder in (Path("/Applications"), Path.home() / "Applications"):
            for app in MAC_APPS:
                yield Browser(folder / app, "chrome" if "Chrome" in app else "chromium")


def _playwrights_own() -> Browser | None:
    """Ask Playwright only if it has downloaded anything: its driver takes a second to start.

    A process of its own, because Playwright's sync API refuses to be started twice in one.
    """
    if not any(_playwright_cache().glob("chromium-*")):
        return None
    code, output = _run([sys.executable, "-c", PLAYWRIGHT_PATH_SNIPPET], silent=20)
    path = Path(output.strip()) if code == 0 and output.strip() else None
    browser = Browser(path, "playwright") if path and _is_executable(path) else None
    return browser if browser and browser.version else None


def _playwright_cache() -> Path:
    chosen = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    if chosen and chosen != "0":
        return Path(chosen)
    mac = sys.platform == "darwin"
    return Path.home() / ("Library/Caches" if mac else ".cache") / "ms-playwright"


def _by_playwright() -> str:
    """Return why it failed, or an empty string."""
    command = [sys.executable, "-m", "playwright", "install", "chromium"]
    code, output = _run(command, DOWNLOAD_SECONDS)
    return "" if code == 0 else _reason(output)


def _may_use_apt() -> bool:
    return Path("/etc/debian_version").exists() and os.geteuid() == 0


def _by_apt(packages: str = "--no-install-recommends chromium") -> str:
    """Return why it failed, or an empty string."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update", f"apt-get install -y {packages}"):
        code, output = _run(command.split(), APT_SECONDS, environment)
        if code != 0:
            return _reason(output)
    return ""


def find_firefox() -> Path | None:
    """Debian's firefox-esr, or any other Firefox on PATH."""
    return next((Path(found) for name in FIREFOX_NAMES if (found := shutil.which(name))), None)


def firefox_version(firefox: Path) -> str:
    """What the binary says of itself; empty where it does not start."""
    code, output = _run([str(firefox), "--version"], silent=30)
    return output.strip().splitlines()[-1] if code == 0 and output.strip() else ""


def install_firefox() -> Path:
    """Debian's Firefox and Mesa's lavapipe, whose WebGPU has shader-f16 without a GPU."""
    found, reason = find_firefox(), ""
    if found is None and _may_use_apt():
        reason = _by_apt(FIREFOX_PACKAGES)
        found = find_firefox()
    if reason:
        raise UserError(f"Firefox could not be installed: {reason}")
    if found is None or not firefox_version(found):
        raise UserError(f"no Firefox that starts; run: sudo {INSTALL_FIREFOX}")
    return found


def _by_hand() -> str:
    if sys.platform == "darwin":
        return "install Google Chrome, or run: brew install --cask chromium"
    if Path("/etc/debian_version").exists():
        return "run: sudo apt-get install -y chromium"
    return "install chromium with your system's package manager, or set CHROME_PATH"


def _run(command: list[str], silent: float, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and both streams; a missing program, or one that says nothing for `silent` seconds
    and is ended with all that it started, is a status like any other."""
    try:
        child = subprocess.Popen(
            command,
            env=env,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        return 127, str(error)
    assert child.stdout is not None
    said = b""
    try:
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while ready.select(silent):
                more = os.read(child.stdout.fileno(), 65536)
                if not more:
                    return child.wait(silent), said.decode(errors="replace")
                said += more
        return 124, f"silent for {silent:.0f} s"
    except subprocess.TimeoutExpired:
        return 124, f"no end for {silent:.0f} s after its last word"
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the program and what it started, with time to leave things in order."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(20)
    if child.stdout:
        child.stdout.close()


def _reason(output: str) -> str:
    """The one line of a failing command's output that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if line.lower().startswith(("error", "e:", "failed"))]
    return (telling or lines or ["failed without a word"])[-1][:160]


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Print the path of the browser; stderr has the rest."""
    try:
        if "firefox" in arguments:
            print(install_firefox())
        elif "--install" in arguments:
            print((find_browser() or install_browser()).path)
        else:
            print(require_browser().path)
    except UserError as error:
        _note(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
