"""The recipe "optimum": Optimum's export with past, 4-bit blocks, both types a browser may need.

What Transformers.js's own conversion script used to do; here to be measured against the streaming
recipe. Its attention is spelled out in small operators (no GroupQueryAttention), which makes it the
slower one; its 4-bit weights are the same bytes.

Memory: what torch needs to trace a model without its weights, and after that one weight at a time.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import onnx

from shared.base.errors import RungFailed
from shared.base.manifest import tool_versions
from shared.base.progress import bar, say
from shared.base.venv import Venv, log_tail, read_pins
from shared.olive.graph.mobius import StateDict
from shared.olive.graph.weights import Int4Options, quantizable, write_int4
from shared.olive.optimum.graphs import read_bare_graph, write_full
from shared.olive.optimum.old_config import read_config, write_old_config
from shared.source.model import model_weights

GRAPHS = {"q4f16": "float16", "q4": "float32"}
"""Name in Transformers.js → the type in which export.py traced the graph."""

LOCK_FILE = Path(__file__).with_name("requirements.lock")
TOOLS = ("torch", "transformers", "optimum", "optimum-onnx")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def optimum_venv() -> Venv:
    """Optimum's environment: its exporter pins an older transformers. A minute and 1.2 GB."""
    return Venv(".venv-optimum", "the optimum recipe", LOCK_FILE)


def pinned() -> dict[str, str]:
    """Package → version, as the lock has them."""
    return {pin.name: str(pin.specifier).lstrip("=") for pin in read_pins(LOCK_FILE)}


def optimum_tools() -> dict[str, str]:
    """Versions that the result depends on: Optimum's environment's, and ours of the file format."""
    theirs = pinned()
    return {f"optimum/{name}": theirs[name] for name in TOOLS} | tool_versions("onnx", "torch")


def build_optimum(
    folder: Path, work: Path, block_size: int = 32, keep_onnx: Path | None = None
) -> None:
    """Build the model in `folder` into `work`: model_<dtype>.onnx, their data, genai_config.json.

    `keep_onnx`: a folder for the float32 ONNX (model.onnx and its data), replaced when it is whole.
    Raises RungFailed with one sentence; recipe.log in `work` holds what the tools said.
    """
    config = read_config(folder)
    weights = model_weights(folder)
    with tempfile.TemporaryDirectory(dir=work, prefix=".export-") as bare:
        _export(config, Path(bare), work / "recipe.log")
        for dtype, kind in GRAPHS.items():
            file = work / f"model_{dtype}.onnx"
            _write_4_bit(Path(bare) / kind / "model.onnx", weights, file, block_size)
        if keep_onnx:
            _keep(Path(bare) / GRAPHS["q4"] / "model.onnx", weights, keep_onnx)
    head_size = _head_size(work / "model_q4.onnx")
    text = json.dumps(genai_config(config, head_size), indent=2)
    (work / "genai_config.json").write_text(text, encoding="utf-8")


def _export(config: Any, bare: Path, log: Path) -> None:
    """Run export.py in Optimum's environment: `bare`/<type>/model.onnx."""
    python = optimum_venv().python()
    say("      tracing the graph with Optimum, in float32 and in float16")
    write_old_config(config, bare)
    script = Path(__file__).with_name("export.py")
    with log.open("a") as file:
        done = subprocess.run(
            [str(python), "-I", str(script), str(bare), str(bare)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | OFFLINE,
        )
    if done.returncode:
        # A signal leaves no words of its own; 9 is what a system short of memory sends.
        why = log_tail(log, 1) if done.returncode > 0 else f"killed by signal {-done.returncode}"
        raise RungFailed(f"Optimum could not export the model: {why}")


def _write_4_bit(source: Path, weights: StateDict, file: Path, block_size: int) -> None:
    graph = read_bare_graph(source, weights)
    options = Int4Options(block_size=block_size)
    with bar(f"quantise {file.name}", quantizable(graph, options), "weights") as step:
        write_int4(graph, weights, file, options, step)


def _keep(source: Path, weights: StateDict, keep: Path) -> None:
    """The float32 ONNX, in a hidden folder beside its place until it is whole."""
    say("      writing the full-precision ONNX")
    partial = keep.with_name(f".{keep.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_full(read_bare_graph(source, weights), weights, partial / "model.onnx")
    shutil.rmtree(keep, ignore_errors=True)
    partial.rename(keep)


def _head_size(file: Path) -> int:
    graph = onnx.load(str(file), load_external_data=False).graph
    past = next(value for value in graph.input if value.name.startswith("past_key_values"))
    return int(past.type.tensor_type.shape.dim[3].dim_value)


def genai_config(config: Any, head_size: int) -> dict[str, Any]:
    """What onnxruntime-genai asks for; a graph without GroupQueryAttention grows its cache anew with
    each token, so that past and present cannot share a buffer."""
    cache = {"key_names": "key", "value_names": "value"}
    inputs = {name: name for name in ("input_ids", "attention_mask", "position_ids")}
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model_q4f16.onnx",
        "head_size": head_size,
        "hidden_size": config.hidden_size,
        "inputs": inputs | {f"past_{k}": f"past_key_values.%d.{v}" for k, v in cache.items()},
        "outputs": {"logits": "logits"}
        | {f"present_{k}": f"present.%d.{v}" for k, v in cache.items()},
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
    }
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    model: dict[str, Any] = {
        "type": "decoder",  # any of them: what kind, the graph says
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "decoder": decoder,
    } | {name: getattr(config, name) for name in tokens if getattr(config, name) is not None}
    search = {
        "do_sample": False,
        "max_length": config.max_position_embeddings,
        "past_present_share_buffer": False,
    }
    return {"model": model, "search": search}
