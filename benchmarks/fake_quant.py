"""`python -m benchmarks.fake_quant`: what a recipe leaves of the embedded model, on eight texts.

`CalibratedQuant` quantises as in a build; its weights, dequantised, then run in PyTorch in float32,
beside the 16-bit parent: no graph, no runtime. That decides between recipes before one is built. The
texts are every domain's own eval.jsonl and the public sets (`--sets`, a folder with <domain>/eval.jsonl
and prompt.md), none of which calibrates; each is read with its prompt and right answers, and as running
text, the inputs alone. KL divergence from the parent and the ratio of perplexities have standard errors
by record, or by window. What is quantised already is not quantised again.

    python -m benchmarks.fake_quant --recipe '{}' --recipe '{"make_up": 1}' --tokens 1024
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.public_sets import SETS, rows_of
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.files import write_json, write_text
from shared.base.formatting import number
from shared.base.hashing import sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.progress import bar, say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.base.text import put_block
from shared.domain.domain import domain_names, load_domain
from shared.evaluate.models.chat import Chat
from shared.evaluate.scoring.statistics import clustered_exponential, clustered_mean
from shared.evaluate.token_windows import HeldOut, passages_of, sample
from shared.olive.calibration_text import TOKENS, calibration_stage
from shared.olive.quantise.checkpoint import Checkpoint, is_ticket
from shared.olive.quantise.packing import dequantized
from shared.source.model import load_model
from shared.source.source import Source, source_stage, weights_hash

DOCUMENT = paths.REPOSITORY / "docs" / "recipes.md"
MARK = "<!-- measured: fake quant -->"
WINDOW = 128
AT_ONCE = 8
"""Windows in one pass: their logits, in float32, are 200 MB for each of parent and model."""

PROMPT, RUNNING = "with prompt", "running text"


Figure = tuple[float, float | None]
"""A value with its standard error; None from a single record."""


@dataclass(frozen=True)
class Part:
    """Token ids of one record or window, of which those from `first` on are scored."""

    ids: list[int]
    first: int


@dataclass(frozen=True)
class Row:
    """One recipe on one text, read one way: each figure with its standard error, over `n` tokens."""

    recipe: str
    text: str
    read: str
    n: int
    ratio: Figure
    kl: Figure


def texts(sets: Path | None) -> dict[str, HeldOut]:
    """The domains' own held-out records and the public ones, by name."""
    found = {}
    for name in domain_names():
        domain = load_domain(name)
        pairs = [(r.input, json.dumps(r.gold, ensure_ascii=False)) for r in domain.records]
        found[f"own {name}"] = HeldOut(domain.prompt, tuple(pairs), name)
        if sets and (file := sets / name / "eval.jsonl").is_file():
            pairs = [(r["input"], json.dumps(r["gold"], ensure_ascii=False)) for r in rows_of(file)]
            prompt = file.with_name("prompt.md").read_text(encoding="utf-8")
            found[f"public {name}"] = HeldOut(prompt, tuple(pairs), name)
    return found


def parts_of(chat: Chat, text: HeldOut, tokens: int) -> dict[str, list[Part]]:
    """`tokens` scored tokens, or a few more, evenly spread over the text, read both ways."""
    chosen = passages_of(chat, text, tokens)
    asked = [Part(p.ids.tolist(), p.first) for p in chosen]
    every = [
        chat.tokenizer.encode(f"{given}\n", add_special_tokens=False) for given, _ in text.pairs
    ]
    stream = [token for ids in every for token in ids]
    windows = [stream[at : at + WINDOW] for at in range(0, len(stream) - WINDOW + 1, WINDOW)]
    some = sample(windows or [stream], math.ceil(tokens / WINDOW))
    return {PROMPT: asked, RUNNING: [Part(ids, 1) for ids in some]}


