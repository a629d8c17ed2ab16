"""Our streaming builder against onnxruntime-genai's own, on tiny models of every architecture.

Both write float32 activations over 4-bit weights. The same logits within rounding say that the same
codes, scales and graph came out. In theirs SmolLM3's NoPE
layers are mended (benchmarks/stock_mended.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.torch import load_file, save_file

from shared.base import paths
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.weights import Int4Options, write_int4
from shared.olive.quantise.nearest import dequantize, quantize
from shared.source.weights import SINGLE, load_weights
from tests.test_build import run
from tests.tiny import FEW_TOKENS, write_tiny

NAMES = ("llama", "phi3", "qwen2", "smollm3")
HEAD_SIZE = 16
IDS = (1, 4093, 198, 1780, 314, 260, 3575, 282, 649, 47, 2, 198, 1, 520, 2531, 198)
SCRIPT = """
import sys
from benchmarks.stock_mended import mend
mend()
from onnxruntime_genai.models.builder import create_model, parse_extra_options
for name in sys.argv[2:]:
    model, out = sys.argv[1] + "/models/" + name, sys.argv[1] + "/" + name
    embedding = "op_types_to_quantize=MatMul/Gather" if name == "phi3" else "shared_embeddings=true"
    options = ["use_webgpu_fp32=true", "accuracy_level=1", "block_size=32", embedding]
    where = (model, model, out, "int4", "webgpu", out + "/cache")
    create_model(*where, **parse_extra_options(*where, options))
"""


@pytest.fixture(scope="module")
def folder(embedded: Path, new_folder: Callable[[str], Path]) -> Path:
    """A folder with tiny models, and what genai's builder makes of each, all in one process."""
    folder = new_folder("stock")
    for name in NAMES:
        short = {"original_max_position_embeddings": 2048} if name == "phi3" else {}  # no long rope
        model = write_tiny(folder / "models" / name, name, embedded, **short, vocab_size=FEW_TOKENS)
        if name == "phi3":
            without_halves(model / SINGLE)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *NAMES],
        cwd=paths.REPOSITORY,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def without_halves(file: Path) -> None:
    """Give the table values that lie on codes: in a table of its own genai rounds what is exactly
    halfway between two codes to the even one, in every other weight up, as we do."""
    weights = load_file(file)
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = dequantize(*quantize(table, 32)).to(table.dtype)
    save_file(weights, file, metadata={"format": "pt"})


def logits(file: Path) -> np.ndarray:
    """Of IDS, from an empty cache; their graphs leave its last dimension open."""
    session = ort.InferenceSession(file)
    empty = {
        i.name: np.zeros((1, i.shape[1], 0, HEAD_SIZE), np.float32)
        for i in session.get_inputs()
        if i.name.startswith("past")
    }
    return np.asarray(run(session, IDS, empty)["logits"][0])


@pytest.mark.parametrize("name", NAMES)
def test_computes_what_genais_builder_computes(name: str, folder: Path, tmp_path: Path) -> None:
    model, ours = folder / "models" / name, tmp_path / "model.onnx"
    options = Int4Options(accuracy_level=1, block_size=32, quantize_embedding=True)
    write_int4(build_graph(model, "f32"), load_weights(model), ours, options)
    expected, found = logits(folder / name / "model.onnx"), logits(ours)
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-4
