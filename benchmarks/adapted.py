"""`python -m benchmarks.adapted`: a full-size SmolLM3 and a LoRA, built without a merged copy.

Random base, random adapter over all linear layers. Built once from base and adapter, merged as each
weight is read, and once from the folder that peft's `merge_and_unload` in float32 leaves; both by the
streaming builder in q4f16. Writes docs/adapter-at-size.md: seconds, memory, and whether
the bytes are the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file
from tabulate import tabulate
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.build import measured
from benchmarks.full_size import BLOCK_SIZE, full_size_model
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.files import write_text
from shared.base.formatting import number
from shared.base.hashing import sha256_files
from shared.base.processes import peak_memory
from shared.base.progress import say
from shared.source.adapter import CONFIG, WEIGHTS, read_adapter
from shared.source.joined import joined_folder
from shared.source.model import load_model
from shared.source.weights import weight_names

ARCHITECTURE, RANK = "smollm3", 32
DOCUMENT = paths.REPOSITORY / "docs" / "adapter-at-size.md"


def write_random_adapter(base: Path, folder: Path, rank: int = RANK, seed: int = 7) -> Path:
    """A LoRA over every linear layer but the head, N(0, 0.02²), as peft's two files."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(base, trust_remote_code=False), trust_remote_code=False
        )
    generator = torch.Generator().manual_seed(seed)
    tensors, names = dict[str, torch.Tensor](), set[str]()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            names.add(name.rpartition(".")[2])
            for half, shape in (
                ("A", (rank, module.in_features)),
                ("B", (module.out_features, rank)),
            ):
                drawn = torch.randn(shape, generator=generator) * 0.02
                tensors[f"base_model.model.{name}.lora_{half}.weight"] = drawn.to(torch.bfloat16)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": rank}
    config |= {"lora_alpha": 2 * rank, "target_modules": sorted(names)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / WEIGHTS)
    return folder


def merge_with_peft(base: Path, adapter: Path, to: Path) -> tuple[float, int]:
    """peft's own merged folder in bfloat16; seconds, and the most bytes of memory it held."""
    from peft import PeftModel

    started = time.monotonic()
    with peak_memory(psutil.Process()) as peak:
        model = PeftModel.from_pretrained(load_model(base, "float32"), str(adapter))
        model.merge_and_unload().to(torch.bfloat16).save_pretrained(to)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, to / name)
    return time.monotonic() - started, peak[0]


def compare(work: Path) -> str:
    """Both ways, as a table with what was found equal."""
    base = full_size_model(ARCHITECTURE)
    adapter = write_random_adapter(base, work / "adapter")
    merged = work / "merged"
    say("merging with peft, in float32")
    seconds, memory = merge_with_peft(base, adapter, merged)
    places = {"base + adapter": joined_folder(base, read_adapter(adapter)), "merged folder": merged}
    rows, hashes = list[list[object]](), list[dict[str, str]]()
    for label, place in places.items():
        out = work / label.replace(" ", "")
        words = [sys.executable, "-m", "benchmarks.build_once", str(place), str(out)]
        built = measured(ARCHITECTURE, label, [*words, str(BLOCK_SIZE[ARCHITECTURE])], out)
        names = sorted(path.name for path in out.glob("model*.onnx*"))
        hashes.append(sha256_files(out, names))
        copied = sum((place / name).stat().st_size for name in weight_names(place))
        before = number(round(seconds), "s") if place == merged else "none"
        rows.append(
            [
                label,
                before,
                number(memory, "B") if place == merged else "none",
                number(copied, "B") if place == merged else "none",
                number(round(built.seconds, 1), "s"),
                number(built.peak_rss_bytes or 0, "B"),
                built.error or built.generates,
            ]
        )
        shutil.rmtree(out)
    heads = (
        "built from",
        "merging",
        "its memory",
        "its copy",
        "build",
        "build's memory",
        "on the CPU",
    )
    same = "the same" if hashes[0] == hashes[1] else "**not the same**"
    size = number((adapter / WEIGHTS).stat().st_size, "B")
    return (
        f"# An adapter for a full-size SmolLM3\n\nWritten by `python -m benchmarks.adapted` on "
        f"{datetime.now(UTC).date()}: random weights in SmolLM3-3B's shape, a random LoRA of rank "
        f"{RANK} over its linear layers ({size}). The builder alone, without calibration, in q4f16. By "
        f"SHA-256 of graph and data, both builds are {same}.\n\n"
        f"{tabulate(rows, heads, tablefmt='github')}\n"
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    set_variables()
    work = paths.build() / "bench-adapted"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        print(paths.shown(write_text(DOCUMENT, compare(work))))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
