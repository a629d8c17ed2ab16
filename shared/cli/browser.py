"""The commands of the browser: bench, bench-all, preflight, serve, site. tasks.py takes them in."""

from dataclasses import replace
from pathlib import Path

from invoke import Context

from shared.base import paths
from shared.base.errors import UserError
from shared.cli.options import (
    CALIBRATION,
    DOMAIN,
    RUNGS,
    chain_options,
    chosen_domains,
    command,
    finish,
    several,
)

ENGINES = {
    "engines": "measure beside WebGPU: all, or some of webgpu-q4f16,webgpu-q4,wasm,native,"
    "native-webgpu,wllama,firefox",
}
GPU = {
    "gpu_budget": "refuse WebGPU buffers past this many bytes, like 8GB or 512MiB",
    "profile": "load once more and time every kernel of a prompt and of a token",
}
FAMILY = {"family": "a family's folder, or hf:org/name@commit; several with commas between them"}

USUAL_PORT = 8642
"""Of `serve`: under one address a browser finds what it kept before."""


@command(
    help=DOMAIN
    | RUNGS
    | CALIBRATION
    | GPU
    | ENGINES
    | {"browser": "firefox: the same page in Firefox as well"}
)
def bench(
    c: Context,
    domain: str,
    rung: str = "",
    engines: str = "",
    browser: str = "",
    gpu_budget: str = "",
    profile: bool = False,
    force: bool = False,
    calibration: str = "",
) -> None:
    """Load the model in a real browser on WebGPU; measure it and compare it with the CPU.

    Held-out text read on both, where each node ran, prefill of 128, 512 and 2048 tokens, decode of 64
    with 0, 512 and 2048 in the cache; a few tokens on a software adapter. Raw samples go to
    build/reports/ (md, csv, json, jsonl).
    """
    from shared.base.formatting import parse_bytes
    from shared.base.tables import measurements_table
    from shared.cli.summary import TERMINAL
    from shared.pipeline.one_domain import benched, run_until
    from shared.webgpu_bench.kernels import kernels_of
    from shared.webgpu_bench.report.bench import bench_report, chosen_engines

    names = chosen_engines(engines, browser)
    if gpu_budget:
        parse_bytes(gpu_budget, "--gpu-budget")
    asked = replace(
        chain_options("bench", rung, force, calibration=calibration),
        gpu_budget=gpu_budget or None,
        profile=profile,
    )
    result = run_until(domain, asked)
    if result.chain and "bench" in result.chain.stages:
        found = result.chain.manifests["bench"].measurements
        print(measurements_table(found, {name: name for name in found}, TERMINAL))
        if profile:
            print(kernels_of(result.chain.stages["bench"].folder))
        print(bench_report(benched([result]), names, f"bench-{domain}", force=force))
    finish(result)


@command(help=RUNGS | ENGINES)
def bench_all(c: Context, rung: str = "", engines: str = "", force: bool = False) -> None:
    """Bench every domain: one comparison table, and build/reports/bench-all.html to look at."""
    from shared.cli.summary import comparison, overview, write_comparison
    from shared.domain.domain import domain_names
    from shared.pipeline.one_domain import benched, run_until
    from shared.pipeline.quality import quality_of
    from shared.webgpu_bench.report.bench import bench_report, chosen_engines

    names = chosen_engines(engines)
    results = [run_until(name, chain_options("bench", rung, force)) for name in domain_names()]
    print(overview(results))
    failed = UserError("; ".join(result.error or "" for result in results if not result.ok))
    if not benched(results):
        raise failed  # an earlier run's reports stay
    print(comparison(results))
    print("* software adapter: says nothing about a GPU")
    for path in write_comparison(results):
        print(paths.shown(path))
    print(
        bench_report(
            benched(results),
            names,
            "bench-all-engines",
            html="bench-all.html",
            quality=[quality_of(name) for name in domain_names()],
            force=force,
        )
    )
    if not all(result.ok for result in results):
        raise failed


