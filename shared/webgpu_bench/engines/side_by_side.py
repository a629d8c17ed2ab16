"""Engines side by side on one machine: each row measured, or the reason why not.

>>> rows = side_by_side(benched, parse_engines("all"))
>>> [(row.engine, row.reason) for row in rows][-1]
('wllama', 'there is no GGUF of this model to give to wllama')

The WebGPU row of the bench stage is taken as it is; every other engine gets the same questions and is
a stage of its own, so that what is measured is not measured again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from shared.base.errors import RungFailed, UserError
from shared.base.hashing import sha256_json
from shared.base.manifest import Strict, tool_versions
from shared.base.parsing import nearest
from shared.base.progress import say
from shared.base.stage import Plan, Produced, run_stage
from shared.setup.browser import Browser, find_browser, find_firefox, firefox_version
from shared.webgpu_bench.driver import has_gpu
from shared.webgpu_bench.engines import firefox, in_browser, native, native_webgpu
from shared.webgpu_bench.engines.job import EngineRun, Job, of_browser
from shared.webgpu_bench.engines.questions import Asked, Benched, asked_of, gguf_of
from shared.webgpu_bench.result import BrowserResult
from shared.webgpu_bench.server import PAGE_CODE
from shared.webgpu_bench.speed import Figure, figures

ENGINES: dict[str, Callable[[Job], EngineRun]] = {
    "webgpu-q4f16": in_browser.webgpu,
    "webgpu-q4": in_browser.webgpu,
    "wasm": in_browser.wasm,
    "native": native.run,
    "native-webgpu": native_webgpu.run,
    "wllama": in_browser.wllama,
    "firefox": firefox.run,
}
ENGINE_SECONDS = 60.0
FILE = "engine.json"
ON_CPU = ("wasm", "native", "wllama")


class Row(Strict):
    """One engine of one domain. Without a `run` there is a `reason`.

    `same_ids`: how many of the first greedy tokens of the domain's own question are those of the
    reference, "4 of 4"; the reference is the bench stage's WebGPU run.
    """

    domain: str
    rung: str
    engine: str
    run: EngineRun | None = None
    reason: str | None = None
    same_ids: str = ""
    notes: list[str] = Field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        return figures(self.run.runs) if self.run else []


def parse_engines(text: str) -> list[str]:
    """ "all", or names with commas; UserError with the nearest name. Empty: none beside the bench."""
    if text.strip() == "all":
        return list(ENGINES)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ENGINES:
            raise UserError(f"--engines: no engine {name!r}; {nearest(name, list(ENGINES))}")
    return names


def side_by_side(benched: Benched, names: list[str], *, force: bool = False) -> list[Row]:
    """The bench's own row first, then the others in the order of ENGINES."""
    own = bench_row(benched)
    others = [name for name in ENGINES if name in names and name != own.engine]
    if not others:
        return [own]
    in_software = own.run is not None and own.run.software_adapter
    asked = asked_of(benched.domain, benched.package, hardware=has_gpu() and not in_software)
    browser = find_browser()
    rows = [_row(benched, name, asked, browser, force) for name in others]
    return [_compared(row, own) for row in (own, *rows)]


def bench_row(benched: Benched) -> Row:
    """What the bench stage found, as an engine's row."""
    bench, facts = benched.bench, benched.bench.manifest.facts
    path = bench.folder / "browser.json"
    if not path.is_file():
        why = bench.manifest.measurements["loads"].reason or "the browser did not run"
        return _new_row(benched, "webgpu", reason=why)
    result = BrowserResult.model_validate_json(path.read_bytes())
    name = f"webgpu-{result.dtype}" if result.dtype else "webgpu"
    try:
        run = of_browser(result, str(facts.get("browser", "")), list(facts.get("flags", [])))
    except RungFailed as error:
        return _new_row(benched, name, reason=str(error))
    return _new_row(benched, name, run=run)


def _new_row(benched: Benched, engine: str, **more: Any) -> Row:
    return Row(domain=benched.domain.name, rung=benched.rung.name, engine=engine, **more)


def _row(benched: Benched, name: str, asked: Asked, browser: Browser | None, force: bool) -> Row:
    say(f"      {name}")
    try:
        return _new_row(benched, name, run=_measured(benched, name, asked, browser, force))
    except UserError as error:
        say(f"      not measured: {error}")
        return _new_row(benched, name, reason=str(error))


def _job(benched: Benched, name: str, asked: Asked, browser: Browser | None) -> Job:
    half = name == "webgpu-q4f16" or (name == "native-webgpu" and has_gpu())
    return Job(
        package=benched.package.folder,
        questions=asked.on_cpu if name in ON_CPU else asked.on_webgpu,
        seconds=ENGINE_SECONDS,
        context=asked.context,
        hardware=has_gpu() if name == "native-webgpu" else asked.hardware,
        dtype="q4f16" if half else "q4",
        browser=browser,
        gguf=gguf_of(benched.rung.source) if name == "wllama" else None,
    )


def _measured(
    benched: Benched, name: str, asked: Asked, browser: Browser | None, force: bool
) -> EngineRun:
    """A stage of its own; a failure is not remembered, another run may fare better."""
    job = _job(benched, name, asked, browser)
    plan = Plan(
        "engines",
        inputs={"package": benched.package.manifest.key},
        settings={
            "engine": name,
            "dtype": job.dtype,
            "questions": sha256_json(job.questions),
            "seconds": job.seconds,
            "browser": browser.version if browser else None,
            "hardware": job.hardware,
            "gpu": benched.bench.manifest.settings.get("gpu"),
            "firefox": _firefox() if name == "firefox" else None,
        },
        tools=tool_versions("onnxruntime", "onnxruntime-genai", "transformers"),
        code=(__name__, *PAGE_CODE),
    )

    def produce(work: Path) -> Produced:
        busy = psutil.cpu_percent(interval=1)
        found = ENGINES[name](job).model_copy(update={"busy_percent": busy})
        if not found.runs:
            raise RungFailed("no question was answered within its time")
        (work / FILE).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return Produced(facts={"runtime": found.runtime, "where": found.where})

    done = run_stage(plan, produce, force=force)
    return EngineRun.model_validate_json((done.folder / FILE).read_bytes())


def _firefox() -> str:
    found = find_firefox()
    return firefox_version(found) if found else ""


def _compared(row: Row, own: Row) -> Row:
    ours, theirs = _first_ids(own), _first_ids(row)
    if row is own or not ours or not theirs:
        return row
    length = min(len(ours), len(theirs))
    pairs = zip(ours, theirs, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), length)
    return row.model_copy(update={"same_ids": f"{same} of {length}"})


def _first_ids(row: Row) -> list[int]:
    """The greedy tokens of the domain's own question."""
    runs = row.run.runs if row.run else []
    return next((r.output_ids for r in runs if r.id == "run-0"), [])
