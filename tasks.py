"""The commands. Each is a few lines: parse, call, print; what they do stands in shared/pipeline.py."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke import Context, Exit, task

from shared import paths
from shared.errors import UserError

for name, value in {
    "OLIVE_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)

PYTHON = f"{sys.executable} -m "

DOMAIN = {"domain": "the folder in domains/ to work on"}
RUNGS = {
    "rung": "try this rung of fallback.toml only",
    "force": "do everything again, even what has not changed",
}
RECORDS = {
    "records": "how many held-out records to answer: a number, or 'all'",
    "records_file": "answer the records of this JSONL file instead of the domain's own",
}
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


def command(body: Callable[..., None]) -> Callable[..., None]:
    """What a person can act on is printed as one sentence with exit code 1; Ctrl-C leaves with 130."""

    @functools.wraps(body)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            body(*args, **kwargs)
        except UserError as error:
            raise Exit(f"error: {error}", code=1) from None
        except OSError as error:  # a full disk, a folder that may not be written
            place = f": {error.filename}" if error.filename else ""
            raise Exit(f"error: {error.strerror or error}{place}", code=1) from None
        except KeyboardInterrupt:
            raise Exit("interrupted; run the same command again to go on", code=130) from None

    return wrapped


def _options(
    until: str, rung: str, force: bool, records: str = "", file: str = "", keep_onnx: bool = False
) -> Any:
    from shared.rung_run import Options

    path = Path(file).expanduser() if file else None
    return Options(rung or None, records or None, path, force, keep_onnx, until)  # type: ignore[arg-type]


def _publishing(
    publish: bool, org: str = "", private: bool = False, overwrite: bool = False
) -> Any:
    from shared.pipeline import PublishOptions

    return PublishOptions(org or None, private, overwrite) if publish else None


def _rehash(wanted: bool) -> None:
    from shared.hashing import forget

    if wanted:
        forget()


def _finish(result: Any) -> None:
    from shared.report import summary

    print(summary(result))
    if not result.ok:
        raise UserError(result.error)


@task(help=DOMAIN | RUNGS | RECORDS | PUBLISH | KEEP | REHASH)
@command
def release(
    c: Context,
    domain: str,
    rung: str = "",
    records: str = "",
    records_file: str = "",
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
    options = _options("gates", rung, force, records, records_file, keep_onnx)
    _finish(release_domain(domain, options, publish=_publishing(publish)))


@task(help=RUNGS | RECORDS | PUBLISH | WHERE | MANY | REHASH)
@command
def release_all(
    c: Context,
    rung: str = "",
    records: str = "",
    records_file: str = "",
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
    from shared.pipeline import release_all as run
    from shared.report import overview
    from shared.units import parse_bytes

    _rehash(rehash)
    options = _options("gates", rung, force, records, records_file)
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

    _finish(run_until(domain, _options("package", rung, force, keep_onnx=keep_onnx)))


@task(help=DOMAIN | RUNGS | {"records_file": "the text of this JSONL file's records instead"})
@command
def fidelity(
    c: Context, domain: str, rung: str = "", records_file: str = "", force: bool = False
) -> None:
    """Hold the 4-bit model against its 16-bit parent on held-out text, token by token."""
    from shared.card.fidelity import fidelity_note, fidelity_table
    from shared.pipeline import run_until
    from shared.report import TERMINAL

    result = run_until(domain, _options("fidelity", rung, force, "", records_file))
    if result.walk and "fidelity" in result.walk.done:
        manifest = result.walk.manifests["fidelity"]
        print(fidelity_table(manifest.measurements, TERMINAL))
        print(fidelity_note(manifest.facts))
    _finish(result)


@task(help=DOMAIN | RUNGS | RECORDS)
@command
def check(
    c: Context,
    domain: str,
    rung: str = "",
    records: str = "",
    records_file: str = "",
    force: bool = False,
) -> None:
    """Let onnxruntime-genai answer held-out records on the CPU, and measure the answers."""
    from shared.card.tables import measurements_table
    from shared.pipeline import run_until
    from shared.report import TERMINAL

    result = run_until(domain, _options("check", rung, force, records, records_file))
    if result.walk and "check" in result.walk.done:
        found = result.walk.manifests["check"].measurements
        print(measurements_table(found, {name: name for name in found}, TERMINAL))
    _finish(result)


@task(help=DOMAIN | RUNGS)
@command
def bench(c: Context, domain: str, rung: str = "", force: bool = False) -> None:
    """Load the model in a real browser on WebGPU; measure it and compare its tokens with the CPU."""
    from shared.card.tables import measurements_table
    from shared.pipeline import run_until
    from shared.report import TERMINAL

    result = run_until(domain, _options("bench", rung, force))
    if result.walk and "bench" in result.walk.done:
        found = result.walk.manifests["bench"].measurements
        print(measurements_table(found, {name: name for name in found}, TERMINAL))
    _finish(result)


@task(help=RUNGS)
@command
def bench_all(c: Context, rung: str = "", force: bool = False) -> None:
    """Bench every domain and write one comparison table to build/reports/ (md, csv, json)."""
    from shared.domain import domain_names
    from shared.pipeline import run_until
    from shared.report import comparison, write_comparison

    results = [run_until(name, _options("bench", rung, force)) for name in domain_names()]
    print(comparison(results))
    print("* software adapter: says nothing about a GPU")
    for path in write_comparison(results):
        print(paths.shown(path))
    if not all(result.ok for result in results):
        raise UserError("; ".join(result.error or "" for result in results if not result.ok))


@task(
    help=DOMAIN
    | {
        "budget": "the most bytes a build may have, like 2GB",
        "rung": "tune for this rung's model; default: the first",
        "recipes": "only these, separated by commas: names in shared/tune/recipes.json",
        "tokens": "held-out tokens that each build and its parent are compared on",
        "records": "let the best three answer so many held-out records, and compare their scores",
        "records_file": "measure on the records of this JSONL file instead of the domain's own",
        "document": "renew this rung's table in a Markdown file, like docs/recipes.md",
        "write": "put the chosen recipe into the domain's olive.json",
    }
)
@command
def tune(
    c: Context,
    domain: str,
    budget: str = "2GB",
    rung: str = "",
    recipes: str = "",
    tokens: int = 4096,
    records: int = 0,
    records_file: str = "",
    document: str = "",
    write: bool = False,
) -> None:
    """Build a domain's model by every recipe, measure each against its parent, choose the best.

    The best is the one with the lowest KL divergence within the budget and within 5 % of the fastest
    one's decode speed. Calibration reads calibration.jsonl alone; a record of it that is also
    measured is an error. What was built or measured before is not redone, so a run that was cut short
    goes on. Table, plot and figures go to build/reports/; docs/recipes.md explains the recipes.
    """
    from shared.report import TERMINAL
    from shared.tune.report import put_into, render
    from shared.tune.report import write as write_report
    from shared.tune.run import Settings, write_choice
    from shared.tune.run import tune as run
    from shared.units import parse_bytes

    file = Path(records_file).expanduser() if records_file else None
    settings = Settings(parse_bytes(budget, "--budget"), tokens, records, file)
    found = run(domain, settings, rung=rung, only=recipes)
    print(render(found, TERMINAL))
    for path in write_report(found):
        print(paths.shown(path))
    if document:
        put_into(Path(document).expanduser(), found)
    if write:
        write_choice(found)


@task(help={"arch": "smollm3, phi3 or qwen2.5"})
@command
def bench_build(c: Context, arch: str) -> None:
    """Build a full-size random model beside the stock toolchain; bytes, seconds, memory.

    Needs about 15 GB of disk, and 24 GB of memory for the stock toolchain.
    """
    from benchmarks.build import bench_build as run
    from benchmarks.build import render
    from shared.report import TERMINAL

    print(render(run(arch), TERMINAL))


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
    from shared.release import CARD_FILE, read_release, release_folder

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
    from shared.pipeline import plan_publication, publish_release

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
    from shared.pipeline import publish_collection as run

    url, names = run(org or None)
    print("\n".join([url, *(f"  {name}" for name in names)]))


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


@task(
    help={
        "domain": "only this domain's release",
        "port": "0 takes a free one",
        "open_browser": "open the page in your browser",
    }
)
@command
def serve(c: Context, domain: str = "", port: int = 0, open_browser: bool = False) -> None:
    """Open a page on 127.0.0.1 where a person can try the released models."""
    from shared.domain import domain_names, load_domain
    from shared.release import read_release, release_folder
    from shared.webgpu_bench.driver import serve_page

    wanted = [load_domain(domain).name] if domain else domain_names()
    if domain:
        read_release(release_folder(domain))
    found = {n: release_folder(n) for n in wanted if release_folder(n).is_dir()}
    if not found:
        raise UserError("nothing is released yet; run `./inv release --domain <name>` first")
    serve_page(found, port=port, open_browser=open_browser)


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