@command(
    help={
        "domain": "its release; without one the package of its first rung, built if it is not yet",
        "folder": "another package's or release's folder",
        "architectures": "three full-size models instead; renews docs/preflight.md",
    }
)
def preflight(c: Context, domain: str = "", folder: str = "", architectures: bool = False) -> None:
    """Say, without a browser, on which classes of device a model will load, and in which type."""
    from shared.cli.summary import TERMINAL
    from shared.pipeline.one_domain import package_of
    from shared.webgpu_bench.preflight import package_footprints, preflight_table
    from shared.webgpu_bench.preflight import preflight as run

    if sum(map(bool, (domain, folder, architectures))) > 1:
        raise UserError("--domain, --folder or --architectures: only one of them")
    if architectures:
        from benchmarks.preflight import write_document

        print(paths.shown(write_document()))
        return
    print(preflight_table(run(package_footprints(package_of(domain, folder))), TERMINAL))


@command(
    json=False,
    log=False,
    help={
        "domain": "only this domain's release",
        **FAMILY,
        "port": f"default: {USUAL_PORT}, or a free one where that is taken; 0 takes a free one",
        "open_browser": "open the page in your browser",
    },
)
def serve(
    c: Context,
    domain: str = "",
    family: str = "",
    port: int = USUAL_PORT,
    open_browser: bool = False,
) -> None:
    """Open a page on 127.0.0.1 where a person can try the released models."""
    from shared.domain.domain import domain_names, load_domain
    from shared.pipeline.site import located
    from shared.release.model import own_release, release_folder
    from shared.webgpu_bench.driver import serve_page
    from shared.webgpu_bench.model_list import HUB
    from shared.webgpu_bench.server import free_or_any

    wanted = [load_domain(domain).name] if domain else domain_names()
    if domain:
        own_release(domain)
    found = {n: release_folder(n) for n in wanted if release_folder(n).is_dir()}
    families = located(several(family))
    if both := sorted(found.keys() & {one.name for one in families}):
        raise UserError(
            f"--family: {both[0]} is a domain's name too; a page tells models apart by it"
        )
    found |= {one.name: one.folder for one in families if not one.revision}
    away = [one for one in families if one.revision]
    if not found and not away:
        raise UserError("nothing is released yet; run `./inv release --domain <name>` first")
    more = [entry for one in away for entry in one.entries()]
    hub = away[0].hub if away else HUB
    port = free_or_any(port) if port == USUAL_PORT else port
    serve_page(found, port=port, open_browser=open_browser, more=more, hub=hub)


@command(
    help={
        "out": "the folder to write; one that holds a site already is replaced",
        "domain": "a domain, several with commas between them, or all that are released",
        **FAMILY,
        "hub": "name the models by their Hub repositories instead of copying them",
    }
)
def site(c: Context, out: str, domain: str = "all", family: str = "", hub: bool = False) -> None:
    """Write the page with released models as a folder that any static web host serves.

    It works under any path; a second visit works offline. Its README.md is that of a static Hugging
    Face Space. The page needs HTTPS, or localhost.
    """
    from shared.base.formatting import number
    from shared.base.tables import table
    from shared.cli.summary import TERMINAL
    from shared.domain.domain import domain_names
    from shared.pipeline.site import write_site
    from shared.release.model import release_folder

    released = [name for name in domain_names() if release_folder(name).is_dir()]
    families = several(family)
    names = chosen_domains(domain, released)
    if not names and not families:
        raise UserError("nothing is released yet; run `./inv release --domain <name>` first")
    placed = write_site(Path(out).expanduser(), names, families=families, hub=hub)
    rows = [(one.domain, one.base, one.where, number(one.bytes, "B")) for one in placed]
    print(table(("domain", "base", "where", "in the site"), rows, TERMINAL))
    for one in placed:
        if one.not_publishable_because:
            print(f"{one.domain} is not to be published: {one.not_publishable_because}")
    print(f"to look at: python -m http.server --bind 127.0.0.1 --directory {out}")
