"""Domains for tests: they take tiny stand-ins of any architecture, and read little in the browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks import any_architecture
from shared.base import paths


def take_any_architecture(domain: Path) -> None:
    """Take `model_type` out of a copied domain's defaults, so that a tiny stand-in of any architecture
    may lie where SmolLM3 belongs."""
    any_architecture.take_any_architecture(domain.parent)
    read_little(domain)


def as_shipped(root: Path) -> None:
    """Give the domain `legal` and the defaults back what they say in the repository."""
    shipped = paths.REPOSITORY / "domains"
    shutil.copytree(shipped / "legal", root / "domains" / "legal", dirs_exist_ok=True)
    shutil.copy(shipped / "defaults.toml", root / "domains")


SHORTER = """
[fidelity]
tokens = 256

[bench]
parity_tokens = 64
time_budget_seconds = 3600

[[gate]]
name = "positions compared, WebGPU with the CPU"
at_least = 64
"""


def read_little(domain: Path) -> None:
    """Give both WebGPU and the CPU two rows of text instead of sixteen, and let the gate on how much
    must be read ask for those: the proof is the same. Likewise a quarter of fidelity's text: a random
    model's flat distributions take long to cut; and of an answer, which such a model never ends.
    The browser gets an hour: a busy machine needs it, a quiet one does not. Texts to calibrate with and
    held-out records are the first ones: more of them are read, not otherwise."""
    keep_first(domain / "calibration.jsonl", 4)
    keep_first(domain / "eval.jsonl", 40)
    with (domain / "fallback.toml").open("a", encoding="utf-8") as toml:
        toml.write(SHORTER)
    any_architecture.answer_at_most(domain, 40)


def keep_first(file: Path, records: int) -> None:
    """Keep so many of a file's records; calibration's are the longest part of a build."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:records]), encoding="utf-8")


def share_embedded(root: Path) -> None:
    """Take the dequantised model over by hard links instead of making it again."""
    made = paths.REPOSITORY / "build" / "embedded"
    shutil.copytree(made, root / "build" / "embedded", copy_function=os.link)
