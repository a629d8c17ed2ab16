"""Run an engine in a process of its own: its peak memory is measured, its crash is a reason."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil

from shared.base.errors import RungFailed
from shared.base.processes import peak_memory

GRACE_SECONDS = 60
"""For starting, loading and the token in hand, past the seconds the questions may take."""


def run_child(
    python: Path, script: Path, job: dict[str, Any], seconds: float, env: dict[str, str]
) -> dict[str, Any]:
    """The script's answer (JSON on stdout) to `job` (JSON on stdin), with peak_rss_bytes added.

    RungFailed with the last line of stderr where it fails, or past its time.
    """
    process = subprocess.Popen(
        [str(python), "-I", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | env,
        text=True,
    )
    try:
        with peak_memory(psutil.Process(process.pid)) as peak:
            out, err = process.communicate(json.dumps(job), timeout=seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        raise RungFailed(f"no answer after {seconds + GRACE_SECONDS:.0f} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise RungFailed(_reason(err, process.returncode))
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer | {"peak_rss_bytes": peak[0]}


def _reason(err: str, code: int) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"it ended with status {code}"