def quantised(source: Source, domain: str, settings: dict[str, Any]) -> StageResult:
    """The model folder that `CalibratedQuant` writes, with what it took."""
    tokens = calibration_stage(load_domain(domain), source).folder / TOKENS
    plan = Plan(
        "fake-quant",
        inputs={"weights": weights_hash(source.folder), "text": sha256_json(tokens.read_text())},
        settings=settings,
        tools=tool_versions("torch", "transformers"),
        code=("shared.olive.calibrated_pass",),
    )
    return run_stage(plan, lambda work: _quantise(source, settings, tokens, work))


def _quantise(source: Source, settings: dict[str, Any], tokens: Path, work: Path) -> Produced:
    from olive.model import HfModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    from shared.olive.calibrated_pass import CalibratedQuant

    given = {"calibration": str(tokens)} | settings
    began = time.process_time()
    quantiser = create_pass_from_dict(CalibratedQuant, given, disable_search=True)
    quantiser.run(HfModelHandler(str(source.folder)), str(work))
    spent, how = time.process_time() - began, "quantised weights, scales and zero points included"
    return Produced(
        {
            "cpu": Measurement(
                value=spent, unit="s", how="processor time of the pass, all threads"
            ),
            "bits": Measurement(value=_bits(work), unit="bits/weight", how=how),
        }
    )


def _bits(folder: Path) -> float:
    """Bits per weight of what is quantised, scales and zero points included."""
    checkpoint, bits, weights = Checkpoint(folder), 0, 0
    for tickets in filter(is_ticket, checkpoint.state.values()):
        blocks = checkpoint.blocks(tickets)
        parts = [blocks.packed, blocks.scales.half(), blocks.zeros]
        bits += sum(8 * part.nbytes for part in parts if part is not None)
        weights += blocks.layout.rows * blocks.layout.columns
    return bits / weights


def dequantised_model(parent: Path, folder: Path) -> Any:
    """The parent in float32 with the quantised weights in its own's place."""
    model, checkpoint = load_model(parent, "float32"), Checkpoint(folder)
    parameters = dict(model.named_parameters())
    for name, tensor in checkpoint.state.items():
        if is_ticket(tensor) and name in parameters:
            parameters[name].data = dequantized(checkpoint.blocks(tensor))
    model.tie_weights()
    return model


@torch.inference_mode()
def compared(
    parent: Any, models: dict[str, Any], parts: Sequence[Part]
) -> list[dict[str, dict[str, np.ndarray]]]:
    """Of each part, all of one length, per scored token: KL(parent‖model) in nats, and how much more
    the text costs; by recipe."""
    ids, first = torch.tensor([part.ids for part in parts]), parts[0].first
    following = ids[:, first:, None]

    def log_p(model: Any) -> torch.Tensor:
        logits: torch.Tensor = model(ids, use_cache=False).logits[:, first - 1 : -1]
        return logits.log_softmax(-1)

    ours = log_p(parent)
    likelihood, share = ours.gather(2, following), ours.exp()
    found: list[dict[str, dict[str, np.ndarray]]] = [{} for _ in parts]
    for name, model in models.items():
        theirs = log_p(model)
        more = (likelihood - theirs.gather(2, following))[..., 0].double().numpy()
        kl = torch.linalg.vecdot(share, ours - theirs).double().numpy()
        for row, one in enumerate(found):
            one[name] = {"kl": kl[row], "more": more[row]}
    return found


def measure(
    parent: Any, models: dict[str, Any], every: dict[str, dict[str, list[Part]]]
) -> Iterator[Row]:
    """Every recipe on every text, read both ways."""
    read = [(text, way, parts) for text, both in every.items() for way, parts in both.items()]
    with bar("reading", sum(len(parts) for *_, parts in read), "parts") as step:
        for text, way, parts in read:
            found: list[dict[str, dict[str, np.ndarray]]] = []
            for _, alike in groupby(parts, lambda part: (len(part.ids), part.first)):
                same = list(alike)
                for start in range(0, len(same), AT_ONCE):
                    found += compared(parent, models, same[start : start + AT_ONCE])
            for _ in parts:
                step(f"{text}, {way}")
            for name in models:
                more = clustered_exponential([one[name]["more"] for one in found])
                kl = clustered_mean([one[name]["kl"] for one in found])
                n = sum(len(one[name]["kl"]) for one in found)
                yield Row(name, text, way, n, more, kl)


