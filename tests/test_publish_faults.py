"""A fault at every kind of request: main is old or new, and running again finishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub_double import Fault, HubDouble
from tests.hub_publisher import REPO, publish_once
from tests.hub_routes import WRITE_TOKEN
from tests.publish_faults import (
    DOCUMENT,
    Run,
    cases,
    new_world,
    old_world,
    render,
    run_all,
    state,
    try_out,
)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return new_world(tmp_path)


DEADLY = [c for c in cases() if c[1].startswith("kill -9 after") or c[1] == "someone edits main"]


@pytest.mark.parametrize("case", DEADLY, ids=lambda case: f"{case[0]}: {case[1]}")
def test_a_publisher_that_dies_after_a_write_is_finished_by_the_next(
    world: Path, case: tuple[str, str, list[Fault], bool]
) -> None:
    run = try_out(*case, world)
    assert run.ok, run


def test_killed_at_one_request_after_the_other_it_still_ends_and_sends_nothing_twice(
    world: Path,
) -> None:
    with HubDouble() as hub:
        old_world(hub)
        for number in range(60):
            hub.faults = [Fault("", "", how="kill", skip=number)]
            said = publish_once(hub, world, batch=2)
            assert state(hub) in ("old", "new")
            if said != "(killed)":
                break
        assert said.endswith("v2") and number > 10
        assert (state(hub), hub.keeper.resent) == ("new", 0)
        assert hub.repos[REPO].tags["v2"] == hub.repos[REPO].refs["main"]


def test_the_check_sees_a_main_that_is_in_between(world: Path) -> None:
    """The table would tell: what it calls new is all of the new files and no other."""
    with HubDouble() as hub:
        old_world(hub)
        hub.repos[REPO].write({"more.json": b"[1]"}, "half a release")
        assert state(hub) == "between"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return run_all(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
class TestTheTable:
    def test_has_no_run_that_is_not_as_it_should_be(self, runs: list[Run]) -> None:
        assert len(runs) > 150
        assert not [run for run in runs if not run.ok]

    def test_has_no_token_in_it(self, runs: list[Run]) -> None:
        assert WRITE_TOKEN not in render(runs)

    def test_is_the_one_in_the_documentation(self, runs: list[Run]) -> None:
        assert DOCUMENT.read_text(encoding="utf-8") == render(runs), (
            "run `python -m tests.publish_faults`"
        )
