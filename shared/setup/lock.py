"""Write `requirements.lock` from `requirements.in` and the versions installed here.

$ .venv/bin/python -m shared.setup.lock          # after installing a newer version of something
$ .venv/bin/python -m shared.setup.lock --check  # the lock still is what this would write

`pip freeze` is not enough: it names whatever else is in the environment, and it cannot know that
macOS or Python 3.12 needs a package which this machine does not.
"""

import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared.base.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ALONE = ("data only", "needs no more")
"""Words of a comment in requirements.in: what the package says it needs is not installed for it."""
HEADER = """\
# Every package of the environment, pinned; `./inv` installs exactly this, torch first and alone.
# Made by:    .venv/bin/python -m shared.setup.lock   (from requirements.in and what is installed)
# Renewed by: .venv/bin/pip install 'NAME==NEWER', the tests, then the line above.
# torch without a local version: Linux may have a CPU or a CUDA build, macOS has its own.
"""
# What markers are evaluated for: the lock must serve all of these.
TARGETS = tuple(
    {
        "sys_platform": platform,
        "platform_system": system,
        "platform_machine": machine,
        "os_name": "posix",
        "python_version": python,
        "python_full_version": f"{python}.7",
        "extra": "",
    }
    for platform, system, machine in (("linux", "Linux", "x86_64"), ("darwin", "Darwin", "arm64"))
    for python in ("3.11", "3.12")
)


def direct(text: str) -> dict[str, bool]:
    """Names in requirements.in, and whether their dependencies are wanted too."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {
        canonicalize_name(Requirement(line.split("#")[0].strip()).name): not any(
            word in line for word in ALONE
        )
        for line in lines
    }


def closure(names: dict[str, bool], target: dict[str, str]) -> set[str]:
    """All packages that `names` need, transitively, on one platform and Python."""
    found: set[str] = set()
    waiting = [(name, frozenset[str](), deep) for name, deep in names.items()]
    seen = set()
    while waiting:
        name, extras, deep = item = waiting.pop()
        found.add(name)
        if not deep or item in seen:
            continue
        seen.add(item)
        for need in _needs(name, extras, target):
            waiting.append((canonicalize_name(need.name), frozenset(need.extras), True))
    return found


def _needs(name: str, extras: frozenset[str], target: dict[str, str]) -> list[Requirement]:
    try:
        wanted = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        raise UserError(f"requirements.lock: {name} is needed but not installed here") from None
    variants = [target | {"extra": extra} for extra in ("", *extras)]
    return [r for r in wanted if r.marker is None or any(r.marker.evaluate(v) for v in variants)]


def render(names: dict[str, bool]) -> str:
    """The lock's text: torch first, the rest sorted, a marker where not every target needs it."""
    needed = [closure(names, target) for target in TARGETS]
    lines = [_pin(name, [name in one for one in needed]) for name in set().union(*needed)]
    lines.sort(key=lambda line: (not line.startswith("torch=="), line))
    return HEADER + "\n".join(lines) + "\n"


def _pin(name: str, needed: list[bool]) -> str:
    pin = f"{name}=={version(name).split('+')[0]}"
    if all(needed):
        return pin
    where = sorted({t["sys_platform"] for t, n in zip(TARGETS, needed, strict=True) if n})
    return f"{pin} ; " + " or ".join(f'sys_platform == "{one}"' for one in where)


def main(arguments: list[str]) -> int:
    """Write the lock, or with --check compare it."""
    lock = ROOT / "requirements.lock"
    try:
        text = render(direct((ROOT / "requirements.in").read_text()))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if "--check" not in arguments:
        lock.write_text(text)
    elif lock.read_text() != text:
        print("requirements.lock is stale; run: .venv/bin/python -m shared.setup.lock")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
