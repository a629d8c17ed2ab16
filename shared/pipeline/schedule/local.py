"""Units on this machine: N worker processes under one memory budget, one browser at a time.

Workers are spawned and kept, since importing torch and Olive takes seconds; one that has grown fat
is replaced, so that memory goes back to the system. A worker that dies takes only its own unit with
it, which is run again on a new one.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from shared.base import progress
from shared.base.cpu import cores, use_cores
from shared.base.formatting import number
from shared.pipeline.one_domain import Result
from shared.pipeline.run_log import log_of_caller
from shared.pipeline.schedule.units import Unit, run_unit

ATTEMPTS = 3
"""How often a unit is run whose worker keeps dying (out of memory, most likely)."""

KEEP_UP_TO_BYTES = 1_500_000_000
END_SECONDS = 10.0


@dataclass
class _Chain:
    """One domain's units that are still to be run; `lost` counts workers that died on the first."""

    units: list[Unit]
    lost: int = 0


@dataclass
class _Running:
    chain: _Chain
    worker: ProcessPoolExecutor


@dataclass
class _Idle:
    worker: ProcessPoolExecutor
    rss: int


@dataclass
class _Pool:
    """What runs and what it claims."""

    jobs: int
    budget: int
    idle: list[_Idle] = field(default_factory=list)
    running: dict[Future[tuple[Result, int]], _Running] = field(default_factory=dict)

    def fits(self, unit: Unit) -> bool:
        """Whether it may start now. Alone it always may: a budget is no reason to wait for ever."""
        units = [running.chain.units[0] for running in self.running.values()]
        if not units:
            return True
        resting = sum(idle.rss for idle in self.idle[:-1])  # the last would take the unit
        memory = sum(other.memory for other in units) + unit.memory + resting
        browser = unit.browser and any(other.browser for other in units)
        return len(units) < self.jobs and memory <= self.budget and not browser

    def start(self, chain: _Chain) -> None:
        worker = self.idle.pop().worker if self.idle else _new_worker(cores_each(self.jobs))
        future = worker.submit(_work, chain.units[0])
        self.running[future] = _Running(chain, worker)

    def give_back(self, worker: ProcessPoolExecutor, rss: int) -> None:
        if rss <= KEEP_UP_TO_BYTES:
            self.idle.append(_Idle(worker, rss))
        else:
            worker.shutdown(wait=False)


def run_local(chains: list[list[Unit]], jobs: int, budget: int) -> list[Result]:
    """Run each domain's units in order, domains side by side; one result a domain, in their order.

    `budget` in bytes bounds the sum of what running units claim; a unit larger than it runs alone.
    """
    _say_what_runs_alone(chains, budget)
    results: dict[str, Result] = {}
    waiting = [_Chain(list(units)) for units in chains]
    with _ended_with_us():
        pool = _Pool(jobs, budget)
        while waiting or pool.running:
            for chain in sorted(waiting, key=lambda chain: not chain.units[0].browser):
                if pool.fits(chain.units[0]):
                    waiting.remove(chain)
                    pool.start(chain)
            done, _ = wait(pool.running, return_when=FIRST_COMPLETED)
            for future in done:
                running = pool.running.pop(future)
                result = _outcome(future, running, pool)
                if result is not None:
                    results[result.domain] = result
                else:
                    waiting.append(running.chain)
        for idle in pool.idle:
            idle.worker.shutdown()
    return [results[units[0].domain] for units in chains]


def _outcome(future: Future[tuple[Result, int]], running: _Running, pool: _Pool) -> Result | None:
    """The domain's result if it is through or failed; None where more is to be run."""
    chain = running.chain
    unit = chain.units[0]
    try:
        result, rss = future.result()
    except BrokenProcessPool:
        running.worker.shutdown(wait=False)
        chain.lost += 1
        if chain.lost < ATTEMPTS:
            progress.say(f"{unit.name}: its worker process died; running it again")
            return None
        return Result(unit.domain, error=f"{unit.name}: {ATTEMPTS} worker processes died on it")
    pool.give_back(running.worker, rss)
    chain.lost = 0
    del chain.units[0]
    return result if not result.ok or not chain.units else None


def _say_what_runs_alone(chains: list[list[Unit]], budget: int) -> None:
    for unit in (unit for units in chains for unit in units if unit.memory > budget):
        claim, limit = number(unit.memory, "B"), number(budget, "B")
        progress.say(f"{unit.name} may take {claim}, over the budget of {limit}: it runs alone")


def cores_each(jobs: int) -> int:
    """How many cores one of so many workers has to itself."""
    return max(1, cores() // jobs)


def _new_worker(count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(count,))


def _begin(count: int) -> None:
    """In a worker: use so many cores, end in good order on SIGTERM, leave Ctrl-C to the parent,
    never outlive it."""
    use_cores(count)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_follow_parent, daemon=True).start()


_at_work = False


def _stop(*_: object) -> None:
    if _at_work:  # `finally` blocks are run: a browser is closed, a lock given back
        raise KeyboardInterrupt
    os._exit(143)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(END_SECONDS)
        os._exit(1)


def _work(unit: Unit) -> tuple[Result, int]:
    """In a worker: the unit's result, and the bytes this process holds after it."""
    global _at_work
    _at_work = True
    try:
        with log_of_caller(), progress.lines_labelled(unit.domain):
            result = run_unit(unit)
    except KeyboardInterrupt:
        os._exit(143)
    _at_work = False
    return result, int(psutil.Process().memory_info().rss)


@contextmanager
def _ended_with_us() -> Iterator[None]:
    """However the run ends, so do the workers it started and what they started."""
    before = {process.pid for process in multiprocessing.active_children()}
    try:
        yield
    except BaseException:
        _end([p.pid for p in multiprocessing.active_children() if p.pid and p.pid not in before])
        raise


def _end(pids: list[int]) -> None:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    family = [p for process in processes for p in process.children(recursive=True)]
    for process in processes:
        process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in [*alive, *(p for p in family if p.is_running())]:
        process.kill()
