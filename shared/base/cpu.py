"""Environment variables that libraries read when they are loaded; set before the first import."""

import os

VARIABLES = {
    "OLIVE_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",
}
"""OMP_WAIT_POLICY: PyTorch's threads sleep while they wait for each other instead of spinning. On two
cores with one other busy process that is 58 tokens/s in place of 10 (8 answers at once, 135M values,
float32); on an idle machine it costs a quarter (80 before)."""


def set_variables() -> None:
    """Set what the user has not set."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


ALLOTTED = "OMP_NUM_THREADS"
THREAD_VARIABLES = (ALLOTTED, "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def use_cores(count: int) -> None:
    """Let this process work on `count` cores; where the user has set fewer, on those.

    PyTorch and NumPy read the variables when they are loaded, our own threads `cores`, onnxruntime's
    sessions `allotted_cores`.
    """
    for name in THREAD_VARIABLES:
        before = os.environ.get(name, "")
        os.environ[name] = str(min(count, int(before)) if before.isdigit() else count)


def allotted_cores() -> int | None:
    """How many cores this process was given; None where it has the machine to itself."""
    given = os.environ.get(ALLOTTED, "")
    return max(1, int(given)) if given.isdigit() else None


def cores() -> int:
    """How many cores this process may work on."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, allotted_cores() or here)


def physical_cores() -> int:
    """How many of them are cores of their own: two threads of one core share its arithmetic."""
    import psutil

    return min(cores(), psutil.cpu_count(logical=False) or cores())
