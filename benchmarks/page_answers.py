"""`python -m benchmarks.page_answers`: the page's answers beside the check's, token for token.

The person's page in Chromium and the check on the same packaged file: the first records of every
domain, free and held to the schema, written to docs/page-answers.md. A software adapter computes in
float32 where the check's CPU rounds activations to int8: at the first token that differs the CPU reads
the page's own text once more, in float32. Chooses it the page's token, the arithmetic made the
difference; if not, prompt, grammar or ending did.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tabulate import tabulate

from benchmarks.small_model import STEPS, write_small_model
from benchmarks.worlds import fit_for_small_models
from shared.base import paths
from shared.base.files import write_text
from shared.base.formatting import number
from shared.base.manifest import tool_versions
from shared.base.progress import say
from shared.domain.domain import Domain, load_domain
from shared.domain.grammar.schema import grammar
from shared.evaluate.models.chat import prompt_prefix
from shared.evaluate.models.genai import GenaiModel
from shared.evaluate.models.masks import Masks
from shared.evaluate.models.onnx import OnnxDecoder
from shared.evaluate.systems import MODES, Mode
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options
from shared.setup.browser import find_browser
from shared.source.embedded import PACKAGE, embedded_model
from shared.webgpu_bench.chromium import Tab, open_page
from shared.webgpu_bench.driver import page_mounts
from shared.webgpu_bench.model_list import MANIFEST, listing, page_manifest
from shared.webgpu_bench.server import serve

DOCUMENT = paths.REPOSITORY / "docs" / "page-answers.md"
DOMAINS = ("legal", "contracts", "financial", "medical")
TOKENS, RUNS = "tokens", "model runs"
"""Columns of what the page wrote, over all answers of a row."""
ENDING = 24
"""Tokens after which a free answer of the small model meets a stop token, which it seldom learns to."""

TIED = 1e-4
"""Logits as near as this over the largest one are one logit to two runtimes in float32."""
ANSWER = """async ({ name, device, text, held, limit, ends }) => {
  const { load, newRun } = await import("/engine.js");
  const { holdTo } = await import("/hold.js");
  const listed = (await (await fetch("/manifest.json")).json()).models.find((m) => m.name === name);
  window.answering ??= await load({ model: name, dtype: "q4", device });
  window.answering.eos = new Set(ends);
  const input_ids = window.answering.promptIds(listed.system_prompt, text);
  const more = held ? await holdTo(listed, window.answering) : {};
  const prefix = window.answering.prefixIds(listed.system_prompt);
  const run = newRun(name, input_ids);
  await window.answering.generate({ run, input_ids, prefix, max_new_tokens: limit, more });
  return { prompt: input_ids, ids: run.output_ids, runs: run.model_runs };
}"""
HEAD = """# The page's answers are the check's

Written by `python -m benchmarks.page_answers`: the first records of each domain, up to {limit} tokens
an answer, in Chromium, as its tables say, and in {tools}, on the same file, {package}.
Without a package of yours it is a model of a hundred thousand weights that the command trains on the
domains' records: a software adapter takes seconds for a token of a large vocabulary. So that its free
answers end, a token of each domain's first one is a stop token of theirs.

"Same" counts answers that are the check's token for token, to the stop token that ends them or to the
limit; "ended" counts those with a stop token. "Arithmetic" counts those whose first other token is one
that the CPU chooses too, once it reads the page's own text in float32: there the check's int8
rounding of activations made the difference. "Other" would be a difference of prompt, grammar or ending.
"Model runs" are the page's, for all "tokens" of its answers together: held to the schema, both sides
write forced text without asking the model ([forced.md](forced.md)).

