"""Runs where the GPU is: the bytes of its memory that a run takes, by nvidia-smi."""

from __future__ import annotations

import shutil
import subprocess
import threading
from typing import Any

ASK = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
MIB = 2**20
EVERY_SECONDS = 0.25


class GpuMemory:
    """Within it, the largest memory in use on all GPUs is sampled; what was in use before is taken off.

    >>> with GpuMemory(software=False) as memory:
    ...     run()
    >>> memory.figure()["value"]
    """

    def __init__(self, *, software: bool) -> None:
        self._reason = "a software adapter has no memory of its own" if software else None
        if not software and shutil.which(ASK[0]) is None:
            self._reason = "there is no nvidia-smi to ask"
        self._before = self._peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> GpuMemory:
        if self._reason is None:
            self._before = self._peak = self._used()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(EVERY_SECONDS):
            self._peak = max(self._peak, self._used())

    def _used(self) -> int:
        """Bytes; a refusal is the reason that there is no figure."""
        done = subprocess.run(ASK, capture_output=True, text=True)
        try:
            return MIB * sum(int(line) for line in done.stdout.split("\n") if line.strip())
        except ValueError:
            self._reason = f"nvidia-smi says {done.stdout.strip()!r}"
            return 0

    def figure(self) -> dict[str, Any]:
        """As a Measurement has it."""
        if self._reason is None and self._peak <= self._before:
            self._reason = "nvidia-smi saw no memory taken"
        if self._reason:
            return {"unit": "B", "reason": self._reason}
        how = "most memory in use by nvidia-smi, less what was in use before"
        return {"value": self._peak - self._before, "unit": "B", "how": how}
