"""Many domains on a Dask cluster: everything is finished once, whichever worker is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.base import paths
from shared.base.errors import UserError
from shared.pipeline.all_domains import run_units
from tests.checked import CHECK, DOMAINS
from tests.events import CEILING_SECONDS, wait_until
from tests.test_schedule import World, answers, finished, packages, world
from tests.tiny import write_tiny

__all__ = ["world"]


@contextmanager
def cluster(root: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and single-threaded workers, as a person starts them; address, workers."""
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    common = {"cwd": paths.REPOSITORY, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    file = root / "scheduler.json"
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    environment = os.environ | {"PYTHONPATH": str(paths.REPOSITORY)}
    started = [subprocess.Popen([*dask, *words], env=environment, **common)]  # type: ignore[call-overload]
    try:
        wait_until(lambda: file.exists() and file.read_text(), started[0])
        address = str(json.loads(file.read_text())["address"])
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
        worker += ["--nthreads", "1", "--no-dashboard", "--resources", "MEMORY=8e9 BROWSER=1"]
        worker += ["--local-directory", str(root / "dask")]
        started += [
            subprocess.Popen(worker, env=environment, **common)  # type: ignore[call-overload]
            for _ in range(workers)
        ]
        yield address, started[1:]
    finally:
        for process in reversed(started):
            process.kill()
            process.wait(20)


def wait_for_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=CEILING_SECONDS)


class TestOnACluster:
    def test_a_worker_that_does_not_see_the_files_is_refused_in_one_sentence(
        self,
        root: Path,
        embedded: Path,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write_tiny(root / "models" / "legal" / "merged", "llama", embedded)
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        with monkeypatch.context() as other:
            other.setenv("DOCINTEL_ROOT", str(elsewhere))
            made = cluster(elsewhere, 1)
            address, _ = made.__enter__()
        try:
            wait_for_workers(address, 1)
            with pytest.raises(UserError, match=f"does not see {root}; mount it there"):
                run_units(["legal"], CHECK, jobs=1, scheduler=address)
        finally:
            made.__exit__(None, None, None)

    def test_no_scheduler_is_said_in_one_sentence(
        self, root: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_tiny(root / "models" / "legal" / "merged", "llama", embedded)
        monkeypatch.setattr("shared.pipeline.schedule.cluster.CONNECT_SECONDS", 1)
        with pytest.raises(UserError, match="no Dask scheduler answers there"):
            run_units(["legal"], CHECK, jobs=1, scheduler="tcp://127.0.0.1:9")

    @pytest.mark.slow
    def test_everything_is_finished_once_though_a_worker_is_killed_in_the_middle(
        self, alone: Path, world: World
    ) -> None:
        from distributed import Client

        root = world("cluster")
        with cluster(root, 2) as (address, workers):
            wait_for_workers(address, 2)
            seen: dict[str, int] = {}

            def kill_in_the_middle() -> None:
                wait_until(lambda: any("/package/" in name for name in finished(root)))
                with Client(address, set_as_default=False) as client:
                    pids = client.run(os.getpid)
                    tasks = wait_until(lambda: {a: t for a, t in client.processing().items() if t})
                done = finished(root)
                next(w for w in workers if w.pid == pids[next(iter(tasks))]).kill()
                seen.update(done)

            hunter = threading.Thread(target=kill_in_the_middle)
            hunter.start()
            results = run_units(list(DOMAINS), CHECK, jobs=1, scheduler=address)
            hunter.join()
        assert seen, "nobody was killed: the test shows nothing"
        assert all(r.ok for r in results), [r.error for r in results]
        after = finished(root)
        assert len([k for k in after if "/check/" in k]) == len(DOMAINS)
        assert {k: v for k, v in after.items() if k in seen} == seen, "finished stages were redone"
        assert packages(root) == packages(alone) and answers(root) == answers(alone)