"""
Device = Literal["webgpu", "wasm"]
TITLES: dict[Device, str] = {"webgpu": "WebGPU, a software adapter", "wasm": "wasm, on the CPU"}
Verdict = Literal["same", "arithmetic", "other"]
Found = dict[tuple[str, Mode], Counter[str]]
"""(domain, mode) → how many answers got which verdict, and how many "ended" at a stop token; TOKENS
and RUNS of all of them."""


@dataclass(frozen=True)
class Asked:
    """One question as the check asks it: its prompt's ids, the ids that the check got, and those that
    end an answer."""

    domain: str
    mode: Mode
    text: str
    prompt: list[int]
    ids: list[int]
    ends: list[int]


def small_package(root: Path, steps: int = STEPS, ending: int | None = ENDING) -> Path:
    """A packaged model of all domains (small_model.py), made by the real stages in the world `root`.

    Both sides compute it in float32 (accuracy level 1), so that no token hangs on int8 rounding. The
    token that stands at `ending` in a domain's first free answer is made one that ends an answer;
    None leaves the stop tokens as they are.
    """
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(paths.REPOSITORY / "domains", root / "domains")
    fit_for_small_models(root / "domains" / "legal")
    recipe = root / "domains" / "legal" / "olive.json"
    passes = json.loads(recipe.read_text())
    del passes["passes"]["calibrated"]
    passes["passes"]["int4"]["int4_accuracy_level"] = 1
    recipe.write_text(json.dumps(passes))
    template = (embedded_model(PACKAGE) / "chat_template.jinja").read_text()
    domains = [load_domain(name) for name in DOMAINS]
    model = write_small_model(root / "models" / "legal" / "merged", domains, template, steps)
    say(f"{model}: written")
    with in_world(root):
        package = run_chain(load_domain("legal"), Options(rung="smollm3", until="package")).package
    if ending is None:
        return package
    asked = ask_check(package, domains, 1, ending + 1)
    end_at(package, {one.ids[-1] for one in asked if one.mode == "free"})
    return package


def end_at(package: Path, tokens: set[int]) -> None:
    """Further stop tokens, in both files that name them."""
    for name, key in (("generation_config.json", None), ("genai_config.json", "model")):
        config = json.loads((package / name).read_text())
        inner = config[key] if key else config
        before = inner["eos_token_id"]
        inner["eos_token_id"] = sorted(
            {*(before if isinstance(before, list) else [before]), *tokens}
        )
        (package / name).unlink()
        write_text(package / name, json.dumps(config))


@contextmanager
def in_world(root: Path) -> Iterator[None]:
    """Everything is read and written below `root`."""
    before = os.environ.get("DOCINTEL_ROOT")
    os.environ["DOCINTEL_ROOT"] = str(root)
    try:
        yield
    finally:
        del os.environ["DOCINTEL_ROOT"]
        if before:
            os.environ["DOCINTEL_ROOT"] = before


def ask_check(
    package: Path, domains: Sequence[Domain], count: int, limit: int, ending: int | None = None
) -> list[Asked]:
    """The check's answers to the first records of each domain, in both modes. `ending`: the place in a
    domain's first free answer whose token ends its free answers, besides the stop tokens; of those
    that are held to the grammar it would be a part of the text."""
    model = GenaiModel(package, "q4")
    found = []
    for domain in domains:
        records = domain.records[:count]
        prompts = [model.chat.prompt_ids(domain.prompt, record.input) for record in records]
        prefix = prompt_prefix(model.chat, domain.prompt)
        for mode in MODES:
            held = grammar(domain.schema) if mode == "constrained" else None
            ends = list(model.stop)
            for index, answer in model.answers(prompts, limit, held, prefix=prefix):
                text, ids = records[index].input, answer.output_ids
                if held is None and ending is not None and len(ends) == len(model.stop):
                    ends += ids[ending : ending + 1]
                cut = next((i + 1 for i, token in enumerate(ids) if token in ends), limit)
                found.append(Asked(domain.name, mode, text, prompts[index], ids[:cut], ends))
    return found


def ask_page(
    package: Path, asked: Sequence[Asked], limit: int, device: Device = "webgpu"
) -> Iterator[dict[str, Any]]:
    """The page's prompt and answer, as token ids, and how often its model ran, for each of `asked`."""
    browser = find_browser()
    assert browser, "no Chrome or Chromium: run `./inv doctor`"
    models = {one.domain: package for one in asked}
    mounts = page_mounts() | {f"/models/{name}": path for name, path in models.items()}
    with (
        serve(mounts, {f"/{MANIFEST}": lambda: page_manifest(listing(models))}) as url,
        open_page(browser.path, hardware=False) as tab,
    ):
        tab.page.set_default_timeout(0)
        # Its modules without what a person looks at, which a software adapter would draw too.
        tab.page.goto(f"{url}?driven")
        for one in asked:
            yield _answer(tab, one, limit, device)


def _answer(tab: Tab, one: Asked, limit: int, device: Device) -> dict[str, Any]:
    given = {"name": one.domain, "text": one.text, "held": one.mode != "free", "limit": limit}
    given |= {"device": device, "ends": one.ends}
    answer: dict[str, Any] = tab.page.evaluate(ANSWER, given)
    return answer


