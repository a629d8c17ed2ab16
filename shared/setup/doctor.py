"""What this machine has and lacks, each lack with the command that mends it; changes nothing.

>>> findings = check()
>>> print(render(findings))
>>> failed(findings)
False
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement

from shared.base import paths
from shared.base.environment import is_offline, without_password
from shared.base.errors import UserError
from shared.base.files import free_disk
from shared.base.tables import table
from shared.base.venv import read_pins
from shared.setup import browser

REMAKE = "rm -rf .venv && ./inv doctor"
BENCH = paths.REPOSITORY / "shared" / "webgpu_bench"
NPM_CI = "(cd shared/webgpu_bench && npm ci --ignore-scripts)"
OLDEST_NODE = 20
DISK_FOR_3B = 30e9  # merged weights, the base, the ONNX in parts and its packaged copy
MEMORY_FOR_3B = 8e9  # of SmolLM3-3B the reference, the check and the browser take 7 to 8 GB


@dataclass(frozen=True)
class Finding:
    """One line of the report. `missing` is required; `warn` only narrows what can be done here."""

    name: str
    state: Literal["ok", "missing", "warn"]
    found: str
    mend: str = ""


def check(lock: Path | None = None) -> list[Finding]:
    """Look at everything, in the order in which things depend on one another."""
    return [
        _python(),
        *_pins(lock or paths.REPOSITORY / "requirements.lock"),
        _node(),
        _node_modules(),
        _browser(),
        _firefox(),
        _gpu(),
        _memory(),
        _disk(),
        _token(),
        _hub(),
    ]


def failed(findings: list[Finding]) -> bool:
    """Whether something is missing that every run needs."""
    return any(finding.state == "missing" for finding in findings)


def render(findings: list[Finding]) -> str:
    """A table for a person, and the sum of it in one line."""
    rows = [(f.name, f.state, f.found, f.mend) for f in findings]
    states = [f.state for f in findings]
    summary = ", ".join(f"{states.count(s)} {s}" for s in ("ok", "warn", "missing"))
    return f"{table(('what', 'state', 'found', 'mend'), rows, 'simple')}\n\n{summary}"


def _python() -> Finding:
    found = f"{platform.python_version()} in {paths.shown(Path(sys.prefix))}"
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "missing", found, f"install Python 3.11 or 3.12, then {REMAKE}")
    if Path(sys.prefix).resolve() != (paths.REPOSITORY / ".venv").resolve():
        return Finding("python", "warn", f"{found}, not .venv", "./inv doctor")
    return Finding("python", "ok", found)


def _pins(lock: Path) -> Iterator[Finding]:
    """One finding for each package that is not as locked; one for all of them together if all are.

    Versions are compared without their local part: `2.13.0+cpu` is the 2.13.0 that was asked for.
    """
    if not lock.is_file():
        yield Finding("packages", "missing", f"no {lock.name}", f"git checkout {lock.name}")
        return
    pins = [pin for pin in read_pins(lock) if pin.marker is None or pin.marker.evaluate()]
    wrong = [(pin, _installed(pin.name)) for pin in pins if not _fits(pin)]
    for pin, found in wrong:
        yield Finding(pin.name, "missing", f"{found}, locked {pin.specifier}", REMAKE)
    if not wrong:
        yield Finding("packages", "ok", f"all {len(pins)} as locked, torch {_installed('torch')}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _fits(pin: Requirement) -> bool:
    found = _installed(pin.name)
    return found != "not installed" and pin.specifier.contains(found, prereleases=True)


def _node() -> Finding:
    """Node is only needed to fetch the page's packages, but without them nothing is released."""
    get = f"install Node.js {OLDEST_NODE} or newer with npm, then {NPM_CI}"
    if not (shutil.which("node") and shutil.which("npm")):
        return Finding("node, npm", "missing", "not on PATH", get)
    node, npm = (_said_first([tool, "--version"]) for tool in ("node", "npm"))
    major = node.lstrip("v").split(".")[0]
    fits = major.isdigit() and int(major) >= OLDEST_NODE
    return Finding("node, npm", "ok" if fits else "warn", f"{node}, {npm}", "" if fits else get)


