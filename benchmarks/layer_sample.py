"""`python -m benchmarks.layer_sample smollm3`: what calibrating a full-size model would take.

One layer in the real shape, with random weights and the real number of calibration tokens, is quantised
as `CalibratedQuant` does it; the head likewise. The whole is *extrapolated*: layers times the one, and
the head. The peak is this process's, whose model has one layer: the others' weights, which
transformers maps from their files, come on top.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from benchmarks.full_size import ARCHITECTURES, SPECIAL
from shared import paths
from shared.embedded import PACKAGE, embedded_model
from shared.manifest import Strict
from shared.olive.gptq import Format
from shared.olive.layerwise import quantize_decoder
from shared.progress import say
from shared.units import number

DOCUMENT = paths.REPOSITORY / "docs" / "recipes.md"
MARKS = ("<!-- measured: one layer -->", "<!-- end -->")


class Sample(Strict):
    """Seconds of one layer and of the head, and what they come to for all layers."""

    architecture: str
    layers: int
    tokens: int
    cores: int
    load: float
    layer_seconds: float
    head_seconds: float
    peak_rss_bytes: int

    @property
    def seconds(self) -> float:
        """Extrapolated."""
        return self.layers * self.layer_seconds + self.head_seconds


def layer_sample(architecture: str, domain: str = "legal") -> Sample:
    """Time one layer and the head; what other processes do at the time is told as the load."""
    kind, settings = ARCHITECTURES[architecture]
    texts = _texts(domain, settings["vocab_size"])
    say(f"{architecture}: one layer of {settings['num_hidden_layers']}, random weights")
    torch.manual_seed(0)
    config = kind(**(settings | SPECIAL | {"num_hidden_layers": 1}))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    model.eval().requires_grad_(False)
    times = [("start", time.monotonic())]
    with _peak() as peak:
        quantize_decoder(
            model,
            texts,
            lambda name: Format(4, 32, True),
            lambda name, blocks: None,
            lambda name: times.append((name, time.monotonic())),
        )
    end = time.monotonic()
    head = next(t for name, t in times if name == "lm_head")
    return Sample(
        architecture=architecture,
        layers=settings["num_hidden_layers"],
        tokens=sum(map(len, texts)),
        cores=os.cpu_count() or 1,
        load=os.getloadavg()[0],
        layer_seconds=head - times[0][1],
        head_seconds=end - head,
        peak_rss_bytes=peak[0],
    )


def _texts(domain: str, vocabulary: int) -> list[list[int]]:
    from transformers import AutoTokenizer

    from shared.domain import load_domain, read_records
    from shared.olive.calibration import FILE, chat_tokens

    loaded = load_domain(domain)
    tokenizer = AutoTokenizer.from_pretrained(
        embedded_model(PACKAGE), local_files_only=True, trust_remote_code=False
    )
    records = read_records(loaded.folder / FILE, loaded.schema)
    texts = [chat_tokens(tokenizer, loaded.prompt, record) for record in records]
    return [[i % vocabulary for i in ids] for ids in texts]


class _peak:
    """Samples this process's resident memory while it is open; [bytes]."""

    def __enter__(self) -> list[int]:
        self._found, self._open = [0], True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self._found

    def _watch(self) -> None:
        while self._open:
            self._found[0] = max(self._found[0], psutil.Process().memory_info().rss)
            time.sleep(0.05)

    def __exit__(self, *_: Any) -> None:
        self._open = False
        self._thread.join()


def render(sample: Sample) -> str:
    """Two sentences with the measured numbers; what is extrapolated says so."""
    s = sample
    return (
        f"{s.architecture}, {s.tokens:,} calibration tokens, {s.cores} cores (load {s.load:.1f}): one "
        f"layer took {number(s.layer_seconds, 's')}, the head {number(s.head_seconds, 's')}, peak "
        f"memory {number(s.peak_rss_bytes, 'B')} with one layer's weights. *Extrapolated* to "
        f"{s.layers} layers: {s.seconds / 60:.0f} minutes. On a GPU: not measured, none was at hand; "
        "the pass runs on the CPU."
    )


def main(architecture: str) -> None:
    sample = layer_sample(architecture)
    folder = paths.build() / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    told = sample.model_dump() | {"seconds_extrapolated": sample.seconds}
    (folder / f"layer-{architecture}.json").write_text(json.dumps(told, indent=2) + "\n")
    text = DOCUMENT.read_text(encoding="utf-8")
    before, mark, rest = text.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    if mark:
        block = f"{mark}\n{render(sample)}\n{MARKS[1]}"
        Path(DOCUMENT).write_text(f"{before}{block}{after}", encoding="utf-8")
    print(render(sample))


if __name__ == "__main__":
    main(*sys.argv[1:])
