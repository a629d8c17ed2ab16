"""The commands. Each is a few lines: parse, call, print; what they do stands in shared/pipeline.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from invoke import Context, Exit, task

from shared import paths
from shared.commands import DOMAIN, RECORDS, RUNGS, SYSTEMS, chain_options, command, finish
from shared.environment import set_variables
from shared.errors import UserError
from shared.evaluate.tasks import check, compare, fidelity, show  # noqa: F401 - taken in
from shared.tune.tasks import tune  # noqa: F401 - taken in
from shared.webgpu_bench.tasks import bench, bench_all, preflight, serve  # noqa: F401 - taken in

set_variables()

PYTHON = f"{sys.executable} -m "

KEEP = {"keep_onnx": "keep the optimum recipe's full-precision ONNX in models/<domain>/onnx"}
PUBLISH = {"publish": "upload to the Hub afterwards"}
WHERE = {
    "org": "the Hub organisation, in place of fallback.toml's and DOCINTEL_HUB_ORG",
    "private": "make a new repository private; refused where a public one is there",
    "overwrite": "replace what others changed on main since the last release",
}
REHASH = {"rehash": "read all weights again instead of trusting size, time and inode"}
MANY = {
    "jobs": "how many domains are worked on at once",
    "memory_budget": "what they may take together, like 16GB; default: what is available",
    "scheduler": "tcp://… of a Dask cluster that runs them instead",
}


def _publishing(
    publish: bool, org: str = "", private: bool = False, overwrite: bool = False
) -> Any:
    from shared.publication import PublishOptions

    return PublishOptions(org or None, private, overwrite) if publish else None


def _rehash(wanted: bool) -> None:
    from shared.hashing import forget

    if wanted:
        forget()


@task(help=DOMAIN | RUNGS | RECORDS | SYSTEMS | PUBLISH | KEEP | REHASH)
@command
def release(
    c: Context,
    domain: str,
    rung: str = "",
    records: str = "",
    records_file: str = "",
    systems: str = "",
    constrained: str = "",
    publish: bool = False,
    keep_onnx: bool = False,
    force: bool = False,
    rehash: bool = False,
) -> None:
    """Take a domain from merged weights to models/<domain>/webgpu, measured and with its card.

    Tries the rungs of domains/<domain>/fallback.toml in order. What has not changed is not done
    again; a run that was killed goes on where it stopped.
    """
    from shared.pipeline import release_domain

    _rehash(rehash)
    answers = {"records": records, "systems": systems, "constrained": constrained}
    options = chain_options("gates", rung, force, records_file, keep_onnx=keep_onnx, **answers)
    finish(release_domain(domain, options, publish=_publishing(publish)))


@task(help=RUNGS | RECORDS | SYSTEMS | PUBLISH | WHERE | MANY | REHASH)
@command
def release_all(
    c: Context,
    rung: str = "",
    records: str = "",
    records_file: str = "",
    systems: str = "",
    constrained: str = "",
    publish: bool = False,
    org: str = "",
    private: bool = False,
    overwrite: bool = False,
    force: bool = False,
    jobs: int = 1,
    memory_budget: str = "",
    scheduler: str = "",
    rehash: bool = False,
) -> None:
    """Release every domain; one that fails does not stop the others, the exit code tells.

    With --jobs or --scheduler several at once, browser stages one at a time; same results.
    """
    from shared.report import overview
    from shared.schedule.run import release_all as run
    from shared.units import parse_bytes

    _rehash(rehash)
    answers = {"records": records, "systems": systems, "constrained": constrained}
    options = chain_options("gates", rung, force, records_file, **answers)
    memory = parse_bytes(memory_budget, "--memory-budget") if memory_budget else None
    wanted = _publishing(publish, org, private, overwrite)
    results = run(options, publish=wanted, jobs=jobs, memory=memory, scheduler=scheduler or None)
    print(overview(results))
    if not all(result.ok for result in results):
        done = "released and published" if publish else "released"
        raise UserError(f"not every domain was {done}; see the table")


@task(help=DOMAIN | RUNGS | KEEP)
@command
def build(
    c: Context, domain: str, rung: str = "", keep_onnx: bool = False, force: bool = False
) -> None:
    """Build and package a domain's model: 4-bit ONNX for WebGPU in Transformers.js's layout."""
    from shared.pipeline import run_until

    finish(run_until(domain, chain_options("package", rung, force, keep_onnx=keep_onnx)))


@task(
    help={
        "arch": "smollm3, phi3 or qwen2.5",
        "calibrated": "only ours, calibrated as a release is built: up to an hour",
        "feedback_free": "only ours, in a release's format but without calibration: the same bytes",
    }
)
@command
def bench_build(
    c: Context, arch: str, calibrated: bool = False, feedback_free: bool = False
) -> None:
    """Build a full-size random model beside the stock tools; bytes, seconds, memory.

    Needs about 20 GB of disk, and 24 GB of memory for the stock tools.
    """
    from benchmarks.build import bench_build as run
    from benchmarks.build import bench_calibrated
    from benchmarks.build_report import render
    from shared.report import TERMINAL

    if calibrated or feedback_free:
        builds = bench_calibrated(arch, feedback_free=feedback_free)
    else:
        builds = run(arch)
    print(render(builds, TERMINAL))


@task(help={"domains": "how many domains, like 1,2,4,8,16"})
@command
def bench_scaling(c: Context, domains: str = "1,2,4,8,16") -> None:
    """Measure release-all over many small domains, in turn, in parallel and on a cluster."""
    from benchmarks.scaling import DOCUMENT
    from benchmarks.scaling import bench_scaling as run

    counts = domains.split(",")
    if not all(count.isdigit() and int(count) for count in counts):
        raise UserError(f"--domains: numbers like 1,2,4 are wanted, not {domains!r}")
    run(tuple(map(int, counts)))
    print(paths.shown(DOCUMENT))


@task(help=DOMAIN)
@command
def card(c: Context, domain: str) -> None:
    """Print the model card of the present release."""
    from shared.release_model import CARD_FILE, read_release, release_folder

    read_release(release_folder(domain))
    print((release_folder(domain) / CARD_FILE).read_text(encoding="utf-8"))


@task(help=DOMAIN | WHERE | {"dry_run": "show what would be done, and write nothing"})
@command
def publish(
    c: Context,
    domain: str,
    dry_run: bool = False,
    org: str = "",
    private: bool = False,
    overwrite: bool = False,
) -> None:
    """Make the Hub's main equal to models/<domain>/webgpu, wholly or not at all; tag it v<N>.

    The files are staged in a pull request, read back there, and merged; until then main shows the
    old release. A run that died goes on where it stopped; what the Hub has is not sent again.
    The token is found where huggingface_hub finds it: HF_TOKEN, or `hf auth login`.
    """
    from shared.domain import load_domain
    from shared.hub.table import plan_table
    from shared.publication import plan_publication, publish_release

    options = _publishing(True, org, private, overwrite)
    if dry_run:
        plan = plan_publication(load_domain(domain), options)
        print(plan_table(plan))
        if plan.against:
            raise UserError(plan.against)
        return
    done = publish_release(load_domain(domain), options)
    print(f"{done.url} {done.release_version} at {done.revision}")


@task(help={"org": "the owner of the collection, and of the models in it"})
@command
def publish_collection(c: Context, org: str = "") -> None:
    """Put every model that was published from here into one collection on the Hub.

    Safe to run again: what is in it stays, and each model's note names its newest version.
    """
    from shared.publication import publish_collection as run

    url, names = run(org or None)
    print("\n".join([url, *(f"  {name}" for name in names)]))


@task(
    positional=["what"],
    help={
        "what": "a release folder, or org/name[@commit or tag] on the Hub",
        "public_key": "the publisher's public key (PEM), to check who signed it",
    },
)
@command
def verify(c: Context, what: str, public_key: str = "") -> None:
    """Check a release as a stranger: hashes, figures, signature, and that it loads.

    Needs neither the merged weights nor a GPU. One line a check: ✓ holds, ✗ does not, – not checked.
    """
    from shared.verify.report import verify as run

    failed = 0
    for line in run(what, public_key=Path(public_key).expanduser() if public_key else None):
        print(line, flush=True)
        failed += line.ok is False
    if failed:
        raise UserError(f"{what}: {failed} check{'s' * (failed > 1)} did not hold; see ✗ above")


@task
@command
def domains(c: Context) -> None:
    """List the domains, their rungs, and how many held-out records they have."""
    from shared.card.tables import table
    from shared.domain import domain_names, load_domain
    from shared.report import TERMINAL

    rows = [
        (d.name, str(len(d.records)), " → ".join(rung.name for rung in d.chain.rung))
        for d in map(load_domain, domain_names())
    ]
    print(table(("domain", "records", "rungs"), rows, TERMINAL))


@task(help={"domain": "only this one"})
@command
def status(c: Context, domain: str = "") -> None:
    """Show the acceptance list of every domain: done, failed or not measured."""
    from shared.domain import load_domain
    from shared.report import status as report

    print(report([load_domain(domain).name] if domain else None))


@task
@command
def doctor(c: Context) -> None:
    """Say what is installed, what is missing, and the command that mends it."""
    from shared.setup.doctor import check as examine
    from shared.setup.doctor import failed, render

    findings = examine()
    print(render(findings))
    if failed(findings):
        raise UserError("something that is needed is missing; see the table")


@task(help={"releases": "the release folders in models/ as well"})
@command
def clean(c: Context, releases: bool = False) -> None:
    """Delete build/ (everything in it can be made again); never touches merged weights."""
    shutil.rmtree(paths.build(), ignore_errors=True)
    print(f"deleted {paths.shown(paths.build())}/")
    if releases:
        for folder in sorted(paths.root().glob("models/*/webgpu")):
            shutil.rmtree(folder)
            print(f"deleted {paths.shown(folder)}/")


@task(help={"fast": "leave out the slow tests (real model, real browser)", "k": "pytest's -k"})
@command
def test(c: Context, fast: bool = False, k: str = "") -> None:
    """Run the tests: unit tests, then the embedded model and a real browser end to end."""
    words = ["pytest", *(["-m", "'not slow'"] if fast else []), *(["-k", f"'{k}'"] if k else [])]
    if not c.run(PYTHON + " ".join(words), warn=True):
        raise Exit(code=1)


@task
@command
def readme(c: Context) -> None:
    """Renew the command output that README.md shows; the tests check that it is current."""
    from shared.readme import renew

    for words in renew():
        print(words)


@task
@command
def lint(c: Context) -> None:
    """Run ruff and mypy, and refuse any file over 400 lines."""
    for words in ("ruff check .", "ruff format --check .", "mypy"):
        if not c.run(PYTHON + words, warn=True):
            raise Exit(code=1)
    tracked = c.run("git ls-files '*.py' '*.js' '*.html' '*.css' inv", hide=True).stdout.split()
    for name in tracked:
        if len(Path(name).read_text(encoding="utf-8").splitlines()) > 400:
            raise UserError(f"{name}: over 400 lines")
