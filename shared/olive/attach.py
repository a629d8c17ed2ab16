"""Adapters beside a build's graphs: a whole build for one domain, or one graph and files to swap.

    attached  model_<dtype>.onnx, the base's data files as they are, the adapter's in one more
    swap      swap_<dtype>.onnx: the adapter's tensors are inputs, whatever domain they are of
    adapter   adapter.safetensors for a page (its json names shapes and hash), adapter.onnx_adapter
              for onnxruntime-genai's `og.Adapters`

`swap_<dtype>.onnx` reads the base's data file beside it, and cannot run without an adapter.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
import torch

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.files import link_or_copy, write_bytes, write_json
from shared.base.hashing import sha256_files
from shared.base.manifest import Measurement, tool_versions
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.settings import Precision
from shared.olive.build import DTYPES, TOOLS
from shared.olive.family_record import FILES, SWAP
from shared.olive.graph.adapters import (
    adapter_tensors,
    attach,
    in_graph_type,
    needed_ranks,
    products,
)
from shared.olive.graph.external_data import ExternalDataWriter
from shared.source.adapter import CONFIG, WEIGHTS, Adapter, read_adapter
from shared.source.source import Source, weights_hash
from shared.source.weights import parts

Form = Literal["initializers", "inputs"]
PASS = "shared.olive.attach_pass"
GENAI_DTYPE = DTYPES[0]
"""The graph whose float type an .onnx_adapter has, as genai_config.json names it."""


def adapter_on(source: Source, weights: str) -> Adapter:
    """The adapter of a source; RungFailed where it has none, or its base has another weights_hash."""
    base, folder = parts(source.folder)
    if folder is None:
        raise RungFailed(
            f"{paths.shown(base)}: a whole model; only adapters of one base can share it"
        )
    if weights_hash(base) != weights:
        raise RungFailed(
            f"{paths.shown(folder)}: its base {paths.shown(base)} is not the one that is shared; "
            "the adapters of a family have one base"
        )
    return read_adapter(folder)


def attached_stage(
    build: StageResult, source: Source, precision: Precision, *, force: bool = False
) -> StageResult:
    """The base's build with the source's adapter in it: as any build for the stages after it.

    Its settings tell the whole recipe, and its inputs what calibrated the base.
    """
    adapter, made = _fitting(build, source), build.manifest
    workflow, step = made.settings["olive"], _pass("initializers", precision)
    settings = made.settings | {
        "olive": workflow | {"passes": workflow["passes"] | {"attach": step}},
        "passes": [*made.settings["passes"], "attach"],
    }
    inputs = {"weights": weights_hash(source.folder)}
    inputs |= {key: made.inputs[key] for key in ("calibration",) if key in made.inputs}

    def produce(work: Path) -> Produced:
        _by_olive(build.folder, work, [adapter], "initializers", precision)
        return Produced(_sizes(work, build.folder))

    return run_stage(_plan("attached", build, inputs, settings), produce, force=force)


def swap_stage(
    build: StageResult, sources: Sequence[Source], precision: Precision, *, force: bool = False
) -> StageResult:
    """One graph a numeric type for the adapters of all sources, whose tensors are its inputs.

    It depends on the largest rank of each product alone: a further adapter that needs no more leaves
    it as it is. Its facts name the ranks.
    """
    adapters = [_fitting(build, source) for source in sources]
    ranks = needed_ranks(products(_graph(build.folder, DTYPES[0])), adapters, precision)
    settings = {"form": "inputs", "precision": precision, "ranks": ranks}

    def produce(work: Path) -> Produced:
        _by_olive(build.folder, work, adapters, "inputs", precision)
        for data in work.glob("model_*"):  # they are the base's
            data.unlink()
        return Produced(facts={"ranks": ranks})

    return run_stage(_plan("swap", build, {}, settings), produce, force=force)


def adapter_stage(
    build: StageResult,
    swap: StageResult,
    source: Source,
    precision: Precision,
    *,
    force: bool = False,
) -> StageResult:
    """The source's adapter as files for the graph of `swap`: FILES."""
    adapter, ranks = _fitting(build, source), swap.manifest.facts["ranks"]
    settings = {"precision": precision, "ranks": ranks}

    def produce(work: Path) -> Produced:
        graph = _graph(build.folder, GENAI_DTYPE)
        tensors = adapter_tensors(products(graph), adapter, ranks, precision)
        _write(work, tensors, graph, build.manifest.inputs["weights"], precision)
        size = (work / FILES[0]).stat().st_size
        return Produced({"adapter_bytes": Measurement(value=size, unit="B", how=FILES[0])})

    files = sha256_files(adapter.folder, (CONFIG, WEIGHTS))
    return run_stage(_plan("adapter", build, files, settings), produce, force=force)


