"""Many domains at once, which unit runs when: budget, jobs, browser and order hold, whoever fails."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from distributed import Client, LocalCluster, get_worker

from shared.base import progress
from shared.base.cpu import cores
from shared.pipeline.one_domain import Result
from shared.pipeline.run_log import run_log
from shared.pipeline.schedule import cluster
from shared.pipeline.schedule.cluster import Run, run_local
from shared.pipeline.schedule.units import Unit
from shared.pipeline.stages import Options
from tests.events import CEILING_SECONDS

GB = 1_000_000_000
CHECK = Options(rung="smollm3", records="1", until="check")


def chain(domain: str, *stages: str, memory: int = 10) -> list[Unit]:
    options = [replace(CHECK, until=stage) for stage in stages]  # type: ignore[arg-type]
    browser = ("bench", "gates")
    return [
        Unit(domain, o, release=False, memory=memory, browser=o.until in browser) for o in options
    ]


class TestWhatFits:
    """Without workers: a run is asked what would fit."""

    @staticmethod
    def fits(unit: Unit, budget: int, running: list[int], idle: list[int]) -> bool:
        """Whether it does beside units that claim so many bytes and workers that rest and hold some."""
        run = Run(cast(Client, None), jobs=8, budget=budget)
        for number, claim in enumerate(running):
            run.running[cast(Any, number)] = chain(f"d{number}", "check", memory=claim)
        run.held = {str(n): held for n, held in enumerate([0] * len(running) + idle)}
        return run.fits(unit)

    NEXT = chain("next", "check", memory=40)[0]

    def test_counts_what_resting_workers_hold(self) -> None:
        assert self.fits(self.NEXT, 100, running=[50], idle=[])
        assert not self.fits(self.NEXT, 100, running=[50], idle=[30, 5])

    def test_does_not_count_the_one_that_would_take_the_unit(self) -> None:
        assert self.fits(self.NEXT, 100, running=[50], idle=[30])

    def test_lets_a_unit_start_alone_whatever_it_claims(self) -> None:
        assert self.fits(self.NEXT, 1, running=[], idle=[30, 30])


class Seen:
    """Which units ran at the same time, told by the threads that ran them; `held` are not through
    before another unit has begun."""

    def __init__(self, fails: str = "", held: dict[str, str] | None = None) -> None:
        self.fails, self.held = fails, held or {}
        self.running: list[Unit] = []
        self.together: list[list[Unit]] = []
        self.change = threading.Condition()

    @property
    def begun(self) -> list[str]:
        return [units[-1].name for units in self.together]

    def run(self, unit: Unit) -> Result:
        with self.change:
            self.running.append(unit)
            self.together.append(list(self.running))
            self.change.notify_all()
            awaited = self.held.get(unit.name, unit.name)
            assert self.change.wait_for(lambda: awaited in self.begun, timeout=CEILING_SECONDS)
            self.running.remove(unit)
        return Result(unit.domain, error="no good" if unit.name == self.fails else None)


_seen = Seen()


def _look_on(unit: Unit) -> Result:
    return _seen.run(unit)


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    """A worker that is eight threads of this process."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=8,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


