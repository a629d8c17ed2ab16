"""Memory of a process and all that it started."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from shared.base.processes import peak_memory

SHARED = 200_000_000
FAMILY = f"""
import os, sys
held = b"x" * {SHARED}
children = [os.fork() for _ in range(3)] if "alone" not in sys.argv else []
if all(children):
    print("held", flush=True)
sys.stdin.read()
"""
"""A process that holds a block, and three children (of one another too) that share it."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of shared pages")
@pytest.mark.parametrize("family", [[], ["alone"]], ids=["shared by eight", "held by one"])
def test_memory_that_several_processes_share_counts_once(family: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY, *family],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdin
        process.stdout.readline()
        with peak_memory(psutil.Process(process.pid)) as peak:
            pass
        process.stdin.close()
    assert SHARED < peak[0] < 1.5 * SHARED
