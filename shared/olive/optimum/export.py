"""Runs inside .venv-optimum: `python -I export.py FOLDER OUT` exports FOLDER/config.json's model.

Writes OUT/float32/model.onnx and OUT/float16/model.onnx: Optimum's text-generation-with-past graph
in each type, without weights. Linear weights are graph inputs under their Hugging Face names in
their Hugging Face layout, to be filled from the safetensors files afterwards.

Why without: Optimum holds the model in float32, writes it, and loads what it wrote to write it again;
a 3B model takes 25 GB that way. The graph does not depend on the weights' values, so that each weight
is a stand-in here: one zero, seen through strides of zero as a whole matrix.

Why float16 is exported and not converted from float32: the model's own code says what must stay in
float32 (norms, the rotary angles, which in float16 are wrong beyond position 2048), and says it
through casts that are only there to be traced in float16.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.onnx.convert import onnx_export_from_model
from torch.onnx._internal.torchscript_exporter import utils as exporter
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import no_init_weights  # type: ignore[attr-defined]  # 4.57's, not ours

TASK = "text-generation-with-past"
DTYPES = (torch.float32, torch.float16)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for the while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def model_without_weights(folder: str, dtype: torch.dtype) -> Any:
    """The architecture with stand-ins for parameters; buffers, like the rotary angles', are real."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    register = torch.nn.Module.register_parameter

    def register_stand_in(module: Any, name: str, parameter: Any) -> None:
        if parameter is not None:
            zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            parameter = torch.nn.Parameter(zeros, requires_grad=False)
        register(module, name, parameter)

    with replaced(torch.nn.Module, "register_parameter", register_stand_in), no_init_weights():
        # "eager": the other attention is traced with an IsNaN for each layer, which WebGPU lacks.
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="eager", trust_remote_code=False
        )
    model.tie_weights()
    return model


def export(folder: str, dtype: torch.dtype, out: Path) -> None:
    """Optimum's export, from which torch's exporter leaves out the parameters."""
    model = model_without_weights(folder, dtype)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    to_graph = exporter._model_to_graph

    def to_bare_graph(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any], Any]:
        graph, tensors, outputs = to_graph(*args, **kwargs)
        return graph, {k: v for k, v in tensors.items() if k not in names}, outputs

    with replaced(exporter, "_model_to_graph", to_bare_graph):
        onnx_export_from_model(
            model,
            out,
            task=TASK,
            device="cpu",
            do_validation=False,
            no_post_process=True,
            do_constant_folding=False,  # folding would transpose every weight
        )


def main(folder: str, out: str) -> None:
    for dtype in DTYPES:
        export(folder, dtype, Path(out) / str(dtype).removeprefix("torch."))
        gc.collect()


if __name__ == "__main__":
    main(*sys.argv[1:])
