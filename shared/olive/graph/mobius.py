"""The bare ONNX graph of an architecture, without its weights, from Microsoft's Mobius.

Why Mobius and not onnxruntime-genai's builder: the graph needs no weights in memory (seconds and a
few hundred MB for a 3B model), its linear weights stay under their Hugging Face names and in their
Hugging Face layout, so that they can be streamed; and layers without rotary embedding (SmolLM3)
come out right, which the builder gets wrong.

What Mobius 0.1.0 reads wrongly from a configuration is corrected, where one value of Mobius's own
configuration object does it; what would need another graph is refused by architecture.py.
"""

import dataclasses
import io
import logging
import math
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from mobius import ArchitectureConfig, ModelPackage, build_from_module, registry
from transformers import AutoConfig

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.text import first_line
from shared.source.contract import is_untied

StateDict = dict[str, torch.Tensor]

OPSET = 21
"""Every standard operator used here is unchanged since opset 21, the newest that all of
onnxruntime-web's WebGPU kernels register."""


DIMENSIONS = {
    "batch": "batch_size",
    "sequence_len": "sequence_length",
    "past_sequence_len": "past_sequence_length",
    "past_seq_len + seq_len": "total_sequence_length",
    "past_sequence_len + sequence_len": "total_sequence_length",
}
"""Mobius's names → the usual ones; a new one there fails loudly."""


INTERLEAVED = ("cohere", "cohere2", "ernie4_5", "helium")
"""Models that rotate neighbouring pairs (0, 1), (2, 3), …, which Mobius rotates as two halves."""

NO_OUTPUT_BIAS = ("glm", "glm4", "helium", "seed_oss")
"""Models whose `attention_bias` is one of q, k and v only."""


@dataclass(frozen=True)
class BareGraph:
    """A model without weights.

    `proto` lacks its weight initializers; `rename` turns the names and fusions of the Hugging
    Face state dict into the graph's; `package` is Mobius's own object, for its genai_config writer.
    """

    proto: onnx.ModelProto
    rename: Callable[[StateDict], StateDict]
    package: ModelPackage


def bare_graph(hf_config: Any, dtype: str) -> BareGraph:
    """The graph for a configuration of transformers, whether or not it computes what PyTorch does."""
    config = dataclasses.replace(
        _config(hf_config),
        dtype={"f16": ir.DataType.FLOAT16, "f32": ir.DataType.FLOAT}[dtype],
        **corrections(hf_config),
    )
    module = registry.get(hf_config.model_type)(config)
    task = graph_task(hf_config)
    with redirect_stdout(io.StringIO()), _quiet("mobius"), _quiet("onnx_ir"):
        package = build_from_module(module, config, task, execution_provider="webgpu")
        package["model"].graph.name = "decoder"
        proto = ir.to_proto(package["model"])
    return BareGraph(_portable(proto), module.preprocess_weights, package)


def graph_task(hf_config: Any) -> str:
    """What Mobius builds the model type for: "text-generation" is a decoder of token ids."""
    kind = hf_config.model_type
    own = getattr(registry.get(kind), "default_task", None) if kind in registry else None
    return str(registry.get_task(kind) or own or "text-generation")


def _config(hf_config: Any) -> Any:
    """Mobius's configuration, of the class that its module names, or else its registry."""
    kind = hf_config.model_type
    named = (getattr(registry.get(kind), "config_class", None), registry.get_config_class(kind))
    made = next((c for c in named if c not in (None, ArchitectureConfig)), ArchitectureConfig)
    more = {"parent_config": hf_config} if issubclass(made, ArchitectureConfig) else {}
    return made.from_transformers(hf_config, **more)


def read_config(folder: Path) -> Any:
    """transformers' configuration object; RungFailed for an architecture that is not known."""
    where = paths.shown(folder / "config.json")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise RungFailed(f"{where}: {first_line(error)}") from None
    if config.model_type not in registry:
        raise RungFailed(f"{where}: model_type: no graph is known for {config.model_type!r}")
    if hasattr(config, "quantization_config"):  # the codes are put in here, not by Mobius
        if config.quantization_config.get("tie_word_embeddings"):  # Olive notes it there instead
            config.tie_word_embeddings = True
        del config.quantization_config
    elif config.tie_word_embeddings and is_untied(folder):
        config.tie_word_embeddings = False
    return config


def _portable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Lower to OPSET and strip build traces, so that the file says nothing about this machine."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        if node.op_type == "RMSNormalization":
            # ONNX 23's name for what onnxruntime has long had as a fused WebGPU kernel.
            node.op_type = "SimplifiedLayerNormalization"
            node.attribute.append(onnx.helper.make_attribute("stash_type", 1))
    for value in (*proto.graph.input, *proto.graph.output):
        _name_dimensions(value)
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    del proto.functions[:]
    for opset in proto.opset_import:
        if opset.domain == "":
            opset.version = OPSET
    proto.ir_version = 10
    return proto


def _name_dimensions(value: onnx.ValueInfoProto) -> None:
    """Give symbolic dimensions the names Transformers.js knows; it takes any other for 0."""
    for dimension in value.type.tensor_type.shape.dim:
        if dimension.dim_param:
            if dimension.dim_param not in DIMENSIONS:
                raise RungFailed(f"{value.name}: unknown dimension {dimension.dim_param!r}")
            dimension.dim_param = DIMENSIONS[dimension.dim_param]


class _quiet:
    """Mobius warns once per weight that has no value; without weights that is every one."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


def corrections(config: Any) -> dict[str, Any]:
    """Fields of Mobius's configuration for transformers' `config` that it reads wrongly."""
    fields: dict[str, Any] = {}
    if isinstance(bias := getattr(config, "mlp_bias", None), bool):
        fields["mlp_bias"] = bias
    if config.model_type in INTERLEAVED:
        fields["rope_interleave"] = True
    if config.model_type in NO_OUTPUT_BIAS:
        fields["attn_o_bias"] = bool(getattr(config, "attention_out_bias", False))
    return fields | _yarn(getattr(config, "rope_parameters", None) or {})


def _yarn(rope: dict[str, Any]) -> dict[str, Any]:
    """Yarn's explicit `attention_factor`, as the `mscale` that gives it; Mobius reads only that."""
    wanted, scale = rope.get("attention_factor"), rope.get("factor") or 1.0
    if rope.get("rope_type") != "yarn" or wanted is None or scale <= 1:
        return {}
    step = 0.1 * math.log(scale)
    over = 1.0 if wanted * (step + 1) != 1 else 2.0
    mscale = (wanted * (over * step + 1) - 1) / step
    return {"rope_scaling": rope | {"mscale": mscale, "mscale_all_dim": over}}
