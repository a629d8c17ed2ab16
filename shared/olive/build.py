"""Stage 2, build: the domain's olive.json run by Olive, for both numeric types a browser needs.

q4f16 (4-bit weights, fp16 activations) is what adapters with shader-f16 load; q4 (fp32 activations)
is for those without. They share their 4-bit codes, which are computed once. The result depends on
the weights' bytes, on the workflow and, where it has some, on the calibration text; domains in which
all of these are alike share it.
"""

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.base.errors import RungFailed
from shared.base.files import write_text
from shared.base.manifest import Measurement, tool_versions
from shared.base.progress import say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.domain.olive_json import OWN_PASSES, with_overrides
from shared.domain.records import Record
from shared.domain.settings import Exporter, Rung
from shared.olive.calibration_text import (
    FILE,
    TOKENS,
    bound,
    calibration_stage,
    settings_of,
    wants_calibration,
)
from shared.source.source import Source, weights_hash

DTYPES = ("q4f16", "q4")
"""Names in Transformers.js; the first is what Olive's workflow names, the second comes with it."""

PASSES = ("shared.olive.builder_pass", "shared.olive.calibrated_pass")
"""What Olive loads by the name in its list of passes."""

TOOLS = ("olive-ai", "mobius-onnx", "onnx", "onnx-ir", "torch", "transformers", "numba")

BUILT_FROM = ".built-from"
"""In a folder of `--keep-onnx`: the key of the build whose export it is."""

LAYERS_KEPT_SECONDS = 7 * 24 * 3600
"""How long the calibrated layers of a killed build wait for somebody to go on with it."""


def build_stage(
    domain: Domain,
    rung: Rung,
    source: Source,
    exporter: Exporter = "olive",
    *,
    keep_onnx: Path | None = None,
    measured: Iterable[Record] = (),
    beside: Sequence[Domain] = (),
    device: str = "cpu",
    force: bool = False,
) -> StageResult:
    """Build all DTYPES: `model_<dtype>.onnx`, their external data, genai_config.json, logs.

    `keep_onnx`: where the full-precision ONNX goes, for the exporter that makes one ("optimum").
    `measured`: records that this run measures besides the domain's own; none may calibrate.
    `beside`: domains whose text calibrates together with this one's. `device`: where PyTorch
    calibrates; a GPU sums up in another order, so that near ties are rounded otherwise.
    """
    where = f"domains/{domain.name}/fallback.toml: rung {rung.name}"
    workflow = with_overrides(domain.olive, rung.olive, where)
    weights = {"weights": weights_hash(source.folder)}
    if rung.adapter and exporter == "olive":
        _refuse_whole_models(workflow, rung)
    if exporter == "optimum":
        return _optimum_stage(source.folder, weights, block_size(workflow), keep_onnx, force)
    tokens, on_gpu = None, {}
    if wants_calibration(workflow):
        calibration = calibration_stage(domain, source, measured, beside=beside)
        weights["calibration"] = calibration.manifest.key
        tokens = calibration.folder / TOKENS
        ours = FILE in (one.get("calibration") for one in settings_of(workflow))
        on_gpu = {"device": device} if ours and device != "cpu" else {}
    plan = Plan(
        "build",
        inputs=weights,
        settings={
            "olive": workflow,
            "passes": list(workflow["passes"]),
            "in_order": json.dumps(workflow),  # what stands before what, which a key does not see
            "dtypes": list(DTYPES),
            **on_gpu,
        },
        tools=tool_versions(*TOOLS),
        code=(__name__, *PASSES),
    )
    ready = bound(workflow, tokens, device) if tokens else workflow
    layers = plan.folder.with_name(f".{plan.key}.layers")

    def produce(work: Path) -> Produced:
        if force:
            shutil.rmtree(layers, ignore_errors=True)
        gone_on = layers.is_dir() and any(layers.iterdir())
        return replace(_build(ready, source.folder, work, layers), resumed=gone_on)

    done = run_stage(plan, produce, force=force)
    if not done.reused:
        _forget_layers(layers)
    return done