def _node_modules() -> Finding:
    lock, made = BENCH / "package-lock.json", BENCH / "node_modules" / ".package-lock.json"
    if not lock.is_file():
        where = paths.shown(lock)
        return Finding("node_modules", "missing", f"no {where}", f"git checkout {where}")
    if not made.is_file():
        return Finding("node_modules", "missing", "not installed", NPM_CI)
    try:
        wanted, there = _npm_versions(lock), _npm_versions(made)
    except (ValueError, KeyError):  # npm was killed, or the disk was full
        return Finding("node_modules", "missing", "not wholly installed", NPM_CI)
    wrong = sorted(name for name in wanted if there.get(name) != wanted[name])
    if wrong:
        return Finding("node_modules", "missing", f"not as locked: {', '.join(wrong[:3])}", NPM_CI)
    return Finding("node_modules", "ok", f"all {len(wanted)} as locked")


def _npm_versions(lock: Path) -> dict[str, str]:
    """Path and version of all that npm must install; optional ones depend on the platform."""
    packages: dict[str, dict[str, Any]] = json.loads(lock.read_text())["packages"]
    return {
        name.removeprefix("node_modules/"): entry.get("version", "")
        for name, entry in packages.items()
        if name.startswith("node_modules/") and not (entry.get("optional") or entry.get("link"))
    }


def _browser() -> Finding:
    try:
        found = browser.find_browser()
    except UserError as error:
        return Finding("browser", "missing", str(error), "unset CHROME_PATH")
    if found is None:
        return Finding("browser", "missing", "no Chrome or Chromium", browser.INSTALL_COMMAND)
    if not found.version:
        return Finding(
            "browser", "missing", f"{found.path} does not start", f"{found.path} --version"
        )
    return Finding("browser", "ok", f"{found.version} ({found.path})")


def _firefox() -> Finding:
    """Not needed: it runs q4f16 on WebGPU where there is no GPU."""
    found = browser.find_firefox()
    if found is None:
        mend = f"{browser.INSTALL_COMMAND} firefox"
        return Finding("Firefox", "warn", "none: q4f16 is not run without a GPU", mend)
    if not (version := browser.firefox_version(found)):
        return Finding(
            "Firefox", "warn", f"{found} tells no version", f"{browser.INSTALL_COMMAND} firefox"
        )
    return Finding("Firefox", "ok", f"{version} ({found})")


def _gpu() -> Finding:
    """A hint only: whether the browser gets an adapter of it, the benchmark alone can say."""
    if sys.platform == "darwin":
        return Finding("GPU", "ok", f"Metal, {platform.machine()}")
    if shutil.which("nvidia-smi"):
        name = _said_first(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
        if name:
            return Finding("GPU", "ok", name)
        return Finding("GPU", "warn", "nvidia-smi fails", "mend the driver: run nvidia-smi")
    if any(Path("/dev/dri").glob("renderD*")):
        return Finding("GPU", "ok", "/dev/dri")
    return Finding("GPU", "warn", "software adapter only", "measure speed on a machine with a GPU")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.0f} of {memory.total / 1e9:.0f} GB free"
    if memory.available < MEMORY_FOR_3B:
        return Finding("memory", "warn", found, "a 3B model wants 8 GB: use a smaller rung")
    return Finding("memory", "ok", found)


def _disk() -> Finding:
    free = free_disk()
    if free < DISK_FOR_3B:
        return Finding("disk", "warn", f"{free / 1e9:.0f} GB free", "a 3B model wants 30 GB")
    return Finding("disk", "ok", f"{free / 1e9:.0f} GB free")


def _token() -> Finding:
    """Whether there is one; never which."""
    from huggingface_hub import get_token

    if os.environ.get("HF_OIDC_RESOURCE"):  # what a CI would be given for it, the network tells
        return Finding("Hub token", "ok", "asked for when it is needed (HF_OIDC_RESOURCE)")
    if get_token():
        return Finding("Hub token", "ok", "present")
    return Finding("Hub token", "warn", "none: publishing needs one", ".venv/bin/hf auth login")


def _hub() -> Finding:
    """Only what the environment says: a doctor that waits for a network is not run."""
    names = [name for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT") if os.environ.get(name)]
    said = [f"{name}={without_password(os.environ[name])}" for name in names]
    if is_offline():
        return Finding("Hub", "warn", ", ".join(said), "unset HF_HUB_OFFLINE to publish")
    return Finding("Hub", "ok", ", ".join(said) or "the public one (not contacted)")


def _said_first(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip()
