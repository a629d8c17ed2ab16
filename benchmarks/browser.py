"""`python -m benchmarks.browser`: what `./inv bench` shows here, written to docs/browser-measured.md.

The embedded model in Chromium with its proofs and the time of each kernel; q4f16 in Firefox, whose
adapter has shader-f16 even in software, on the parity gate's own text; all engines side by side.
`--quick` leaves out the profiled run and the engines, which take as long again.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.errors import RungFailed, UserError
from shared.base.files import write_text
from shared.base.manifest import Measurement
from shared.base.progress import say
from shared.base.tables import measurements_table
from shared.pipeline.one_domain import benched, run_until
from shared.pipeline.stages import Options
from shared.release.card.tables import gates_table
from shared.release.model import ChainResult
from shared.setup.browser import INSTALL_FIREFOX, find_firefox, firefox_version
from shared.webgpu_bench import parity
from shared.webgpu_bench.engines.questions import Benched
from shared.webgpu_bench.engines.side_by_side import parse_engines, side_by_side
from shared.webgpu_bench.firefox import run_in_firefox
from shared.webgpu_bench.kernels import kernels_of
from shared.webgpu_bench.measurements import describe
from shared.webgpu_bench.report.tables import SOFTWARE_NOTE, busy_note, engines_table
from shared.webgpu_bench.request import Profile, make_request

DOCUMENT = paths.REPOSITORY / "docs" / "browser-measured.md"
DOMAIN, RUNG = "legal", "embedded"
FIREFOX_SECONDS = 400
HEAD = """# In the browser, measured

Written by `python -m benchmarks.browser` on {taken}: the embedded model, domain `{domain}`, on
{cores} cores ({machine}), load {load:.1f} at the start. What each part proves stands in
[browser.md](browser.md).
"""

LEFT_OUT = (
    "Not measured in this run (`--quick`): the time of each kernel, the engines side by side."
)


def write_document(document: Path = DOCUMENT, *, quick: bool = False) -> Path:
    """Measure it all and write the document; UserError where the bench itself did not end well."""
    head = HEAD.format(
        taken=datetime.now(UTC).date(),
        domain=DOMAIN,
        cores=os.cpu_count(),
        machine=platform.machine(),
        load=os.getloadavg()[0],
    )
    started = time.monotonic()
    result = run_until(DOMAIN, Options(rung=RUNG, until="bench", force=False))
    took = time.monotonic() - started
    if not result.chain or "bench" not in result.chain.stages:
        raise UserError(result.error or f"{DOMAIN}: the bench was not reached")
    walked = result.chain
    parts = [head, _chromium(walked, took), _firefox(walked)]
    parts += [LEFT_OUT] if quick else [_kernels(), _engines(benched([result])[0])]
    write_text(document, "\n\n".join(part.strip() for part in parts) + "\n")
    return document


def _chromium(walked: ChainResult, took: float) -> str:
    made = walked.manifests["bench"]
    adapter = made.facts["adapter"]
    names = {name: f"`{name}`" for name in made.measurements}
    return (
        f"## `./inv bench --domain {DOMAIN}`\n\n"
        f"{made.facts['browser']}; adapter {adapter['description'] or adapter['device']} "
        f"({'software' if made.facts['software_adapter'] else 'hardware'}), flags "
        f"`{' '.join(made.facts['flags'])}`. The browser and what the CPU read after it took "
        f"{made.wall_seconds:.0f} s; the command, with what was not there yet, {took:.0f} s.\n\n"
        f"{gates_table(walked.gates)}\n\n{measurements_table(made.measurements, names)}"
    )


def _kernels() -> str:
    """The same with --profile: a stage of its own, since the profiler slows what it watches."""
    head = f"## Where the time goes: `./inv bench --domain {DOMAIN} --profile`"
    result = run_until(DOMAIN, Options(rung=RUNG, until="bench", profile=True))
    if not result.chain or "bench" not in result.chain.stages:
        return f"{head}\n\nNot measured: {result.error}"
    return f"{head}\n\n{kernels_of(result.chain.stages['bench'].folder).strip()}"


def _firefox(walked: ChainResult) -> str:
    head = "## q4f16 in Firefox, on an adapter with shader-f16"
    firefox = find_firefox()
    if firefox is None:
        return f"{head}\n\nNot measured: no Firefox here ({INSTALL_FIREFOX})."
    try:
        found, told = _firefox_parity(walked, firefox)
    except RungFailed as error:
        return f"{head}\n\nNot measured: {error}"
    names = {name: f"`{name}`" for name in found}
    return f"{head}\n\n{told}\n\n{measurements_table(found, names)}"


def _firefox_parity(walked: ChainResult, firefox: Path) -> tuple[dict[str, Measurement], str]:
    """The parity gate's text read by Firefox and by the CPU on the very file it has loaded."""
    from shared.evaluate.models.chat import Chat
    from shared.evaluate.models.onnx import OnnxDecoder

    package = walked.package
    request = make_request(walked.domain, package, Chat(package), Profile.of(walked.domain, False))
    more = {"deadline_ms": FIREFOX_SECONDS * 1000, "warm_load": False}
    result = run_in_firefox(
        package,
        request.payload | more,
        firefox=firefox,
        timeout_s=FIREFOX_SECONDS + 60,
        on_progress=lambda line: say(f"      {line}"),
    )
    if result.outcome != "ok" or result.parity is None:
        raise RungFailed(f"Firefox: {result.outcome}: {result.error}")
    graph = package / "onnx" / f"model_{result.dtype}.onnx"
    compared = parity.compare(OnnxDecoder(graph, exact=True), request.rows, result.parity)
    wanted = sum(map(len, request.rows))
    where = describe(result)
    found = parity.measurements(compared, wanted, where, result.software_adapter)
    return found, f"{firefox_version(firefox)}; {where}."


def _engines(model: Benched) -> str:
    rows = side_by_side(model, parse_engines("all"))
    notes = [SOFTWARE_NOTE, busy_note(rows)]
    told = "\n\n".join(filter(None, notes))
    return f"## Engines side by side: `--engines all`\n\n{engines_table(rows)}\n\n{told}"


if __name__ == "__main__":
    set_variables()
    print(paths.shown(write_document(quick="--quick" in sys.argv[1:])))
