"""Run a domain's olive.json through Olive's workflow API and insist that a model came out.

`olive run` exits 0 on some failed passes; `has_output_model()` is what tells.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import RungFailed
from shared.olive.config import OLIVE_PASS, STREAMING_PASS

failures: list[RungFailed] = []
"""What passes of ours raised: Olive's engine swallows it and goes on to end without a model."""


def package_config() -> dict[str, Any]:
    """Olive's own list of passes, with ModelBuilder replaced by the streaming one."""
    from olive.package_config import OlivePackageConfig

    # Olive remembers pass classes by type name for the whole process; ours must not be shadowed.
    OlivePackageConfig._pass_modules.clear()
    config = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text())
    config["passes"][OLIVE_PASS]["module_path"] = STREAMING_PASS
    return dict(config)


def run_workflow(config: dict[str, Any], model: Path, out: Path) -> None:
    """Run the workflow `config` on the model folder `model`, into the folder `out`.

    `out` ends with model.onnx, its external data, genai_config.json and olive.log; Olive's cache
    lives and dies inside it. Raises RungFailed with Olive's own words.
    """
    from olive.workflows import run

    bound = copy.deepcopy(config) | {
        "input_model": config["input_model"] | {"model_path": str(model)},
        "output_dir": str(out / ".olive-output"),
        "cache_dir": str(out / ".olive-cache"),
        "log_severity_level": 1,
    }
    failures.clear()
    try:
        with _log_to(out / "olive.log"):
            result = run(bound, package_config=package_config())
    except RungFailed:
        raise
    except Exception as error:
        raise RungFailed(f"olive.json: the workflow failed: {_first_line(error)}") from error
    if result is None or not result.has_output_model():
        raise _swallowed(out / "olive.log")
    _collect(Path(result.get_best_candidate().model_path), out)


def _collect(model: Path, out: Path) -> None:
    """Move (never copy) the model's files from Olive's output folder to `out`, drop the rest."""
    folder = model if model.is_dir() else model.parent
    for path in folder.iterdir():
        if ".onnx" in path.name or path.name == "genai_config.json":
            path.rename(out / path.name)
    shutil.rmtree(out / ".olive-cache", ignore_errors=True)
    shutil.rmtree(out / ".olive-output", ignore_errors=True)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send Olive's log to a file for the while: it is for the curious, not for the terminal."""
    logger = logging.getLogger("olive")
    before = logger.handlers[:], logger.propagate
    handler = logging.FileHandler(path)
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        handler.close()
        logger.handlers, logger.propagate = before


def _swallowed(log: Path) -> RungFailed:
    """The failure that Olive swallowed: our pass's own, else the last error in Olive's log."""
    if failures:
        return failures[-1]
    errors = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line]
    last = errors[-1].strip() if errors else "no reason in Olive's log"
    return RungFailed(f"olive.json: the workflow ended without a model: {last[:300]}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
