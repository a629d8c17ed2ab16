"""Run a domain's olive.json through Olive's workflow API and insist that a model came out.

`olive run` exits 0 on some failed passes; `has_output_model()` is what tells.
"""

import copy
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from shared.base.errors import RungFailed, UserError, of_this_machine
from shared.base.hashing import sha256_file
from shared.base.text import first_line
from shared.domain.olive_json import PASSES_FILE, builder_pass

layer_folder: ContextVar[Path | None] = ContextVar("layer_folder", default=None)
"""Where passes of ours keep the layers that are finished, for a run after this one is killed."""


class Refused(UserError, ValueError):
    """A mistake found within a pass of ours. Of all exceptions Olive's engine lets go through only
    ValueError and four like it; of others it ends without a model, and `olive run` with exit code 0."""


class RungRefused(RungFailed, ValueError):
    """The same where another rung may do."""


@contextmanager
def in_olive() -> Iterator[None]:
    """Around a pass of ours: whatever it raises goes through Olive, with its own words."""
    try:
        yield
    except RungFailed as error:
        raise RungRefused(str(error)) from error
    except UserError as error:
        raise Refused(str(error)) from error
    except Exception as error:
        if of_this_machine(error):
            raise Refused(f"the build ended: {first_line(error)}") from error
        raise RungRefused(f"olive.json: the workflow failed: {first_line(error)}") from error


def run_workflow(
    config: dict[str, Any],
    model: Path,
    out: Path,
    *,
    both: bool = False,
    layers: Path | None = None,
) -> None:
    """Run the workflow `config` on the model folder `model`, into the folder `out`.

    `out` ends with model.onnx, its external data, genai_config.json and olive.log (with `both` also
    model_q4.onnx and its data); Olive's cache lives and dies inside it. `layers`: a folder in which
    calibrated layers outlive a killed run, whose own they must be. Raises RungFailed with Olive's own
    words.
    """
    from olive.workflows import run

    _keep_olive_silent()
    bound = copy.deepcopy(config) | {
        "input_model": config["input_model"] | {"model_path": str(model)},
        "output_dir": str(out / ".olive-output"),
        "cache_dir": str(out / ".olive-cache"),
        "workflow_id": "docintel",  # a folder in the cache, which clean_cache would empty
        "clean_cache": False,
        "log_severity_level": 1,
    }
    if both:
        _, builder = builder_pass(bound)
        builder.get("config", builder)["both"] = True
    token = layer_folder.set(layers)
    try:
        with _log_to(out / "olive.log"), _without_reading_or_copying():
            result = run(bound, package_config=str(PASSES_FILE))
    except UserError:
        raise
    except Exception as error:
        if of_this_machine(error):
            raise
        raise RungFailed(f"olive.json: the workflow failed: {first_line(error)}") from error
    finally:
        layer_folder.reset(token)
    if result is None or not result.has_output_model():
        raise _swallowed(out / "olive.log")
    _collect(Path(result.get_best_candidate().model_path), out)


def need_merged(model: Any) -> None:
    """RungFailed where Olive hands on a base and an adapter beside it: the base would be built."""
    if model.adapter_path:
        raise RungFailed(
            "olive.json: adapter_path: not merged here; make it the adapter of a rung in "
            "fallback.toml, or merge it first"
        )


def _collect(model: Path, out: Path) -> None:
    """Move (never copy) the model's files from Olive's output folder to `out`, drop the rest."""
    folder = model if model.is_dir() else model.parent
    for path in folder.iterdir():
        if ".onnx" in path.name or path.name == "genai_config.json":
            path.rename(out / path.name)
    shutil.rmtree(out / ".olive-cache", ignore_errors=True)
    shutil.rmtree(out / ".olive-output", ignore_errors=True)


def _keep_olive_silent() -> None:
    """Make OLIVE_DISABLE_TELEMETRY=1 mean it: Olive 0.13 still sends a heartbeat with a device id, and
    without a network waits for it, ten seconds at the end of every process."""
    if os.environ.get("OLIVE_DISABLE_TELEMETRY") == "1":
        from olive.telemetry.telemetry import Telemetry

        Telemetry._create_logger = lambda self: None


@contextmanager
def _without_reading_or_copying() -> Iterator[None]:
    """Two of Olive's habits cost a 3B model a minute on a slow disk; the results are the same.

    It hashes all input weights to name its cache entry: the same SHA-256 is remembered here. And it
    copies the finished model out of its cache: its own `hardlink_copy_dir` links it.
    """
    from olive import resource_path
    from olive.common.utils import hardlink_copy_dir
    from olive.model.config import model_config

    before = model_config.hash_file, resource_path.copy_dir
    model_config.hash_file = lambda path, block_size=0: sha256_file(Path(path))
    resource_path.copy_dir = hardlink_copy_dir
    try:
        yield
    finally:
        model_config.hash_file, resource_path.copy_dir = before


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


def _swallowed(log: Path) -> UserError:
    """The failure that Olive swallowed: the last error in its log."""
    errors = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line]
    last = errors[-1].strip() if errors else "no reason in Olive's log"
    return RungFailed(f"olive.json: the workflow ended without a model: {last[:300]}")
