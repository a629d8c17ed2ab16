"""Olive's ModelBuilder pass, streaming: the same options and the same bytes, a tenth of the memory.

Olive's own pass calls onnxruntime-genai's builder, which holds the whole model several times over
and, with the versions pinned here, does not run (the options were renamed). This one keeps Olive's
option schema, takes the graph from Mobius and writes each weight as soon as it is quantised.
Options it cannot honour are errors, never ignored. tests/ hold its output against the builder's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mobius.integrations.ort_genai import write_ort_genai_config
from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes.onnx.model_builder import ModelBuilder

from shared.errors import RungFailed
from shared.olive.graph import build_graph
from shared.olive.int4 import Int4Options, quantizable, write_int4
from shared.olive.weights import load_weights
from shared.olive.workflow import failures
from shared.progress import bar

ALGORITHMS = (None, "default")
SUPPORTED = {
    "precision",
    "int4_block_size",
    "int4_accuracy_level",
    "int4_is_symmetric",
    "int4_op_types_to_quantize",
    "int4_algo_config",
    "use_webgpu_fp32",
    "extra_options",
}


class StreamingModelBuilder(ModelBuilder):
    """Stands in for ModelBuilder (see `shared.olive.workflow.package_config`)."""

    def _run_for_config(
        self, model: HfModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler:
        try:
            return self._stream(model, config, output_model_path)
        except RungFailed as error:
            failures.append(error)
            raise

    def _stream(
        self, model: HfModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler:
        options = _options(config)
        folder, out = Path(model.model_name_or_path), Path(output_model_path)
        dtype = "f32" if config.use_webgpu_fp32 else "f16"
        name = "model_q4.onnx" if config.use_webgpu_fp32 else "model_q4f16.onnx"
        out.mkdir(parents=True, exist_ok=True)
        graph = build_graph(folder, dtype)
        with bar(f"quantise {name}", quantizable(graph, options), "weights") as step:
            write_int4(graph, load_weights(folder), out / name, options, step)
        write_ort_genai_config(graph.package, str(out), ep="cpu")
        return ONNXModelHandler(
            model_path=str(out),
            onnx_file_name=name,
            model_attributes={"additional_files": [str(out / "genai_config.json")]},
        )


def _options(config: Any) -> Int4Options:
    """Int4Options from the pass's options; RungFailed naming what this builder does not do."""
    given = {key: value for key, value in config.model_dump().items() if value not in (None, False)}
    unknown = sorted(set(given) - SUPPORTED)
    if unknown:
        raise RungFailed(f"olive.json: {unknown[0]}: not supported by the streaming builder")
    if given["precision"] != "int4" or given.get("int4_algo_config") not in ALGORITHMS:
        asked = json.dumps({k: given.get(k) for k in ("precision", "int4_algo_config")})
        raise RungFailed(f"olive.json: only int4 with the default algorithm is built, not {asked}")
    if config.int4_is_symmetric is False:
        raise RungFailed("olive.json: int4_is_symmetric: only symmetric quantisation is built")
    if given.get("extra_options"):
        key = sorted(given["extra_options"])[0]
        raise RungFailed(f"olive.json: extra_options.{key}: not supported by the streaming builder")
    return Int4Options(
        block_size=int(given.get("int4_block_size", 32)),
        accuracy_level=int(given.get("int4_accuracy_level", 4)),
        quantize_embedding="Gather" in given.get("int4_op_types_to_quantize", ["MatMul"]),
    )
