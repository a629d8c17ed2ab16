"""Many domains at once, by Dask: on this machine (`--jobs N`), on several (`--scheduler tcp://host:8786`).

$ dask scheduler
$ dask worker tcp://host:8786 --nthreads 1 --resources "MEMORY=16e9 BROWSER=1"   # in the repository

Every such worker needs the repository at the same state, and DOCINTEL_ROOT on a shared file system:
results travel as files. MEMORY (bytes), BROWSER and GPU are claimed where a worker declares them.
Dask's resources belong to one worker each, so `--jobs`, whose budget is for all, declares none: a
unit is handed in when it fits. Dask gives a lost worker's unit to another one, which finds what was
finished and does the rest; a unit that takes worker after worker with it is given up.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import dask
import psutil
from distributed import Client, Future, LocalCluster, WorkerPlugin, as_completed, get_worker
from distributed.scheduler import KilledWorker

from shared.base import paths, progress
from shared.base.code import code_hash, modules
from shared.base.cpu import cores, set_variables, use_cores
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.formatting import number
from shared.pipeline.one_domain import Result
from shared.pipeline.schedule.units import Unit, run_unit

set_variables()  # a worker has no other place for it; torch and onnxruntime are loaded by its units

ATTEMPTS = 3
"""How often `--jobs` runs a unit whose worker keeps dying (out of memory, most likely)."""

KEEP_UP_TO_BYTES = 1_500_000_000
"""What a worker of `--jobs` may hold after a unit; else memory goes back to the system."""

CONNECT_SECONDS = 15
END_SECONDS = 10.0
TOPIC = "docintel"

LOCAL = {
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    "distributed.scheduler.no-workers-timeout": "10 minutes",
    "distributed.scheduler.worker-ttl": None,  # a laptop that slept wakes with its workers in place
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.deploy.lost-worker-timeout": "365 days",  # a new one may be slow to start
    "distributed.worker.profile.enabled": False,
    "distributed.worker.daemon": False,  # which may start no process of its own
    "distributed.nanny.pre-spawn-environ": {},  # how many threads is ours to say
}

_one_at_a_time = threading.Lock()
"""Olive, torch and a stage's memory sampling belong to a process: a worker with several threads
still runs one unit at a time."""


def run_on_cluster(chains: list[list[Unit]], address: str) -> list[Result]:
    """One result a domain, in the order of `chains`; UserError where the cluster cannot serve."""
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(f"--scheduler {address}: no Dask scheduler answers there") from error
    with client:
        _need_fit_workers(client, address)
        return Run(client, declared=_declared(client)).results(chains)


def run_local(chains: list[list[Unit]], jobs: int, budget: int) -> list[Result]:
    """The same by `jobs` worker processes of this machine.

    `budget` in bytes bounds the sum of what running units claim; a unit larger than it runs alone.
    """
    for unit in (unit for units in chains for unit in units if unit.memory > budget):
        claim, limit = number(unit.memory, "B"), number(budget, "B")
        progress.say(f"{unit.name} may take {claim}, over the budget of {limit}: it runs alone")
    with _this_machine(min(jobs, len(chains))) as client:
        return Run(client, jobs, budget, KEEP_UP_TO_BYTES).results(chains)


@contextmanager
def _this_machine(count: int) -> Iterator[Client]:
    """A cluster of `count` processes, reached on loopback with keys of its own; however the context
    ends, so do they and what they started."""
    loopback: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    loopback |= {"security": True, "silence_logs": logging.CRITICAL, "memory_limit": None}
    with (
        TemporaryDirectory() as scratch,
        dask.config.set(LOCAL),
        LocalCluster(
            n_workers=count, threads_per_worker=1, local_directory=scratch, **loopback
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        try:
            client.register_plugin(_Begin(cores_each(count)))
            yield client
        except BaseException:
            _end(cluster)
            raise


def cores_each(jobs: int) -> int:
    """How many cores one of so many workers has to itself."""
    return max(1, cores() // jobs)


class _Begin(WorkerPlugin):
    """In a worker: use so many cores, leave Ctrl-C to the parent."""

    def __init__(self, count: int) -> None:
        self.count = count

    def setup(self, worker: Any) -> None:
        use_cores(self.count)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(cluster: LocalCluster) -> None:
    """Kill the workers, and after END_SECONDS what they started."""
    for nanny in cluster.workers.values():
        nanny.close_gracefully()  # which replaces no worker from here on
    workers = [psutil.Process(n.pid) for n in cluster.workers.values() if n.pid]
    family = [child for worker in workers for child in worker.children(recursive=True)]
    for worker in workers:
        worker.kill()
    for process in psutil.wait_procs(family, END_SECONDS)[1]:
        process.kill()


@dataclass
class Run:
    """Units handed in to a cluster when they fit: at most `jobs` at once, at most `budget` bytes of
    claims and of what resting workers hold, one browser unless the workers declare theirs."""

    client: Client
    jobs: float = inf
    budget: float = inf
    keep: float = inf
    """A worker that holds more bytes after a unit is replaced."""
    declared: dict[str, float] = field(default_factory=dict)
    """The largest amount of each resource that any one worker has."""
    token: str = field(default_factory=lambda: uuid4().hex[:8])
    running: dict[Future, list[Unit]] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    """Bytes that a worker held after its last unit, by its address."""

    def results(self, chains: list[list[Unit]]) -> list[Result]:
        """One result a domain, in the order of `chains`: that of its last unit, or of the first that
        failed."""
        self.client.subscribe_topic(TOPIC, lambda event: progress.say(event[1]))
        self.client.subscribe_topic("all", self._tell_of_lost)
        waiting, results = [list(units) for units in chains], dict[str, Result]()
        ended = as_completed(loop=self.client.loop)
        try:
            self._hand_in(waiting, ended)
            for future in ended:
                unit, *rest = self.running.pop(future)
                result = self._outcome(unit, future)
                if result.ok and rest:
                    waiting.append(rest)
                else:
                    results[unit.domain] = result
                self._hand_in(waiting, ended)
        except BaseException:
            self.client.cancel(list(self.running), force=True)
            raise
        finally:
            self.client.unsubscribe_topic("all")  # or it would be told of its own end
        return [results[units[0].domain] for units in chains]

    def _hand_in(self, waiting: list[list[Unit]], ended: Any) -> None:
        for units in sorted(waiting, key=lambda units: not units[0].browser):
            if self.fits(units[0]):
                waiting.remove(units)
                future = self._submit(units[0])
                self.running[future] = units
                ended.add(future)

    def fits(self, unit: Unit) -> bool:
        """Whether it may start now. Alone it always may: a budget is no reason to wait for ever."""
        others = [units[0] for units in self.running.values()]
        if not others:
            return True
        at_rest = min(len(self.held), self.jobs) - len(others)
        rest = max(0, int(at_rest) - 1)  # one of them takes the unit
        resting = sum(sorted(self.held.values())[len(self.held) - rest :])
        memory = sum(other.memory for other in others) + unit.memory + resting
        browser = unit.browser and "BROWSER" not in self.declared and any(o.browser for o in others)
        return len(others) < self.jobs and memory <= self.budget and not browser

    def _submit(self, unit: Unit) -> Future:
        """Claims what is declared, never more than the largest worker has."""
        wanted = {"MEMORY": float(unit.memory)}
        wanted |= {"BROWSER": 1.0, "GPU": 1.0} if unit.browser else {}
        claims = {
            name: min(wanted[name], most) for name, most in self.declared.items() if name in wanted
        }
        how = {"key": f"{unit.name}-{self.token}", "priority": int(unit.browser), "pure": False}
        root = str(paths.root().resolve())
        return self.client.submit(run_on_worker, root, unit, resources=claims, **how)

    def _outcome(self, unit: Unit, future: Future) -> Result:
        """The unit's result; where it was given up, that is the error."""
        try:
            result, worker, held = future.result()
        except KilledWorker as error:
            died = error.allowed_failures + 1
            return Result(unit.domain, error=f"{unit.name}: {died} worker processes died on it")
        except Exception as error:  # the scheduler went away
            return Result(unit.domain, error=f"{unit.domain}: given up by the cluster: {error}")
        self.held[worker] = held
        future.release()
        if held > self.keep:
            self._replace(worker, str(future.key))
        return result

    def _replace(self, worker: str, key: str) -> None:
        """A new process in its place, once nothing of the result is there: it would be made again."""
        while any(self.client.who_has([key]).values()):
            time.sleep(0.01)
        with contextlib.suppress(KeyError):  # it died by itself: its nanny makes another
            self.client.restart_workers([worker], raise_for_error=False)
        self.held.pop(worker, None)

    def _tell_of_lost(self, event: tuple[float, dict[str, Any]]) -> None:
        lost = {f"{u[0].name}-{self.token}": u[0].name for u in self.running.values()}
        for key in event[1].get("processing-tasks") or ():
            if key in lost and not event[1]["expected"]:
                progress.say(f"{lost[key]}: its worker process died")


