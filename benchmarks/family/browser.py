"""A family in one page on WebGPU: domains in turn, bytes fetched and held, and again after a reload.

The page's own modules load and switch, as for a person (page/models.js); a software adapter computes in
float32 here, so that a domain's tokens must be those of the CPU on the domain's own graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from playwright.sync_api import Page, Response

from benchmarks.family.measure import Bench
from benchmarks.family.rows import Row
from shared.base.errors import UserError
from shared.base.manifest import Measurement
from shared.base.progress import say
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.onnx import OnnxDecoder
from shared.evaluate.token_windows import prompt_end
from shared.pipeline.family import Family
from shared.setup.browser import find_browser
from shared.webgpu_bench import driver
from shared.webgpu_bench.chromium import open_page
from shared.webgpu_bench.model_list import family_entries
from shared.webgpu_bench.server import serve

NAME, DTYPE = "family", "q4"
PROMPT, MOST = 8, 2
"""A software adapter takes a quarter of a minute for every run of a graph with an adapter."""
LOAD = """async ({ entries, dtype }) => {
  const [lib, models] = [await import("/engine.js"), await import("/models.js")];
  const place = lib.place(entries[0]);
  const kept = new Map(entries.map((entry) => [entry.domain, models.keptOf(entry, place)]));
  const engine = await models.loadBase(lib, entries[0], dtype, kept.get(entries[0].domain), () => {});
  window.family = { lib, models, kept, engine, entries };
  return window.docintelGpu.live_bytes;
}"""
TURN = """async ({ domain, ids, most }) => {
  const { lib, models, kept, engine, entries } = window.family;
  const entry = entries.find((one) => one.domain === domain);
  await models.switchDomain(engine, entry, kept.get(domain), () => {});
  const held = window.docintelGpu.live_bytes;
  const run = lib.newRun(domain, ids);
  await engine.generate({ run, input_ids: ids, max_new_tokens: most, more: { min_new_tokens: most } });
  return { ids: run.output_ids, held, errors: window.docintelGpu.uncaptured_errors };
}"""


@dataclass(frozen=True)
class Turn:
    """What a step fetched from the server and what lies in GPU buffers after it; `same`: of the tokens
    that the domain wrote, how many are the CPU's."""

    what: str
    fetched: int
    held: int
    same: int | None = None


def turns_of(domains: Sequence[str]) -> tuple[str, ...]:
    """Every domain, and back to the first one."""
    return (*domains, domains[0])


def session(family: Family, prompts: dict[str, list[int]]) -> list[Turn]:
    """The steps, the last two of them after a reload; UserError where there is no browser or a GPU
    error was seen."""
    browser = find_browser()
    if browser is None:
        raise UserError("no Chrome or Chromium on this machine; `./inv doctor` says how to get one")
    fetched = list[int]()
    entries = family_entries(NAME, family.folder)
    cpu = {domain: _on_the_cpu(family, domain, ids) for domain, ids in prompts.items()}
    mounts = driver.page_mounts() | {f"/models/{NAME}": family.folder}
    with serve(mounts) as url, open_page(browser.path, hardware=False) as tab:
        page = tab.page
        page.set_default_timeout(0)
        page.on("response", lambda answer: fetched.append(_bytes(answer)))
        page.goto(f"{url}?driven")
        found = [_loaded(page, entries, fetched, "the base is loaded")]
        for domain in turns_of(list(prompts)):
            found.append(_turn(page, domain, prompts[domain], cpu[domain], fetched))
        page.reload()
        found.append(_loaded(page, entries, fetched, "the page is loaded anew, the base too"))
        domain = next(iter(prompts))
        found.append(_turn(page, domain, prompts[domain], cpu[domain], fetched))
    return found


def measure_browser(bench: Bench) -> None:
    """The steps of a session over the domains that the family was built with, a row each."""
    if any(r.part == "browser" and r.precision == bench.precision for r in bench.kept.rows):
        return
    family, prompts = bench.family(), dict[str, list[int]]()
    for name in bench.kept.calibrated:
        domain, package = bench.members[name].domain, family.packages[name]
        chat = Chat(package.folder)
        prompts[name] = prompt_end(chat, domain.prompt, domain.records[0], PROMPT)
    say("the family's domains in turn in one page")
    for number, turn in enumerate(session(family, prompts), start=1):
        fill = {"fetched": _of(turn.fetched, "B"), "held": _of(turn.held, "B")}
        if turn.same is not None:
            fill["same"] = _of(turn.same, "tokens", MOST)
        row = Row(part="browser", form=f"{number}. {turn.what}", precision=bench.precision)
        bench.keep(row, fill)


def _loaded(page: Page, entries: Any, fetched: list[int], what: str) -> Turn:
    fetched.clear()
    held = page.evaluate(LOAD, {"entries": entries, "dtype": DTYPE})
    return Turn(what, sum(fetched), held)


def _turn(page: Page, domain: str, ids: list[int], cpu: list[int], fetched: list[int]) -> Turn:
    fetched.clear()
    told = page.evaluate(TURN, {"domain": domain, "ids": ids, "most": MOST})
    if told["errors"]:
        raise UserError(f"{domain}: WebGPU: {told['errors'][0]}")
    same = sum(ours == theirs for ours, theirs in zip(cpu, told["ids"], strict=True))
    return Turn(domain, sum(fetched), told["held"], same)


def _bytes(answer: Response) -> int:
    """Of a model's file; what the page is made of is no part of it."""
    return int(answer.headers.get("content-length", 0)) if "/models/" in answer.url else 0


def _on_the_cpu(family: Family, domain: str, ids: list[int]) -> list[int]:
    """Greedily, by the domain's own graph; no stop token, as the page is asked."""
    package = family.packages[domain].folder
    stop = Chat(package).stop
    model = OnnxDecoder(package / "onnx" / f"model_{DTYPE}.onnx", exact=True)
    found, given = list[int](), ids
    while len(found) < MOST:
        logits = model.feed(given)[-1]
        logits[stop] = -np.inf
        given = [int(logits.argmax())]
        found += given
    return found


def _of(value: int, unit: str, n: int | None = None) -> Measurement:
    return Measurement(value=value, unit=unit, n=n, software_adapter=True)
