"""An Olive pass: LoRA adapters beside a 4-bit graph, whose own bytes stay as they are.

Olive's ExtractAdapters takes adapters out of a graph that was exported with them, and quantises what
is left; this one puts those of PEFT folders behind a graph that StreamingModelBuilder wrote.
"""

from pathlib import Path
from typing import Any, get_args

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from shared.base.errors import RungFailed
from shared.base.hashing import sha256_file, sha256_json
from shared.domain.settings import Precision
from shared.olive.attach import Form, attach_files
from shared.olive.build import DTYPES
from shared.olive.workflow import in_olive
from shared.source.adapter import CONFIG, WEIGHTS, read_adapter, refuse_not_finite

CHOICES = {"form": get_args(Form), "precision": get_args(Precision)}


class AttachAdapter(Pass):
    """A and B of LoRA adapters as initializers in a data file of their own, or as inputs."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        form = "initializers: one adapter, in a further data file; inputs: one graph for all"
        precision = "how A and B are stored: f16, int8 or int4"
        files = "filled in by the pass: the hash of what adapters names"
        return {
            "adapters": PassConfigParam(
                type_=list, required=True, description="folders as peft saves them, of one base"
            ),
            "form": PassConfigParam(type_=str, default_value="initializers", description=form),
            "precision": PassConfigParam(type_=str, default_value="int4", description=precision),
            "files": PassConfigParam(type_=str, default_value=None, description=files),
        }

    def __init__(
        self, accelerator_spec: AcceleratorSpec, config: Any, host_device: Any = None
    ) -> None:
        """Olive keeps a result under its pass's options: a changed adapter must be another of them."""
        files = [Path(folder) / name for folder in config.adapters for name in (CONFIG, WEIGHTS)]
        digest = sha256_json([sha256_file(file) for file in files if file.is_file()])
        super().__init__(accelerator_spec, config.model_copy(update={"files": digest}), host_device)

    def _run_for_config(
        self, model: ONNXModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler:
        with in_olive():
            for key, allowed in CHOICES.items():
                if getattr(config, key) not in allowed:
                    given = f"{getattr(config, key)!r} is not one of {', '.join(allowed)}"
                    raise RungFailed(f"olive.json: {key}: {given}")
            out = Path(output_model_path)
            out.mkdir(parents=True, exist_ok=True)
            adapters = [read_adapter(Path(folder)) for folder in config.adapters]
            for adapter in adapters:
                refuse_not_finite(adapter)
            build = Path(model.model_path).parent
            if not any((build / f"model_{dtype}.onnx").is_file() for dtype in DTYPES):
                wanted = " or ".join(f"model_{dtype}.onnx" for dtype in DTYPES)
                raise RungFailed(
                    f"{build}: no {wanted}; AttachAdapter reads what StreamingModelBuilder writes"
                )
            names = attach_files(build, out, adapters, config.form, config.precision)
            return ONNXModelHandler(model_path=str(out), onnx_file_name=names[0])