def _fitting(build: StageResult, source: Source) -> Adapter:
    return adapter_on(source, build.manifest.inputs["weights"])


def _plan(stage: str, build: StageResult, inputs: dict[str, str], settings: dict[str, Any]) -> Plan:
    return Plan(
        stage,
        inputs={"base": build.manifest.key, **inputs},
        settings=settings,
        tools=tool_versions(*TOOLS, "onnxruntime"),
        code=(__name__, PASS),
    )


def _pass(form: Form, precision: Precision) -> dict[str, Any]:
    return {"type": "AttachAdapter", "form": form, "precision": precision}


def _by_olive(
    build: Path, work: Path, adapters: Sequence[Adapter], form: Form, precision: Precision
) -> None:
    from shared.olive.workflow import run_workflow

    step = _pass(form, precision) | {"adapters": [str(adapter.folder) for adapter in adapters]}
    graph = {"type": "ONNXModel", "onnx_file_name": f"model_{DTYPES[0]}.onnx"}
    run_workflow({"input_model": graph, "passes": {"attach": step}}, build, work)
    stem = "model" if form == "initializers" else SWAP
    (work / "model.onnx").rename(work / f"{stem}_{DTYPES[0]}.onnx")  # Olive's name for the first
    if (build / "genai_config.json").is_file() and form == "initializers":
        link_or_copy(build / "genai_config.json", work / "genai_config.json")


def attach_files(
    build: Path, out: Path, adapters: Sequence[Adapter], form: Form, precision: Precision
) -> list[str]:
    """What the pass AttachAdapter writes: the names of the graphs, and the base's data beside them.

    RungFailed where an adapter does not fit, and where several are to be initializers.
    """
    if form == "initializers" and len(adapters) != 1:
        raise RungFailed(f"olive.json: adapters: form initializers takes one, not {len(adapters)}")
    names = []
    for dtype in (d for d in DTYPES if (build / f"model_{d}.onnx").is_file()):
        file, model = f"model_{dtype}.onnx", _graph(build, dtype)
        data = sorted(build.glob(f"{file}_data*"))
        for path in data:
            link_or_copy(path, out / path.name)
        found = products(model)
        ranks = needed_ranks(found, adapters, precision)
        tensors = adapter_tensors(found, adapters[0], ranks, precision)
        if form == "inputs":
            attach(model, tensors)
            names.append(f"{SWAP}_{dtype}.onnx")
        else:
            with ExternalDataWriter(out / file, behind=len(data)) as sink:
                attach(model, tensors, sink)
            names.append(file)
        onnx.save_model(model, str(out / names[-1]))
    return names


def _graph(build: Path, dtype: str) -> onnx.ModelProto:
    return onnx.load(str(build / f"model_{dtype}.onnx"), load_external_data=False)


def _sizes(work: Path, build: Path) -> dict[str, Measurement]:
    """Bytes of graph and data, as of any build, and those of them that are not the base's."""
    sizes = {}
    for dtype in DTYPES:
        files = list(work.glob(f"model_{dtype}.onnx*"))
        own = [path for path in files if not _is_base(path, build)]
        for name, some in ((f"{dtype}_bytes", files), (f"{dtype}_own_bytes", own)):
            how = f"model_{dtype}.onnx and its external data"
            how += ", without the base's" if some is own else ""
            size = sum(path.stat().st_size for path in some)
            sizes[name] = Measurement(value=size, unit="B", how=how)
    return sizes


def _is_base(path: Path, build: Path) -> bool:
    return "_data" in path.name and (build / path.name).is_file()


def _write(
    work: Path,
    tensors: Mapping[str, torch.Tensor],
    graph: onnx.ModelProto,
    base: str,
    precision: Precision,
) -> None:
    from safetensors.torch import save

    page, told, genai = (work / name for name in FILES)
    digest = write_bytes(page, save(dict(tensors)))
    shapes = {n: [str(t.dtype).removeprefix("torch."), *t.shape] for n, t in tensors.items()}
    record = {"version": 1, "base_weights": base, "precision": precision}
    record |= {"sha256": digest, "bytes": page.stat().st_size, "tensors": shapes}
    write_json(told, record)
    _export(genai, {name: in_graph_type(graph, tensor) for name, tensor in tensors.items()})


def _export(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """In onnxruntime's own format, which points at the arrays until it is written."""
    from onnxruntime import AdapterFormat, OrtValue

    arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
    made = AdapterFormat()
    made.set_adapter_version(1)
    made.set_model_version(1)
    made.set_parameters({n: OrtValue.ortvalue_from_numpy(a) for n, a in arrays.items()})
    made.export_adapter(str(file))
    del arrays