class TestWhoRunsWhen:
    """With a runner that only looks on."""

    @pytest.fixture
    def run(self, threads: Client, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr("shared.pipeline.schedule.cluster.run_unit", _look_on)
        monkeypatch.setattr("shared.pipeline.schedule.cluster._one_at_a_time", nullcontext())
        monkeypatch.setattr(
            "shared.base.progress.lines_to", nullcontext
        )  # of a process, not a thread

        def run(
            chains: list[list[Unit]],
            jobs: int = 2,
            fails: str = "",
            held: dict[str, str] | None = None,
        ) -> tuple[Seen, list[Result]]:
            global _seen
            _seen = Seen(fails, held)
            results = Run(threads, jobs, budget=100).results(chains)
            assert [result.domain for result in results] == [units[0].domain for units in chains]
            return _seen, results

        return run

    def test_results_come_in_the_domains_order_and_units_in_theirs(self, run: Any) -> None:
        held = {"d·package": "b·package"}
        seen, _ = run([chain(n, "package", "check", "gates") for n in "dacb"], held=held)
        assert len(seen.begun) == 12 and seen.begun.index("a·check") < seen.begun.index("d·check")
        for name in "dacb":
            places = [
                seen.begun.index(f"{name}·{stage}") for stage in ("package", "check", "gates")
            ]
            assert places == sorted(places)

    def test_claims_stay_within_the_budget_and_units_within_jobs(self, run: Any) -> None:
        chains = [chain(f"d{i}", "package", "check", memory=10 * i) for i in range(1, 9)]
        seen, _ = run(chains, jobs=3)
        assert len(seen.begun) == 16
        assert all(sum(unit.memory for unit in units) <= 100 for units in seen.together)
        assert max(len(units) for units in seen.together) <= 3

    def test_as_many_run_at_once_as_jobs_and_budget_let(self, run: Any) -> None:
        held = {"a·package": "c·package", "b·package": "c·package"}
        run([chain(name, "package", memory=30) for name in "abcd"], jobs=3, held=held)

    def test_a_unit_over_the_budget_runs_alone(self, run: Any) -> None:
        chains = [chain(name, "package", memory=400 if name == "c" else 10) for name in "abcde"]
        seen, _ = run(chains, jobs=3)
        assert [units for units in seen.together if chains[2][0] in units] == [chains[2]]

    def test_one_browser_at_a_time_and_meanwhile_others_go_on(self, run: Any) -> None:
        stages = ("package", "check", "bench", "gates")
        chains = [chain("a", "bench"), chain("b", "bench"), *(chain(n, *stages) for n in "cd")]
        seen, _ = run(chains, held={"a·bench": "d·check"})
        assert all(sum(unit.browser for unit in units) <= 1 for units in seen.together)
        assert len(seen.begun) == 10

    def test_the_browser_is_the_first_domains_that_comes_to_it(self, run: Any) -> None:
        chains = [chain("a", "package", "bench"), chain("b", "package", "bench")]
        run(chains, held={"a·package": "b·bench"})

    def test_a_failing_domain_ends_where_it_fails_and_stops_no_other(self, run: Any) -> None:
        chains = [chain(name, "package", "check", "bench") for name in "abc"]
        seen, results = run(chains, fails="b·package")
        assert [result.error for result in results] == [None, "no good", None]
        assert [name for name in seen.begun if name[0] == "b"] == ["b·package"]
        assert len(seen.begun) == 7


def _told(root: str, unit: Unit) -> tuple[Result, str, int]:
    """In a worker process: run `_tell` as its unit."""
    cluster.run_unit = _tell
    return cluster.run_on_worker(root, unit)


def _tell(unit: Unit) -> Result:
    """Says its process, its cores, and where the process and the one that started it can be reached."""
    family = [psutil.Process(), psutil.Process(os.getppid())]
    found = {c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"}
    address = get_worker().address.partition("://")
    progress.say(f"process {os.getpid()}, cores {cores()}, listens on {found} by {address[0]}")
    return Result(unit.domain)


class TestByWorkerProcesses:
    """As `--jobs` has it."""

    @pytest.fixture
    def said(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """What the run's log says of two units, and the processes that ran them."""
        monkeypatch.setattr("shared.pipeline.schedule.cluster.run_on_worker", _told)
        monkeypatch.setattr("shared.pipeline.schedule.cluster.cores", lambda: 1)

        def said() -> tuple[str, list[str]]:
            with run_log("release-all") as log:
                (result,) = run_local([chain("tax", "package", "check")], jobs=1, budget=1)
            assert result.ok
            text = log.file.read_text("utf-8")
            return text, re.findall(r"tax          │ process (\d+), cores 1", text)

        return said

    def test_reached_on_loopback_and_by_tls_alone_it_writes_into_the_runs_log(
        self, said: Any
    ) -> None:
        text, (first, second) = said()
        assert text.count("listens on {'127.0.0.1'} by tls") == 2, text
        assert first == second, "a worker is kept"
        assert "tax·check may take 0.0 MB, over the budget of 0.0 MB: it runs alone" in text

    def test_one_that_has_grown_fat_is_replaced(
        self, said: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.pipeline.schedule.cluster.KEEP_UP_TO_BYTES", 1)
        text, (first, second) = said()
        assert first != second and "died" not in text
