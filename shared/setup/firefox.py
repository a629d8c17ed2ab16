"""Find Debian's Firefox, and the driver that gives it WebGPU with shader-f16 without a GPU."""

import contextlib
import shutil
import subprocess
from pathlib import Path

NAMES = ("firefox-esr", "firefox")
INSTALL = "apt-get install -y firefox-esr mesa-vulkan-drivers"


def find_firefox() -> Path | None:
    """Debian's firefox-esr, or any other Firefox on PATH."""
    return next((Path(found) for name in NAMES if (found := shutil.which(name))), None)


def firefox_version(firefox: Path) -> str:
    """What the binary says of itself; empty where it does not start."""
    command = [str(firefox), "--version"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    return ""
