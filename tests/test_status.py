"""`./inv status` in words: each line says by what it was judged, and form alone is no content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.base.manifest import Measurement
from shared.cli.summary import status
from shared.domain.domain import load_domain
from shared.pipeline.publication import PublishOptions, plan_publication
from shared.release.gates import judge
from shared.release.model import CARD_FILE, RELEASE_FILE, Release
from tests.test_card import card_of, measured, share, synthetic

CONTENT = "domain-appropriate structured output"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which the table stands upright, as `lines` reads it."""
    monkeypatch.setenv("COLUMNS", "180")


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
    gate = next(g for g in load_domain("legal").chain.gate if g.measurement.endswith("q4f16_bytes"))
    released(root)
    path = root / "models" / "legal" / "webgpu" / RELEASE_FILE
    release = Release.model_validate_json(path.read_text())
    result = judge(gate, release.measurements[gate.measurement])
    path.write_text(release.model_copy(update={"gates": [result]}).model_dump_json())
    assert lines()["under 2 GB"] == ("done", "q4f16 model size ≤ 2.000 GB", "1.747 GB")


class TestStructuredOutput:
    """The grammar forces the form of any model's answers; what they say is judged."""

    def test_is_done_where_it_beats_one_fixed_answer_and_its_base(self, root: Path) -> None:
        judged(root)
        found, by, evidence = lines()[CONTENT]
        assert (found, by) == ("done", "better than one fixed answer; better than its base")
        assert "78.9 % against 30.0 %; 38.1 % against" in evidence

    @pytest.mark.parametrize("gate", ["one_answer", "base"])
    def test_is_failed_where_one_of_them_is_not_shown(self, root: Path, gate: str) -> None:
        why = "not shown to be: 30.1 % (25–35 %) against 30.0 %, n = 40"
        judged(root, **{f"check.better_than_{gate}": Measurement(value=False, reason=why)})
        found, by, evidence = lines()[CONTENT]
        assert found == "failed" and by.startswith("better than") and evidence == why

    def test_is_failed_where_the_schema_is_broken_all_the_same(self, root: Path) -> None:
        judged(root, **{"check.release.constrained.schema_compliance": share(0.9)})
        assert lines()[CONTENT][:2] == ("failed", "schema compliance ≥ 95.0 %")

    def test_that_was_not_scored_is_not_measured_for_its_reason(self, root: Path) -> None:
        judged(root, **{"check.better_than_base": Measurement.missing("no time was left")})
        found, by, evidence = lines()[CONTENT]
        assert (found, by, evidence) == (
            "not measured",
            "better than its base",
            "no time was left",
        )

    def test_of_a_base_with_a_prompt_is_not_held_against_itself(self, root: Path) -> None:
        judged(root, but="check.better_than_base")
        assert lines()[CONTENT][:2] == ("done", "better than one fixed answer")

    def test_of_a_release_from_before_these_gates_is_not_measured(self, root: Path) -> None:
        judged(root, but="check.better_than_one_answer")
        assert lines()[CONTENT][0] == "not measured"


def judged(root: Path, *, but: str = "", **changes: Measurement) -> None:
    """As `released`, with legal's gates on its content judged, but one."""
    from shared.domain.domain import load_domain

    measurements = (
        measured() | {"check.release.constrained.schema_compliance": share(1.0)} | changes
    )
    names = ("schema_compliance", "better_than_one_answer", "better_than_base")
    gates = [g for g in load_domain("legal").chain.gate if g.measurement.endswith(names)]
    results = [judge(g, measurements[g.measurement]) for g in gates if g.measurement != but]
    released(root, **measurements)
    path = root / "models" / "legal" / "webgpu" / RELEASE_FILE
    release = Release.model_validate_json(path.read_text())
    path.write_text(release.model_copy(update={"gates": results}).model_dump_json())


def test_a_card_documents_no_benchmark_where_no_browser_was_asked(root: Path) -> None:
    missing = Measurement.missing("no browser was at hand", "s")
    released(root, **{"bench.ttft_seconds": missing})
    state, _, why = lines()["card documents usage and benchmarks"]
    assert (state, why) == ("not measured", "time to first token: no browser was at hand")


def test_another_domains_release_in_this_ones_folder_is_not_its_own(root: Path) -> None:
    released(root)
    shutil.copytree(root / "domains" / "legal", root / "domains" / "tax")
    shutil.copytree(root / "models" / "legal", root / "models" / "tax")
    why = "models/tax/webgpu: is the release of 'legal'; run `./inv release --domain tax`"
    assert why in " ".join(status(["tax"]).replace("│", " ").split())
    with pytest.raises(UserError, match="is the release of 'legal'"):
        plan_publication(load_domain("tax"), PublishOptions(without_gpu=True))
