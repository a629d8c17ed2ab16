"""A fault at every kind of request: main is old or new, and running again finishes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub_double import Fault, HubDouble
from tests.hub_publisher import REPO, publish_once
from tests.hub_routes import WRITE_TOKEN
from tests.publish_faults import (
    ADDS,
    DOCUMENT,
    EDIT,
    EDITS,
    Run,
    allowed,
    cases,
    chosen,
    new_world,
    old_world,
    render,
    row,
    run_all,
    state,
)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return new_world(tmp_path)


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


def test_the_check_sees_an_edit_on_top_of_anything_but_the_old_release(world: Path) -> None:
    with HubDouble() as hub:
        old_world(hub)
        hub.repos[REPO].write(EDIT, "Fix a typo")
        assert state(hub) == "theirs"
        hub.repos[REPO].write({"more.json": b"[1]"}, "half a release over it")
        assert state(hub) == "between" and "between" not in allowed(EDITS) | allowed(ADDS)


@pytest.fixture(scope="module")
def runs(new_folder: Callable[[str], Path]) -> list[Run]:
    return run_all(new_folder("faults"), chosen())


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


class TestTheTable:
    """CI runs a part of the table; the document's every row is one of `cases`, and holds for those."""

    def test_has_no_run_that_is_not_as_it_should_be(self, runs: list[Run]) -> None:
        assert len(runs) >= 40
        assert not [run for run in runs if not run.ok]

    def test_meets_every_fault_and_every_request_in_ci_too(self) -> None:
        ran, every = list(chosen()), list(cases())
        assert {case[1] for case in ran} == {case[1] for case in every}
        assert {case[0] for case in ran} == {case[0] for case in every}

    def test_has_no_token_in_it(self, runs: list[Run], document: str) -> None:
        assert WRITE_TOKEN not in render(runs) and WRITE_TOKEN not in document

    def test_in_the_documentation_has_a_row_for_every_case(self, document: str) -> None:
        lines = [line.split(" | ") for line in document.splitlines() if line.count(" | ") > 7]
        assert [(x[0].removeprefix("| "), x[1]) for x in lines[1:]] == [c[:2] for c in cases()]

    def test_in_the_documentation_says_what_these_runs_say(
        self, runs: list[Run], document: str
    ) -> None:
        missing = [row(run) for run in runs if row(run) not in document.splitlines()]
        assert not missing, "run `python -m tests.publish_faults`"
