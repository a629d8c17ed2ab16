"""The commands of the project itself: what is here, what is missing, tests, lint, benchmarks."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from shared.base import paths
from shared.base.errors import UserError
from shared.cli.options import command

if TYPE_CHECKING:  # `./inv --list` loads none of it
    from shared.base.parsing import Key
    from shared.domain.defaults import Config
    from shared.domain.domain import Domain
    from shared.domain.settings import Rung

PYTHON = f"{shlex.quote(sys.executable)} -m "


@command(
    help={
        "arch": "smollm3, phi3 or qwen2.5",
        "calibrated": "only ours, calibrated as a release is built: up to half an hour",
        "feedback_free": "only ours, in a release's format but without calibration: the same bytes",
    }
)
def bench_build(
    c: Context, arch: str, calibrated: bool = False, feedback_free: bool = False
) -> None:
    """Build a full-size random model beside the stock tools; bytes, seconds, memory.

    Needs about 20 GB of disk, and 24 GB of memory for the stock tools.
    """
    from benchmarks.build import bench_build as run
    from benchmarks.build import bench_calibrated
    from benchmarks.build_report import render
    from shared.cli.summary import TERMINAL

    if calibrated or feedback_free:
        builds = bench_calibrated(arch, feedback_free=feedback_free)
    else:
        builds = run(arch)
    print(render(builds, TERMINAL))


@command(json=False, help={"domains": "how many domains, like 1,2,4,8,16"})
def bench_scaling(c: Context, domains: str = "1,2,4,8,16") -> None:
    """Measure release-all over many small domains, in turn, in parallel and on a cluster."""
    from benchmarks.scaling import DOCUMENT
    from benchmarks.scaling import bench_scaling as run

    counts = domains.split(",")
    if not all(count.isdigit() and int(count) for count in counts):
        raise UserError(f"--domains: numbers like 1,2,4 are wanted, not {domains!r}")
    run(tuple(map(int, counts)))
    print(paths.shown(DOCUMENT))


@command(log=False, help={"domain": "its settings, each with the file and line that sets it"})
def domains(c: Context, domain: str = "") -> None:
    """List the domains, their rungs, and how many held-out records they have.

    With --domain: what holds for it, domains/defaults.toml under its fallback.toml, as TOML.
    """
    from shared.base.tables import table
    from shared.cli.summary import TERMINAL
    from shared.domain.domain import domain_names, load_domain

    if domain:
        print(settings_of(load_domain(domain)))
        return
    rows, wrong = list[tuple[str, str, str]](), list[str]()
    for name in domain_names():
        try:
            found = load_domain(name)
        except UserError as error:
            wrong.append(str(error))
            continue
        rungs = " → ".join(map(_label, found.chain.rung))
        rows.append((name, str(len(found.records)), rungs))
    print(table(("domain", "records", "rungs"), rows, TERMINAL))
    if wrong:
        raise UserError("\n".join(wrong))


def _label(rung: Rung) -> str:
    brought = rung.adapter and not rung.example
    return f"{rung.name} ({rung.weights})" if brought else rung.name


def settings_of(domain: Domain) -> str:
    """The effective settings as TOML; behind each value the line that sets it, or "built in"."""
    config = domain.config
    every = domain.chain.model_dump(exclude_none=True)
    every |= {"metrics": config.merged.get("metrics", {})}
    single = {name: value for name, value in every.items() if not isinstance(value, dict | list)}
    rows = _rows(config, (), single)
    for name, value in every.items():
        if name in single:
            continue
        if isinstance(value, dict):
            rows += ["", f"[{name}]", *_rows(config, (name,), value)]
            continue
        for place, item in enumerate(value):
            rows += ["", f"[[{name}]]", *_rows(config, (name, place), item)]
    return "\n".join(rows)


def _rows(config: Config, table: Key, values: dict[str, Any]) -> list[str]:
    return [
        f"{f'{_name(name)} = {_toml(value)}':<44} # {config.where((*table, name))}"
        for name, value in values.items()
    ]


def _name(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml(value: Any) -> str:
    """On one line, as JSON but for the `=` of a table."""
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, ensure_ascii=False, separators=(", ", " = "))


@command(log=False, help={"domain": "only this one"})
def status(c: Context, domain: str = "") -> None:
    """Show the acceptance list of every domain: done, failed or not measured."""
    from shared.cli.summary import status as report
    from shared.domain.domain import load_domain

    print(report([load_domain(domain).name] if domain else None))


@command(
    log=False,
    help={"domain": "only what `release --domain` checks before stage 1, and each rung's folder"},
)
def doctor(c: Context, domain: str = "") -> None:
    """Say what is installed, what is missing, and the command that mends it.

    With --domain: every mistake in its folder at once, and what each rung's weights are good for.
    """
    if domain:
        from shared.cli.summary import inputs_report

        text, well = inputs_report(domain)
        print(text)
        if not well:
            raise UserError(f"{domain}: see the table")
        return
    from shared.cli.brought import weights_found
    from shared.setup.doctor import check as examine
    from shared.setup.doctor import failed, render

    findings = [*examine(), *weights_found()]
    print(render(findings))
    if failed(findings):
        raise UserError("something that is needed is missing; see the table")


def _delete(folder: Path) -> None:
    """Delete a folder; where it is a link to one, what that holds. UserError where something stays."""
    target = folder.resolve()
    try:
        if target.exists():
            shutil.rmtree(target)
        if folder.is_symlink():
            target.mkdir()
    except OSError as error:
        raise UserError(
            f"{error.filename or target}: cannot be deleted: {error.strerror or error}"
        ) from None


@command(json=False, log=False, help={"releases": "the releases and families in models/ as well"})
def clean(c: Context, releases: bool = False) -> None:
    """Delete build/ (everything in it can be made again); never touches merged weights."""
    from shared.olive.family_record import RECORD

    if not paths.domains().is_dir():
        raise UserError(
            f"{paths.root()}: has no domains/ and so is no root of ours; nothing was deleted"
        )
    _delete(paths.build())
    print(f"deleted {paths.shown(paths.build())}/ in {paths.root()}")
    if releases:
        families = (told.parent for told in paths.root().glob(f"models/families/*/{RECORD}"))
        for folder in sorted({*paths.root().glob("models/*/webgpu"), *families}):
            if folder.is_symlink():
                target = folder.readlink()
                folder.unlink()
                print(f"unlinked {paths.shown(folder)}; {target} stays")
            else:
                _delete(folder)
                print(f"deleted {paths.shown(folder)}/")


@command(
    json=False,
    log=False,
    help={"fast": "leave out the slow tests (real model, real browser)", "k": "pytest's -k"},
)
def test(c: Context, fast: bool = False, k: str = "") -> None:
    """Run the tests: unit tests, then the embedded model and a real browser end to end."""
    words = ["pytest", "-n", str(os.cpu_count() or 1), "--dist", "loadfile"]
    words += [
        "--no-loadscope-reorder",
        *(["-m", "'not slow'"] if fast else []),
        *(["-k", f"'{k}'"] if k else []),
    ]
    with c.cd(str(paths.REPOSITORY)):
        if not c.run(PYTHON + " ".join(words), warn=True):
            raise Exit(code=1)


@command(json=False, log=False)
def readme(c: Context) -> None:
    """Renew the command output that README.md shows; the tests check that it is current."""
    from shared.cli.readme import renew

    for words in renew():
        print(words)


@command(json=False, log=False)
def lint(c: Context) -> None:
    """Run ruff and mypy, and refuse any file over 400 lines."""
    with c.cd(str(paths.REPOSITORY)):
        for words in ("ruff check .", "ruff format --check .", "mypy"):
            if not c.run(PYTHON + words, warn=True):
                raise Exit(code=1)
        tracked = c.run("git ls-files '*.py' '*.js' '*.html' '*.css' inv", hide=True).stdout
    for name in tracked.split():
        if len((paths.REPOSITORY / name).read_text(encoding="utf-8").splitlines()) > 400:
            raise UserError(f"{name}: over 400 lines")
