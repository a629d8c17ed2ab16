"""A pass like Olive's ModelBuilder, streaming: the same options and bytes, a tenth of the memory.

Olive's own pass calls onnxruntime-genai's builder, which holds the whole model several times over
and, with the versions pinned here, does not run (the options were renamed). This one keeps Olive's
option schema, takes the graph from Mobius and writes each weight as soon as it is quantised.
Options it cannot honour are errors, never ignored. Tests compare its output with the builder's.
"""

import json
from pathlib import Path
from typing import Any

from mobius.integrations.ort_genai import write_ort_genai_config
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes.onnx.model_builder import ModelBuilder
from olive.passes.pass_config import PassConfigParam

from shared.base.errors import RungFailed
from shared.base.parsing import nearest
from shared.base.progress import bar
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.weights import Int4Options, quantizable, write_together
from shared.olive.quantise.checkpoint import Checkpoint
from shared.olive.workflow import in_olive, need_merged

ALGORITHMS = (None, "default")
OPERATORS = ("MatMul", "Gather")
FLOAT_TYPES = {"model_q4f16.onnx": "f16", "model_q4.onnx": "f32"}
SUPPORTED = {
    "precision",
    "int4_block_size",
    "int4_accuracy_level",
    "int4_is_symmetric",
    "int4_op_types_to_quantize",
    "int4_algo_config",
    "use_webgpu_fp32",
    "extra_options",
    "both",
}


class StreamingModelBuilder(ModelBuilder):
    """4-bit ONNX for the browser, each weight written as soon as it is quantised."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        words = "write model_q4f16.onnx and, beside it, model_q4.onnx for adapters without fp16"
        both = PassConfigParam(type_=bool, default_value=False, description=words)
        return {**super()._default_config(accelerator_spec), "both": both}

    def _run_for_config(
        self, model: HfModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler:
        with in_olive():
            return self._stream(model, config, output_model_path)

    def _stream(
        self, model: HfModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler:
        need_merged(model)
        options = _options(config)
        folder, out = Path(model.model_name_or_path), Path(output_model_path)
        names = list(FLOAT_TYPES) if config.both else [_name(config)]
        out.mkdir(parents=True, exist_ok=True)
        graphs = {out / name: build_graph(folder, FLOAT_TYPES[name]) for name in names}
        last = graphs[out / names[-1]]
        with bar(f"quantise {' and '.join(names)}", quantizable(last, options), "weights") as step:
            write_together(graphs, Checkpoint(folder), options, step)
        write_ort_genai_config(last.package, str(out), ep="cpu")
        return ONNXModelHandler(
            model_path=str(out),
            onnx_file_name=names[0],
            model_attributes={"additional_files": [str(out / "genai_config.json")]},
        )


def _name(config: Any) -> str:
    return "model_q4.onnx" if config.use_webgpu_fp32 else "model_q4f16.onnx"


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
    for name in given.get("int4_op_types_to_quantize", ["MatMul"]):
        if name not in OPERATORS:
            hint = nearest(name, list(OPERATORS))
            raise RungFailed(
                f"olive.json: int4_op_types_to_quantize: {name!r} is not quantised; {hint}"
            )
    if "MatMul" not in given.get("int4_op_types_to_quantize", ["MatMul"]):
        raise RungFailed("olive.json: int4_op_types_to_quantize: MatMul always is; name it too")
    return Int4Options(
        block_size=int(given.get("int4_block_size", 32)),
        accuracy_level=int(given.get("int4_accuracy_level", 4)),
        quantize_embedding="Gather" in given.get("int4_op_types_to_quantize", ["MatMul"]),
    )