@dataclass(frozen=True)
class Judge:
    """Tells why a page's answer is another: reads it on the CPU in float32."""

    package: Path
    decoder: OnnxDecoder
    model: GenaiModel

    @classmethod
    def of(cls, package: Path) -> Judge:
        decoder = OnnxDecoder(package / "onnx" / "model_q4.onnx", exact=True)
        return cls(package, decoder, GenaiModel(package, "q4"))

    def verdict(self, one: Asked, page: dict[str, Any], domain: Domain) -> Verdict:
        """The page's answer beside the check's, to the end of both."""
        ids = page["ids"]
        if page["prompt"] != one.prompt:
            return "other"
        if ids == one.ids:
            return "same"
        pairs = zip(ids, one.ids, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if at is None:
            return "other"
        self.decoder.reset()
        logits = self.decoder.feed([*one.prompt, *ids[:at]])[-1]
        self._hold(logits, one.mode, ids[:at], domain)
        near = logits[ids[at]] >= logits.max() - TIED * np.abs(logits[np.isfinite(logits)]).max()
        return "arithmetic" if near else "other"

    def _hold(self, logits: np.ndarray, mode: Mode, ids: list[int], domain: Domain) -> None:
        if mode == "free":
            return
        chat, stop = self.model.chat, self.model.stop
        masks = Masks(chat.tokenizer_json(), stop, grammar(domain.schema))
        matchers = masks.start(1)
        for token in ids:
            matchers[0].accept_token(token)
        logits[masks.forbidden(matchers, len(logits))[0]] = -np.inf


def compare(
    package: Path, count: int, limit: int, device: Device = "webgpu", ending: int | None = None
) -> Found:
    """Ask both sides the first `count` records of each domain, for up to `limit` tokens; `ending`: see
    ask_check."""
    domains = {name: load_domain(name) for name in DOMAINS}
    asked = ask_check(package, list(domains.values()), count, limit, ending)
    judge = Judge.of(package)
    found: Found = {}
    for one, page in zip(asked, ask_page(package, asked, limit, device), strict=True):
        verdict = judge.verdict(one, page, domains[one.domain])
        say(f"{one.domain}, {one.mode}: {len(one.prompt)} + {len(page['ids'])} tokens: {verdict}")
        told = found.setdefault((one.domain, one.mode), Counter())
        told.update([verdict, *(["ended"] if one.ids[-1] in one.ends else [])])
        told.update({TOKENS: len(page["ids"]), RUNS: page["runs"]})
    return found


def table(found: Found) -> str:
    """A row for each domain and mode."""
    verdicts = get_args(Verdict)
    rows = [
        [domain, mode, sum(count[name] for name in verdicts), count["ended"]]
        + [count[name] for name in (*verdicts, TOKENS, RUNS)]
        for (domain, mode), count in found.items()
    ]
    heads = ["domain", "mode", "answers", "ended", *verdicts, TOKENS, RUNS]
    return tabulate(rows, headers=heads, tablefmt="github")


def _named(package: Path) -> str:
    size = sum(file.stat().st_size for file in package.glob("onnx/model_q4.onnx*"))
    return f"`{package.name}` (q4, {number(size, 'B')})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", help="a packaged model; else one is made")
    parser.add_argument("--records", type=int, default=16, help="of each domain, in wasm")
    parser.add_argument("--webgpu", type=int, default=16, help="of each domain, on WebGPU")
    parser.add_argument("--ending", type=int, help="the place of the token that ends free answers")
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    given = parser.parse_args()
    package = given.package or small_package(paths.build() / "page-answers", ending=None)
    if not given.package:
        given.ending = ENDING
    asked: dict[Device, int] = {"webgpu": given.webgpu, "wasm": given.records}
    found = {
        device: compare(package, count, given.tokens, device, given.ending)
        for device, count in asked.items()
        if count
    }
    versions = tool_versions("onnxruntime-genai", "xgrammar")
    head = HEAD.format(
        limit=given.tokens,
        package=_named(package),
        tools=", ".join(f"{name} {version}" for name, version in versions.items()),
    )
    tables = [f"## On {TITLES[device]}\n\n{table(one)}\n" for device, one in found.items()]
    write_text(given.document, head + "\n".join(tables))


if __name__ == "__main__":
    main()
