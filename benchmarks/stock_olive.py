"""Olive's own ModelBuilder pass, q4f16 for WebGPU: MODEL OUT BLOCK_SIZE [mended] [nope].

As released, olive-ai 0.13.0 does not run with onnxruntime-genai 0.18.0: it patches a module that is
gone, and hands options on under old names and unchecked. `mended`: it patches nothing, the options get
their present names, and genai's own check of them is run. `nope`: SmolLM3's layers without rope are
mended as well (benchmarks/stock_mended.py).
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

from shared.domain.domain import domain_names, load_domain
from shared.domain.olive_json import OLIVE_BUILDER, builder_pass

OLD = "int4_"


def workflow(model: Path, out: Path, block_size: int) -> dict[str, Any]:
    """Olive's configuration: its own builder with our domains' options, everything in `out`."""
    config = load_domain(domain_names()[0]).olive
    name, builder = builder_pass(config)
    return config | {
        "input_model": config["input_model"] | {"model_path": str(model)},
        "passes": {name: builder | {"type": OLIVE_BUILDER, "int4_block_size": block_size}},
        "output_dir": str(out / "olive"),
        "cache_dir": str(out / "cache"),
    }


def mend() -> None:
    """Let Olive's pass call the builder of onnxruntime-genai 0.18 as that wants to be called."""
    from olive.passes.onnx.model_builder import ModelBuilder

    builder: Any = importlib.import_module("onnxruntime_genai.models.builder")
    create = builder.create_model

    def create_model(
        model_name: str,
        input_path: str,
        output_dir: str,
        precision: Any,
        execution_provider: str,
        cache_dir: str,
        **given: Any,
    ) -> Any:
        options = {key.removeprefix(OLD): value for key, value in given.items()}
        if "op_types_to_quantize" in options:
            options["op_types_to_quantize"] = tuple(options["op_types_to_quantize"])
        bits = str(getattr(precision, "value", precision))
        where = (model_name, input_path, output_dir, bits, execution_provider, cache_dir)
        builder.check_extra_options(*where, options)
        return create(*where, **options)

    builder.create_model = create_model
    ModelBuilder.maybe_patch_quant = staticmethod(lambda: None)


def main(model: str, out: str, block_size: str, *mended: str) -> None:
    from olive.workflows import run

    if "nope" in mended:
        from benchmarks.stock_mended import mend as mend_nope

        mend_nope()
    if mended:
        mend()
    result = run(workflow(Path(model), Path(out), int(block_size)))
    if result is None or not result.has_output_model():
        sys.exit("Olive ended without a model")
    made = Path(result.get_best_candidate().model_path)
    for path in (made if made.is_dir() else made.parent).iterdir():
        path.rename(Path(out) / path.name)
    shutil.rmtree(Path(out) / "cache")


if __name__ == "__main__":
    main(*sys.argv[1:])