def run_on_worker(root: str, unit: Unit) -> tuple[Result, str, int]:
    """On a worker: the unit's result, the worker's address, and the bytes it holds afterwards."""
    os.environ.setdefault("DOCINTEL_ROOT", root)
    worker = get_worker()

    def tell(line: str) -> None:
        worker.log_event(TOPIC, progress.labelled(unit.domain, line))

    with _one_at_a_time, progress.lines_to(tell):
        return run_unit(unit), worker.address, psutil.Process().memory_info().rss


def look_around(root: str, token: str) -> tuple[str, str]:
    """On a worker: what the file `token` in the root's build folder says, and the code's hash."""
    os.environ.setdefault("DOCINTEL_ROOT", root)
    file = paths.build() / token
    said = file.read_text(encoding="utf-8") if file.is_file() else ""
    return said, code_hash(*modules(paths.REPOSITORY))


def _need_fit_workers(client: Client, address: str) -> None:
    """UserError, one sentence, unless there are workers that see our files and run our code."""
    if not client.scheduler_info()["workers"]:
        raise UserError(f"--scheduler {address}: the cluster has no workers")
    token = f".cluster-{uuid4().hex}"
    file = paths.build() / token
    write_text(file, token)
    try:
        found = client.run(look_around, str(paths.root().resolve()), token, on_error="return")
    finally:
        file.unlink()
    for worker, answer in found.items():
        _need_fit(worker, answer, token)


def _need_fit(worker: str, answer: Any, token: str) -> None:
    if isinstance(answer, BaseException):
        raise UserError(
            f"worker {worker} cannot run this repository ({type(answer).__name__}: {answer}); "
            "start it in the repository's folder, with its environment"
        )
    said, code = answer
    if said != token:
        raise UserError(
            f"worker {worker} does not see {paths.root().resolve()}; mount it there under the same "
            "name, or start the worker with DOCINTEL_ROOT set to its place there"
        )
    if code != code_hash(*modules(paths.REPOSITORY)):
        raise UserError(f"worker {worker} runs another state of this repository's code")


def _declared(client: Client) -> dict[str, float]:
    """The largest amount of each resource that any one worker declares."""
    most: dict[str, float] = {}
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        for name, amount in (worker.get("resources") or {}).items():
            most[name] = max(most.get(name, 0), amount)
    return most
