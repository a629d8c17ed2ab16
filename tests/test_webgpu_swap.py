"""A family's domains in one session on WebGPU: the CPU's tokens for each, and no new base."""

# ruff: noqa: F401, F811 (pytest finds the fixture `world` by its name)
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from shared.domain.domain import load_domain
from shared.domain.settings import Precision
from shared.evaluate.models.onnx import OnnxDecoder
from shared.olive.family_record import adapter_file
from shared.pipeline.family import build_family
from shared.release.gates import failed, judge_gates
from shared.setup.browser import find_browser
from shared.webgpu_bench import driver
from shared.webgpu_bench.chromium import open_page
from shared.webgpu_bench.server import serve
from shared.webgpu_bench.stage import Switches
from shared.webgpu_bench.swapped import POSITIONS, STAGE, swapped_gates, swapped_stage
from tests.test_family import IDS, member, world

MOST = 4
TURNS = ("legal", "medical", "legal")
ASK = """async ({ turns, ids, most, packages }) => {
  const { load, Engine, newRun } = await import("/engine.js");
  const { Adapters, swapOptions } = await import("/swap.js");
  const { AutoModelForCausalLM, Tensor } = await import("@huggingface/transformers");
  const gpu = window.docintelGpu;
  const write = async (engine) => {
    const run = newRun("m", ids);
    const before = gpu.dispatches;
    const counts = [];
    const more = { min_new_tokens: most };
    const onToken = () => counts.push(gpu.dispatches - before);
    await engine.generate({ run, input_ids: ids, max_new_tokens: most, more, onToken });
    return { ids: run.output_ids, dispatches: counts.at(-1) - counts.at(-2) };
  };
  const alone = {};
  for (const name of packages) {
    const engine = await load({ model: name, dtype: "q4" });
    alone[name] = await write(engine);
    if (name !== packages.at(-1)) await engine.dispose();
    else {
      const { tokenizer } = engine;
      const config = await engine.json("config.json");
      const options = { device: "webgpu", dtype: "q4", ...swapOptions("q4", config) };
      const made = await AutoModelForCausalLM.from_pretrained("family", options);
      const Ort = new Tensor("int64", [0n], [1]).ort_tensor.constructor;
      const adapters = new Adapters(made.sessions.model, Ort, gpu.device);
      made.sessions.model = adapters.session;
      const swapped = new Engine(tokenizer, made, [], {}, gpu.device, engine.json);
      const answers = [];
      for (const turn of turns) {
        const bytes = [gpu.live_bytes];
        const file = `/models/family/adapters/${turn}.safetensors`;
        if (!adapters.known.has(turn)) adapters.add(turn, await (await fetch(file)).arrayBuffer());
        bytes.push(gpu.live_bytes);
        adapters.use(turn);
        swapped.decoder.forget();
        answers.push({ ...(await write(swapped)), added: bytes[1] - bytes[0] });
      }
      await engine.dispose();
      return { alone, answers, errors: gpu.uncaptured_errors };
    }
  }
}"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int4", "f16"])
def test_a_domain_is_switched_to_and_back_on_webgpu(world: Path, precision: Precision) -> None:
    family = build_family([member("legal"), member("medical")], precision)
    browser = find_browser()
    assert browser, "no Chrome or Chromium: run `./inv doctor`"
    packages = {name: package.folder for name, package in family.packages.items()}
    packages |= {"base": family.base.folder}
    mounts = driver.page_mounts() | {f"/models/{n}": p for n, p in packages.items()}
    mounts |= {"/models/family": family.folder}
    with serve(mounts) as url, open_page(browser.path, hardware=False) as tab:
        tab.page.set_default_timeout(0)
        tab.page.goto(f"{url}?driven")
        asked = {"turns": TURNS, "ids": IDS, "most": MOST, "packages": list(packages)}
        found: dict[str, Any] = tab.page.evaluate(ASK, asked)
    assert not found["errors"]
    for name, told in zip(TURNS, found["answers"], strict=True):
        assert told["ids"] == found["alone"][name]["ids"] == on_the_cpu(packages[name])
        assert told["dispatches"] == found["alone"][name]["dispatches"]
    first, second, third = (told["added"] for told in found["answers"])
    assert first == second > 0 == third, "an adapter is uploaded once, and nothing else"


@pytest.mark.slow
def test_a_domain_is_proven_as_the_page_has_it_and_a_wrong_adapter_is_found(
    world: Path, tmp_path: Path
) -> None:
    family = build_family([member("legal"), member("medical")])
    domain, package = load_domain("legal"), family.packages["legal"]
    right = swapped_stage(domain, family.folder, package, Switches()).manifest
    gates = swapped_gates(domain.chain.gates_of(domain.rung("smollm3")))
    judged = {g.name: g for g in judge_gates(gates, {STAGE: right})}
    float32 = "WebGPU logits are the CPU's, float32, swapped in"
    assert judged[float32].outcome == "pass" and not failed([*judged.values()], "release")
    read = min(POSITIONS, domain.chain.bench.parity_tokens)
    assert right.measurements["parity_finite"].n == read

    spoilt = tmp_path / "family"
    shutil.copytree(family.folder, spoilt)
    mine, other = (spoilt / adapter_file(name) for name in ("legal", "medical"))
    mine.unlink(), mine.write_bytes(other.read_bytes())
    wrong = swapped_stage(domain, spoilt, package, Switches()).manifest
    judged = {g.name: g for g in judge_gates(gates, {STAGE: wrong})}
    assert judged[float32].outcome == "fail"


def on_the_cpu(package: Path) -> list[int]:
    model = OnnxDecoder(package / "onnx" / "model_q4.onnx", exact=True)
    ids = [int(model.feed(IDS)[-1].argmax())]
    while len(ids) < MOST:
        ids.append(int(model.feed(ids[-1:])[-1].argmax()))
    return ids
