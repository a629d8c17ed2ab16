"""The page's own decoding loop on WebGPU: Transformers.js's tokens from a cache that does not grow."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shared.release.card.usage import module
from shared.release.model import MODULE_FILE
from shared.setup.browser import find_browser
from shared.webgpu_bench import driver
from shared.webgpu_bench.chromium import open_page
from shared.webgpu_bench.server import serve

PREFIX = [1, *range(40, 60)]
REST = [[300, 301], [77, 78, 79], [300, 301], [*range(100, 360)]]
"""The last is too long for the buffers that the others have."""
MOST = 4
ASK = """async ({ prefix, rest, most }) => {
  const { load, newRun } = await import("/engine.js");
  const { Tensor } = await import("@huggingface/transformers");
  const gpu = window.docintelGpu;
  const engine = await load({ model: "m", dtype: "q4" });
  const tensor = (ids) => new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
  const made = () => [gpu.buffers, gpu.dispatches];
  const answers = [];
  for (const ids of rest.map((more) => [...prefix, ...more])) {
    const ones = tensor(ids.map(() => 1));
    const asked = { max_new_tokens: most, min_new_tokens: most, do_sample: false };
    Object.assign(asked, { inputs: tensor(ids), attention_mask: ones });
    const [before] = made().slice(1);
    const output = await engine.network.generate(asked);
    const run = newRun("m", ids);
    const counts = [made()];
    const dispatched = counts[0][1] - before;
    const onToken = () => counts.push(made());
    const more = { min_new_tokens: most };
    await engine.generate({ run, input_ids: ids, prefix, max_new_tokens: most, more, onToken });
    const theirs = Array.from(output.data, Number).slice(ids.length);
    answers.push({ theirs, ours: run.output_ids, runs: run.model_runs, dispatched, counts });
  }
  const { capacity } = engine.decoder.cache;
  const long = prefix.concat(Array(5000).fill(5));
  const refused = await engine
    .generate({ run: newRun("m", long), input_ids: long, max_new_tokens: most })
    .catch((error) => error.message);
  await engine.dispose();
  return { answers, capacity, refused, live: gpu.live_bytes, errors: gpu.uncaptured_errors };
}"""

HELPER = """async ({ most }) => {
  const { useBuild, load, newRun } = await import("/engine.js"); // which says where files are
  const files = globalThis.fetch;
  const here = (url) => String(url).replace(/^https:.*?(\\w+)\\/resolve\\/c{40}\\//, "/models/$1/");
  const commit = async () => new Response(JSON.stringify({ sha: "c".repeat(40) }));
  const ofTheHub = (url) => /^https:..huggingface.co.api.models.\\w+.revision.main$/.test(url);
  globalThis.fetch = (url, ...rest) => (ofTheHub(url) ? commit() : files(here(url), ...rest));
  useBuild("webgpu");
  const { env } = await import("@huggingface/transformers");
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true });
  const { open, inTurn, promptIds, controlTokens } = await import("/models/m/docintel.mjs");
  const said = (error) => error.message;
  const lacking = await open("n", { dtype: "q4" }).catch(said);
  const model = await open("m", { dtype: "q4" });
  const half = await model.ask("He lost.", { max_new_tokens: 1.5 }).catch(said);
  const gone = new AbortController();
  const left = { held: false, signal: gone.signal };
  const two = ["He lost.", "She lost."].map((text) => model.ask(text, left).catch(said));
  gone.abort(new Error("left"));
  const copy = await import("/models/m/docintel.mjs?another"); // of another release
  const order = [];
  const slow = () => new Promise((done) => setTimeout(done, 50)).then(() => order.push("first"));
  const next = async (before = "second") => order.push(before); // hears nothing of the turn before
  await Promise.all([inTurn(slow), copy.inTurn(next)]);
  const asked = async (max_new_tokens) => {
    const before = window.docintelGpu.buffers;
    const { ids } = await model.ask("He lost.", { held: false, max_new_tokens });
    return [ids, window.docintelGpu.buffers - before];
  };
  await asked(most);
  const [long, short] = [await asked(most), await asked(most / 2)];
  const engine = await load({ model: "m", dtype: "q4" });
  const controls = controlTokens(await engine.json("tokenizer.json"));
  const input_ids = promptIds(engine.tokenizer, controls, "Answer in JSON.", "He lost.");
  const run = newRun("m", input_ids);
  await engine.generate({ run, input_ids, max_new_tokens: most });
  const { dispatches } = window.docintelGpu;
  const leaving = new AbortController();
  setTimeout(() => leaving.abort(new Error("left again")), 1);
  const long300 = { held: false, max_new_tokens: 300, signal: leaving.signal };
  const cut = await model.ask("He lost.", long300).catch(said);
  await inTurn(async () => {}); // what was begun has ended
  const stopped = window.docintelGpu.dispatches - dispatches;
  const device = await env.backends.onnx.webgpu.device;
  const error = new GPUValidationError("planted");
  device.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
  const refused = await model.ask("He lost.", { held: false }).catch(said);
  const aborted = await Promise.all(two);
  const answers = { page: run.output_ids, long, short };
  return { ...answers, lacking, half, aborted, order, cut, stopped, dispatches, refused };
}"""


def ask(package: Path, code: str = ASK, **others: Path) -> dict[str, Any]:
    """What `code` finds, in Chromium on a software adapter; `others`: further models by their name."""
    browser = find_browser()
    assert browser, "no Chrome or Chromium: run `./inv doctor`"
    models = {f"/models/{name}": folder for name, folder in (others | {"m": package}).items()}
    mounts = driver.page_mounts() | models
    with (
        serve(mounts) as url,
        open_page(browser.path, hardware=False) as tab,
    ):
        tab.page.set_default_timeout(0)
        tab.page.goto(f"{url}?driven")
        asked = {"prefix": PREFIX, "rest": REST, "most": MOST}
        found: dict[str, Any] = tab.page.evaluate(code, asked)
    return found


@pytest.mark.slow
def test_its_tokens_are_transformers_jss_and_no_token_needs_new_memory(package: Path) -> None:
    found = ask(package)
    first, second, third, _ = found["answers"]
    for one in found["answers"]:
        assert one["ours"] == one["theirs"] and len(one["ours"]) == MOST
    assert first["ours"] == third["ours"], "what the second one left behind is not seen"
    runs = [one["runs"] for one in found["answers"]]
    assert runs == [MOST + 1, MOST, MOST, MOST], (
        "begun once, and not again where more room is needed"
    )
    for one in (second, third):
        buffers = [count for count, _ in one["counts"]]
        made = [after - before for before, after in pairwise(buffers)]
        assert max(made[1:]) <= 1, "a token makes one buffer at most, which uploads the mask"
        dispatches = [count for _, count in one["counts"]]
        asked = [after - before for before, after in pairwise(dispatches)]
        assert len(set(asked[1:])) == 1, "each token costs as many dispatches, at any depth"
        assert sum(asked) < one["dispatched"], "fewer than with a cache that is copied"
    assert found["capacity"] == 512
    assert "the model has room for" in found["refused"]
    assert (found["live"], found["errors"]) == (0, [])


@pytest.mark.slow
def test_a_releases_helper_writes_the_pages_tokens_in_such_a_cache(
    package: Path, tmp_path: Path
) -> None:
    release = Path(shutil.copytree(package, tmp_path / "release"))
    (release / "prompt.md").write_text("Answer in JSON.", encoding="utf-8")
    some = "export const promptIds = (...given) => all(...given).map((id) => id % 8000);\nfunction all("
    code = module().replace("export function promptIds(", some)  # the tiny model has no more tokens
    (release / MODULE_FILE).write_text(code, encoding="utf-8")
    lacking = Path(shutil.copytree(release, tmp_path / "lacking"))
    (lacking / "onnx/model_q4.onnx_data").unlink()
    found = ask(release, HELPER, n=lacking)
    assert "n could not be loaded" in found["lacking"] and "model_q4.onnx_data" in found["lacking"]
    assert found["half"] == "max_new_tokens: 1.5 is no whole number above zero"
    assert (found["aborted"], found["cut"]) == (["left", "left"], "left again")
    assert found["stopped"] < found["dispatches"], "it did not write on"
    assert found["order"] == ["first", "second"], "one turn for all copies of the module"
    assert found["refused"].startswith("the GPU refused what was asked of it (planted)")
    (long, buffers), (short, fewer) = found["long"], found["short"]
    assert long == found["page"] and short == long[: len(short)] and len(long) == MOST
    assert buffers - fewer <= len(long) - len(short), "a token makes one buffer at most"
