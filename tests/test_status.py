"""`./inv status` in words: each line says by what it was judged, and form alone is no content."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.base.manifest import Measurement
from shared.cli.summary import status
from shared.release.gates import judge
from shared.release.model import CARD_FILE, RELEASE_FILE, Release
from tests.test_card import card_of, measured, share, synthetic

CONTENT = "domain-appropriate structured output"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which the table stands upright, as `lines` reads it."""
    monkeypatch.setenv("COLUMNS", "140")


def released(root: Path, **changes: Measurement) -> None:
    """A made-up release of legal in its folder, with some measurements replaced."""
    release = synthetic("legal", measurements=measured() | changes)
    folder = root / "models" / "legal" / "webgpu"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELEASE_FILE).write_text(release.model_dump_json(), encoding="utf-8")
    (folder / CARD_FILE).write_text(card_of("legal"), encoding="utf-8")


def lines() -> dict[str, tuple[str, ...]]:
    """Acceptance → state, judged by and evidence, each joined over its rows of the terminal."""
    found: dict[str, tuple[str, ...]] = {}
    last = ""
    for line in status(["legal"]).splitlines()[3:-1]:
        _, name, *cells = (cell.strip() for cell in line.strip("│").split("│"))
        last = name or last
        before = found.get(last, ("",) * len(cells))
        found[last] = tuple(f"{a} {b}".strip() for a, b in zip(before, cells, strict=True))
    return found


def test_every_line_says_by_what_it_was_judged(root: Path) -> None:
    released(root)
    assert all(by for _, by, _ in lines().values())
    assert lines()["uploaded"][1] == "what publish recorded"


def test_a_gates_line_names_gate_and_bound(root: Path) -> None:
    from shared.domain.domain import load_domain

    gate = next(g for g in load_domain("legal").chain.gate if g.measurement.endswith("q4f16_bytes"))
    released(root)
    path = root / "models" / "legal" / "webgpu" / RELEASE_FILE
    release = Release.model_validate_json(path.read_text())
    result = judge(gate, release.measurements[gate.measurement])
    path.write_text(release.model_copy(update={"gates": [result]}).model_dump_json())
    assert lines()["under 2 GB"] == ("done", "q4f16 model size ≤ 2.000 GB", "1.747 GB")


class TestStructuredOutput:
    """The grammar forces the form of any model's answers; what they say is judged."""

    @pytest.mark.parametrize(
        ("floor", "state"), [(0.3, "done"), (0.78, "not measured"), (0.95, "failed")]
    )
    def test_is_judged_by_its_score_against_one_fixed_answer(
        self, root: Path, floor: float, state: str
    ) -> None:
        full = share(1.0)
        name = "check.release.constrained.schema_compliance"
        released(root, **{"check.floor.field_score": share(floor), name: full})
        found, by, evidence = lines()[CONTENT]
        assert (found, by) == (state, "score above one fixed answer's")
        assert re.search(r"held to the schema: 78\.9 % .* against ", evidence)
        assert ("too few records to tell" in evidence) == (state == "not measured")

    def test_that_was_not_scored_is_not_measured_for_its_reason(self, root: Path) -> None:
        missing = Measurement.missing("no time was left", "share")
        names = [f"check.release.constrained.{n}" for n in ("schema_compliance", "field_score")]
        more = {"check.release.free.field_score": missing}
        released(root, **dict.fromkeys(names, missing), **more)
        found, _, evidence = lines()[CONTENT]
        assert found == "not measured" and "not measured: no time was left" in evidence
