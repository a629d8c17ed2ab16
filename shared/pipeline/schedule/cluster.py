"""The same units on a Dask cluster: `--scheduler tcp://host:8786`.

$ dask scheduler
$ dask worker tcp://host:8786 --nthreads 1 --resources "MEMORY=16e9 BROWSER=1"   # in the repository

Every worker needs the repository at the same state, and DOCINTEL_ROOT on a shared file system:
results travel as files. MEMORY (bytes), BROWSER and GPU are claimed where a worker declares them.
Dask gives a lost worker's task to another one, which finds what was finished and does the rest; a
task that takes worker after worker with it is given up.
"""

import os
import threading
from typing import Any, cast
from uuid import uuid4

from distributed import Client, Future, get_worker

from shared.base import paths, progress
from shared.base.code import code_hash, modules
from shared.base.cpu import set_variables
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.pipeline.one_domain import Result
from shared.pipeline.schedule.units import Unit, run_unit

set_variables()  # a worker has no other place for it; torch and onnxruntime are loaded by its units

CONNECT_SECONDS = 15
TOPIC = "docintel"

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
        client.subscribe_topic(TOPIC, lambda event: progress.say(event[1]))
        last = _submit(client, chains)
        try:
            return [_outcome(u[0].domain, f) for u, f in zip(chains, last, strict=True)]
        except BaseException:
            client.cancel(list(last), force=True)
            raise


def follow(before: Result | None, after: Any, root: str, unit: Unit) -> Result:
    """On a worker: run the unit unless the one before it failed. `after` is only waited for."""
    if before is not None and not before.ok:
        return before
    os.environ.setdefault("DOCINTEL_ROOT", root)
    worker = get_worker()

    def tell(line: str) -> None:
        worker.log_event(TOPIC, progress.labelled(unit.domain, line))

    with _one_at_a_time, progress.lines_to(tell):
        return run_unit(unit)


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


def _submit(client: Client, chains: list[list[Unit]]) -> list[Future]:
    """Hand in all units; the last future of each domain. Without a BROWSER resource in the cluster
    the browser units wait for each other instead."""
    declared = _declared(client)
    root, run = str(paths.root().resolve()), uuid4().hex[:8]
    last: list[Future] = []
    browser: Future | None = None
    for units in chains:
        future: Future | None = None
        for unit in units:
            chained = browser if unit.browser and "BROWSER" not in declared else None
            key, claims = f"{unit.name}-{run}", _claims(unit, declared)
            given = (follow, future, chained, root, unit)
            future = client.submit(*given, key=key, resources=claims, pure=False)
            if unit.browser:
                browser = future
        assert future is not None
        last.append(future)
    return last


def _declared(client: Client) -> dict[str, float]:
    """The largest amount of each resource that any one worker declares."""
    most: dict[str, float] = {}
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        for name, amount in (worker.get("resources") or {}).items():
            most[name] = max(most.get(name, 0), amount)
    return most


def _claims(unit: Unit, declared: dict[str, float]) -> dict[str, float]:
    """What the unit takes of what is declared, never more than the largest worker has."""
    wanted = {"MEMORY": float(unit.memory)}
    if unit.browser:
        wanted |= {"BROWSER": 1.0, "GPU": 1.0}
    return {name: min(wanted[name], declared[name]) for name in wanted if name in declared}


def _outcome(domain: str, future: Future) -> Result:
    """The domain's result; where its task was given up, that is the error."""
    try:
        return cast(Result, future.result())
    except Exception as error:  # KilledWorker, or the scheduler went away
        return Result(domain, error=f"{domain}: given up by the cluster: {error}")
