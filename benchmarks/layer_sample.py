"""`python -m benchmarks.layer_sample [smollm3 …]`: what calibrating full-size models would take.

One layer in the real shape, with random weights and the real number of calibration tokens, is quantised
as `CalibratedQuant` does it; the head likewise. The whole is *extrapolated*: layers times the one, and
the head. Each architecture has a process of its own, whose resident memory is sampled. The one layer's
model lies in a mapped file as a full-size one does; the pages of the other layers' weights are given
back after each layer, so that they do not add up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from benchmarks.full_size import (
    ARCHITECTURES,
    BLOCK_SIZE,
    SPECIAL,
    calibration_texts,
    write_random,
)
from shared.base import paths
from shared.base.formatting import number
from shared.base.manifest import Strict
from shared.base.processes import peak_memory
from shared.base.progress import say
from shared.base.text import put_block
from shared.olive.quantise.gptq import Format
from shared.olive.quantise.layer_files import LayerFiles
from shared.olive.quantise.layerwise import quantize_decoder
from shared.source.embedded import PACKAGE, embedded_model
from shared.source.model import load_model

DOCUMENT = paths.REPOSITORY / "docs" / "recipes.md"
MARK = "<!-- measured: one layer of {} -->"


class Sample(Strict):
    """Seconds of one layer and of the head, and what they come to for all layers."""

    architecture: str
    block_size: int
    layers: int
    tokens: int
    source_bytes: int
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
    texts = calibration_texts(domain, settings["vocab_size"])
    say(f"{architecture}: one layer of {settings['num_hidden_layers']}, random weights")
    block = BLOCK_SIZE[architecture]
    config = kind(**(settings | SPECIAL | {"num_hidden_layers": 1}))
    with TemporaryDirectory(dir=_folder()) as folder, peak_memory() as peak:
        model = _mapped(config, Path(folder))
        times = [("start", time.monotonic())]
        quantize_decoder(
            model,
            texts,
            lambda name: Format(4, block, True),
            LayerFiles(Path(folder) / "layers"),
            lambda name: times.append((name, time.monotonic())),
        )
        end = time.monotonic()
    head = next(t for name, t in times if name == "lm_head")
    return Sample(
        architecture=architecture,
        block_size=block,
        layers=settings["num_hidden_layers"],
        tokens=sum(map(len, texts)),
        source_bytes=_source_bytes(kind(**(settings | SPECIAL))),
        cores=os.cpu_count() or 1,
        load=os.getloadavg()[0],
        layer_seconds=head - times[0][1],
        head_seconds=end - head,
        peak_rss_bytes=peak[0],
    )


def _mapped(config: PretrainedConfig, folder: Path) -> Any:
    """A model with random weights, saved and loaded as `CalibratedQuant` loads one."""
    write_random(config, embedded_model(PACKAGE), folder)
    return load_model(folder)


def _source_bytes(config: PretrainedConfig) -> int:
    """Bytes of all layers in 16 bits."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return 2 * sum(p.numel() for p in model.parameters())


def render(sample: Sample) -> str:
    """Sentences with the measured numbers; what is extrapolated says so."""
    s = sample
    return (
        f"**{s.architecture}**, blocks of {s.block_size}, {s.tokens:,} calibration tokens, {s.cores} "
        f"cores (load {s.load:.1f}): one layer took {number(s.layer_seconds, 's')}, the head "
        f"{number(s.head_seconds, 's')}; peak memory {number(s.peak_rss_bytes, 'B')}, the table and "
        f"one layer mapped from a file; the whole file has {number(s.source_bytes, 'B')}, of which "
        f"one layer at a time is resident. *Extrapolated* to {s.layers} layers: "
        f"{s.seconds / 60:.0f} minutes. On a GPU: not measured, none was at hand."
    )


def put_into(document: Path, sample: Sample) -> None:
    """Renew the architecture's own block of the document."""
    text = document.read_text(encoding="utf-8")
    document.write_text(
        put_block(text, MARK.format(sample.architecture), render(sample)), encoding="utf-8"
    )


def _folder() -> Path:
    folder = paths.build() / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(*architectures: str) -> None:
    """Measure each in a process of its own, or, given `--here`, in this one."""
    if architectures[:1] != ("--here",):
        for name in architectures or ARCHITECTURES:
            words = [sys.executable, "-m", "benchmarks.layer_sample", "--here", name]
            subprocess.run(words, cwd=paths.REPOSITORY, check=True)
        return
    sample = layer_sample(architectures[1])
    told = sample.model_dump() | {"seconds_extrapolated": sample.seconds}
    (_folder() / f"layer-{sample.architecture}.json").write_text(json.dumps(told, indent=2) + "\n")
    put_into(DOCUMENT, sample)
    print(render(sample))


if __name__ == "__main__":
    main(*sys.argv[1:])