def _refuse_whole_models(workflow: dict[str, Any], rung: Rung) -> None:
    """RungFailed where a pass of Olive's own would read the base without the rung's adapter."""
    for name, settings in workflow["passes"].items():
        if settings["type"] not in OWN_PASSES:
            raise RungFailed(
                f"olive.json: passes.{name}: {settings['type']} reads a whole model, but rung "
                f"{rung.name} merges its adapter while it is read; merge it first, with peft's "
                "merge_and_unload()"
            )


def _forget_layers(layers: Path) -> None:
    """Remove what a finished build kept in case it is killed, and what nobody went on with."""
    shutil.rmtree(layers, ignore_errors=True)
    for other in layers.parent.glob(".*.layers"):
        with suppress(OSError):  # its own build may be removing it
            newest = max(path.stat().st_mtime for path in (other, *other.rglob("*")))
            if newest < time.time() - LAYERS_KEPT_SECONDS:
                shutil.rmtree(other)


def _build(workflow: dict[str, Any], folder: Path, work: Path, layers: Path) -> Produced:
    say("      starting Olive")
    from shared.olive.workflow import run_workflow

    part = work / "olive"
    part.mkdir()
    run_workflow(workflow, folder, part, both=True, layers=layers)
    _collect(part, work)
    return Produced(_sizes(work))


def _optimum_stage(
    folder: Path, weights: dict[str, str], block_size: int, keep_onnx: Path | None, force: bool
) -> StageResult:
    """Optimum's export, quantised afterwards, in an environment of its own."""
    from shared.olive.optimum.recipe import build_optimum, optimum_tools

    plan = Plan(
        "build",
        inputs=weights,
        settings={"exporter": "optimum", "block_size": block_size, "dtypes": list(DTYPES)},
        tools=optimum_tools(),
        code=(__name__,),
    )

    def produce(work: Path) -> Produced:
        build_optimum(folder, work, block_size, keep_onnx)
        return Produced(_sizes(work))

    if keep_onnx is None:
        return run_stage(plan, produce, force=force)
    note = keep_onnx / BUILT_FROM
    there = note.is_file() and note.read_text(encoding="utf-8") == plan.key
    done = run_stage(plan, produce, force=force or not there)
    write_text(note, plan.key)
    return done


def block_size(workflow: dict[str, Any]) -> int:
    """The block size of the workflow's builder pass: both exporters quantise alike."""
    sizes = [settings.get("int4_block_size") for settings in workflow["passes"].values()]
    return int(next((size for size in sizes if size), 32))


def _sizes(work: Path) -> dict[str, Measurement]:
    """Bytes of graph and external data, per dtype."""
    return {
        f"{dtype}_bytes": Measurement(
            value=sum(p.stat().st_size for p in work.glob(f"model_{dtype}.onnx*")),
            unit="B",
            how=f"model_{dtype}.onnx and its external data",
        )
        for dtype in DTYPES
    }


def _collect(part: Path, work: Path) -> None:
    """Move (never copy) the build's files into place under their final names.

    Olive names the graph model.onnx; the external data keep the name that the graph refers to.
    """
    first = next(iter(DTYPES))
    if not (part / f"model_{first}.onnx").exists() and (part / "model.onnx").exists():
        (part / "model.onnx").rename(part / f"model_{first}.onnx")
    for dtype in DTYPES:
        if not (part / f"model_{dtype}.onnx").exists() or not _data(part, dtype):
            found = ", ".join(sorted(p.name for p in part.iterdir()))
            raise RungFailed(f"olive.json: expected a graph with data for {dtype}, found {found}")
    for path in sorted(part.iterdir()):
        path.rename(work / path.name)
    part.rmdir()


def _data(folder: Path, dtype: str) -> list[Path]:
    return sorted(folder.glob(f"model_{dtype}.onnx_data*"))