def render(rows: list[Row], taken: dict[str, StageResult]) -> str:
    """One table of recipes and one of all figures."""
    lines = [
        "| recipe | KL, running text | KL, with prompt | ratio, running text | ratio, with prompt "
        "| bits per weight | processor time | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, made in taken.items():
        of = {
            way: [r for r in rows if (r.recipe, r.read) == (name, way)] for way in (RUNNING, PROMPT)
        }
        means = [_mean([r.kl for r in some]) for some in of.values()]
        means += [_mean([r.ratio for r in some]) for some in of.values()]
        found, peak = made.manifest.measurements, number(made.manifest.peak_rss_bytes, "B")
        took = [f"{found['bits'].value:.3f}", number(found["cpu"].value, "s"), peak]
        lines.append(f"| `{name}` | {' | '.join(means + took)} |")
    lines += ["", "| text | read | tokens | recipe | KL | ratio |", "|---|---|---|---|---|---|"]
    for r in rows:
        figures = f"{_figure(*r.kl)} | {_figure(*r.ratio)}"
        lines.append(f"| {r.text} | {r.read} | {r.n:,} | `{r.recipe}` | {figures} |")
    return "\n".join(lines)


def _figure(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _mean(figures: list[Figure]) -> str:
    """The mean over texts with its standard error; the texts are given, their tokens are drawn."""
    if not figures:
        return "not read"
    known = [error for _, error in figures if error is not None]
    error = math.hypot(*known) / len(known) if len(known) == len(figures) else None
    return _figure(fmean(value for value, _ in figures), error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, default=SETS, help="public sets")
    parser.add_argument("--domain", default="legal", help="whose text calibrates")
    parser.add_argument("--rung", default="embedded", help="whose weights")
    parser.add_argument("--recipe", action="append", help="settings of CalibratedQuant, as JSON")
    parser.add_argument("--texts", help="only these, separated by commas: 'own legal'")
    parser.add_argument("--read", choices=(PROMPT, RUNNING), help="only so")
    parser.add_argument("--tokens", type=int, default=1024, help="scored, of each text and way")
    parser.add_argument("--document", type=Path, help=f"renew the block of, e.g. {DOCUMENT.name}")
    asked = parser.parse_args()
    set_variables()
    source = source_stage(load_domain(asked.domain).rung(asked.rung))
    taken = {
        text: quantised(source, asked.domain, json.loads(text)) for text in asked.recipe or ["{}"]
    }
    parent = load_model(source.folder, "float32")
    models = {n: dequantised_model(source.folder, made.folder) for n, made in taken.items()}
    chat, wanted = Chat(source.folder), asked.texts.split(",") if asked.texts else None
    chosen = {n: t for n, t in texts(asked.sets).items() if wanted is None or n in wanted}
    say(f"{len(models)} recipes, {len(chosen)} texts")
    every = {name: parts_of(chat, text, asked.tokens) for name, text in chosen.items()}
    if asked.read:
        every = {name: {asked.read: both[asked.read]} for name, both in every.items()}
    rows = []
    for row in measure(parent, models, every):
        rows.append(row)
        say(f"{row.text}, {row.read}: {row.recipe}: KL {_figure(*row.kl)}, {_figure(*row.ratio)}")
    write_json(paths.build() / "reports" / "fake-quant.json", {"rows": list(map(asdict, rows))})
    body = render(rows, taken)
    if asked.document:
        text = asked.document.read_text(encoding="utf-8")
        write_text(asked.document, put_block(text, MARK, body))
    print(body)


if __name__ == "__main__":
    main()
