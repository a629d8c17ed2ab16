"""The page's own loop in Chromium, on WebGPU's software adapter and on wasm: run by run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from benchmarks.forced.cpu import WAYS, Reader, answer_key
from benchmarks.forced.rows import DTYPE, Case, Rows
from shared.base.code import code_hash
from shared.base.errors import UserError
from shared.base.progress import say
from shared.base.text import trimmed
from shared.domain.records import Record
from shared.setup.browser import find_browser
from shared.webgpu_bench.chromium import Tab, open_page
from shared.webgpu_bench.driver import page_mounts
from shared.webgpu_bench.server import serve

Device = Literal["webgpu", "wasm"]
CODE = ("decode", "cache", "forced", "grammar", "half", "prompt")
"""The page's modules that a row depends on."""
PLAIN_TOKENS = 8
"""Of Transformers.js's own `generate`, whose every token is counted."""

LOAD = """async ({ device, dtype, grammar, system }) => {
  const { load, newRun } = await import("/engine.js");
  const { Forcing } = await import("/forced.js");
  const { compile } = await import("/grammar.js");
  const engine = await load({ model: "m", dtype, device });
  await import("/vendor/@mlc-ai/web-xgrammar/lib/index.js");
  const stop = [...engine.eos];
  const tokenizer = await engine.json("tokenizer.json");
  const compiled = await compile(globalThis.xgrammar, grammar, tokenizer, stop);
  const holding = [true, false].map((on) => new Forcing(compiled, engine.encode, on));
  const gpu = window.docintelGpu;
  const prefix = engine.prefixIds(system);
  window.ask = async ({ text, forcing, limit, cold = false }) => {
    const input_ids = engine.promptIds(system, text);
    if (cold) engine.decoder.forget();
    const held = await holding[forcing ? 0 : 1].start();
    const run = newRun("", input_ids);
    const runs = [];
    let before = [0, gpu.buffers, gpu.dispatches, performance.now()];
    const onToken = ({ output_ids }) => {
      const now = [output_ids.length, gpu.buffers, gpu.dispatches, performance.now()];
      runs.push(now.map((count, place) => count - before[place]));
      before = now;
    };
    const more = { held };
    await engine.generate({ run, input_ids, prefix, max_new_tokens: limit, more, onToken });
    return { ids: run.output_ids, text: run.output_text, runs, live: gpu.live_bytes };
  };
  window.plain = async ({ text, limit }) => {
    const { Tensor } = await import("@huggingface/transformers");
    const ids = engine.promptIds(system, text);
    const all = [1, ids.length];
    const tensor = (numbers) => new Tensor("int64", BigInt64Array.from(numbers, BigInt), all);
    const counts = [];
    const streamer = { put: () => counts.push([gpu.buffers, gpu.dispatches]), end: () => {} };
    const asked = { max_new_tokens: limit, min_new_tokens: limit, do_sample: false, streamer };
    const attention_mask = tensor(ids.map(() => 1));
    await engine.network.generate({ inputs: tensor(ids), attention_mask, ...asked });
    return counts;
  };
}"""


def page_key(case: Case, device: Device, way: str, record: str) -> str:
    """`way`: one of WAYS, or what else is asked of that record."""
    code = code_hash(*(f"shared/webgpu_bench/page/{name}.js" for name in CODE))
    return f"page/{code[:8]}/{case.key}/{device}/{way}/{record}"


def measure(case: Case, rows: Rows, device: Device, counts: dict[str, int]) -> None:
    """Answer `counts[way]` records each way, in one tab; the first also with nothing read before."""
    todo = [
        (way, record)
        for way in WAYS
        for record in case.records(counts[way])
        if not rows.get(page_key(case, device, way, record.id))
    ]
    first = case.records(1)[0]
    if todo or any(
        not rows.get(page_key(case, device, way, first.id)) for way in ("cold", "plain")
    ):
        with _tab(case, device) as tab:
            _once(case, rows, device, tab, first)
            for way, record in todo:
                _answer(case, rows, device, tab, way, record)
    _read_partings(case, rows, device, counts[WAYS[0]])


def _once(case: Case, rows: Rows, device: Device, tab: Tab, first: Record) -> None:
    """A warm-up, then the first document read from its beginning; tokens by Transformers.js itself."""
    asked: dict[str, Any] = {"text": first.input, "forcing": True, "limit": 2}
    tab.page.evaluate("(asked) => window.ask(asked)", asked)
    rows.once(
        page_key(case, device, "cold", first.id),
        lambda: tab.page.evaluate("(asked) => window.ask(asked)", asked | {"cold": True}),
    )
    if device == "webgpu":
        plain = {"text": first.input, "limit": PLAIN_TOKENS}
        rows.once(
            page_key(case, device, "plain", first.id),
            lambda: tab.page.evaluate("(asked) => window.plain(asked)", plain),
        )


def _answer(case: Case, rows: Rows, device: Device, tab: Tab, way: str, record: Record) -> None:
    asked = {"text": record.input, "forcing": way == WAYS[0], "limit": case.limit}
    row = tab.page.evaluate("(asked) => window.ask(asked)", asked) | {"load": os.getloadavg()[0]}
    rows.put(page_key(case, device, way, record.id), row)
    seconds = sum(run[3] for run in row["runs"]) / 1000
    say(f"{case.key}, {device}, {way}: {record.id}, {len(row['runs'])} runs, {seconds:.1f} s")


@contextmanager
def _tab(case: Case, device: Device) -> Iterator[Tab]:
    """A page with the case's model and grammar loaded."""
    browser = find_browser()
    if not browser:
        raise UserError("no Chrome or Chromium: run `./inv doctor`")
    mounts: dict[str, Path] = page_mounts() | {"/models/m": case.package}
    with serve(mounts) as url, open_page(browser.path, hardware=False) as tab:
        tab.page.set_default_timeout(0)
        tab.page.goto(f"{url}?driven")
        given = {"device": device, "dtype": DTYPE, "grammar": case.grammar}
        tab.page.evaluate(LOAD, given | {"system": trimmed(case.domain.prompt)})
        yield tab


def _read_partings(case: Case, rows: Rows, device: Device, count: int) -> None:
    """Where the page's answers part from the check's."""
    reader: Reader | None = None
    for record in case.records(count):
        theirs = rows.get(page_key(case, device, WAYS[0], record.id))
        ours = rows.get(answer_key(case, WAYS[0], record.id))
        key = page_key(case, device, "parting", record.id)
        if not ours or not theirs or ours["ids"] == theirs["ids"] or rows.get(key):
            continue
        reader = reader or Reader.of(case)
        rows.put(key, reader.parting(record.input, ours, theirs["ids"]))
