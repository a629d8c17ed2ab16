"""Whether this machine has a GPU worth asking for; apart, so that asking does not load Playwright."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path


@functools.cache
def has_gpu() -> bool:
    """Whether a hardware adapter is worth asking for: macOS has one, on Linux we look."""
    if sys.platform != "linux":
        return True
    return bool(sorted(Path("/dev/dri").glob("renderD*"))) or _nvidia_answers()


def _nvidia_answers() -> bool:
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        done = subprocess.run([command, "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout
