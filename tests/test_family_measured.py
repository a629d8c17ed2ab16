"""docs/family.md is what was measured: a row is made once, and each figure is one of theirs."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import family_at_size
from benchmarks.family import measure
from benchmarks.family.browser import MOST, measure_browser
from benchmarks.family.document import DOCUMENT, chosen, render, totals
from benchmarks.family.measure import (
    Bench,
    measure_base,
    measure_form,
    measure_further,
    measure_nodes,
    measure_precisions,
    measure_speeds,
)
from benchmarks.family.rows import FIGURES, FORMS, PRECISIONS, Kept, Row, keep
from shared.base.errors import UserError
from shared.base.manifest import Measurement
from shared.olive.family_record import DOMAIN_FILES
from tests.test_family import member, world

__all__ = ["world"]


def bytes_of(size: int) -> Measurement:
    return Measurement(value=size, unit="B")


def kl(value: float, error: float = 0.004) -> Measurement:
    return Measurement(value=value, unit="nats/token", n=1024, standard_error=error)


def stored(precision: str, size: int, divergence: float, error: float = 0.004) -> Row:
    found = {"bytes": bytes_of(size), "kl_divergence": kl(divergence, error)}
    found |= {"kl_above_f16": kl(divergence - 0.05, 0.001)}
    return Row(part="precision", domain="legal", precision=precision, found=found)


@pytest.fixture
def kept() -> Kept:
    """Of two domains one has a merged release."""
    score = Measurement(value=0.375, unit="share", n=8, low=0.25, high=0.5)
    form: dict[str, Any] = {"part": "form", "domain": "legal"}
    found = {"kl_divergence": kl(0.0512), "field_score": score, "bytes": bytes_of(2_000_000)}
    same = {"same_answers": Measurement(value=7, n=8)}
    whole = {"bytes": bytes_of(90_000_000), "kl_divergence": kl(0.0612), "field_score": score}
    rows = [
        Row(part="base", precision="int4", found={"bytes": bytes_of(95_000_000)}),
        Row(**form, form="initializers", precision="int4", found=found),
        Row(**form, form="inputs", precision="int4", found=found | same),
        Row(**form, form="merged", found=whole),
        Row(part="nodes", form="merged", counts={"MatMulNBits": 10, "Reshape": 3}),
    ]
    return Kept(
        machine="2 cores",
        base="org/base",
        precision="int4",
        calibrated=["legal"],
        adapters={"legal": "trained", "medical": "random"},
        rows=rows,
    )


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("| ").split("|")]


class TestTheDocument:
    def test_has_each_figure_of_the_rows(self, kept: Kept) -> None:
        text = render(kept)
        rows = [
            line for line in text.splitlines() if re.match(r"\| legal +\| (init|inp|mer)", line)
        ]
        told = [[c.strip() for c in line.strip("| ").split("|")][1:4] for line in rows]
        score = "37.5 % (25–50 %, n = 8)"
        assert told == [
            ["initializers", "0.0512 nats/token ± 0.004", score],
            ["inputs", "0.0512 nats/token ± 0.004", score],
            ["merged", "0.0612 nats/token ± 0.004", score],
        ]
        assert "7 of 8" in rows[1]
        assert cells(text, "**all**")[1] == "13" and cells(text, "**without")[1] == "10"

    def test_says_of_what_was_not_measured_that_it_was_not(self, kept: Kept) -> None:
        text = render(kept)
        missing = "not measured: its run was not made"
        assert cells(text, "legal, medical: all")[1:] == [missing, missing]
        assert chosen(kept) == ("", "no domain's adapter was measured in all of them")
        assert text.count("Not measured: its run was not made.") == 4

    def test_adds_up_what_a_page_fetches(self, kept: Kept) -> None:
        family, merged = totals(kept, ["legal"])
        assert (family.value, merged.value) == (97_000_000, 90_000_000)
        form = kept.row("form", "legal", "merged")
        assert form
        kept.rows.append(form.model_copy(update={"domain": "medical"}))
        added = {"fetched": bytes_of(3_000_000), "seconds": Measurement(value=9.0, unit="s")}
        further = Row(part="further", domain="medical", precision="int4", found=added)
        kept.rows.append(further)
        assert cells(render(kept), "legal, medical: all")[1:] == ["0.100 GB", "0.180 GB"]
        assert "Of 2 domains the family is 55.6 % of the merged releases." in render(kept)

    def test_chooses_the_fewest_bytes_within_a_standard_error_of_the_least_divergence(
        self, kept: Kept
    ) -> None:
        kept.rows += [stored("int4", 2, 0.0539), stored("int8", 3, 0.051), stored("f16", 4, 0.05)]
        assert chosen(kept)[0] == "int4"
        kept.rows[-1] = stored("f16", 4, 0.05, 0.0011)
        assert chosen(kept)[0] == "int8"
        assert "**int8**, over legal" in render(kept)

    def test_in_the_repository_is_made_of_the_rows_there(self) -> None:
        assert DOCUMENT.read_text("utf-8") == render(Kept.read(FIGURES))


class TestARow:
    def test_is_on_the_disk_as_soon_as_it_is_made_and_is_not_made_again(
        self, tmp_path: Path
    ) -> None:
        file, made = tmp_path / "family.json", list[str]()

        def make(row: Row) -> None:
            made.append(row.domain)
            row.found["bytes"] = bytes_of(7)

        for _ in range(2):
            keep(Kept.read(file), file, Row(part="further", domain="legal"), make)
        assert made == ["legal"]
        assert Kept.read(file).measurement("bytes", "further", "legal").value == 7

    def test_of_a_failed_run_is_not_kept(self, tmp_path: Path) -> None:
        file = tmp_path / "family.json"

        def fail(row: Row) -> None:
            raise UserError("no disk")

        with pytest.raises(UserError):
            keep(Kept(), file, Row(part="base"), fail)
        assert not file.exists()


@pytest.mark.slow
def test_every_part_is_measured_of_a_tiny_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "in_turns", partial(measure.in_turns, rounds=1))
    names = ("legal", "medical", "financial")
    kept = Kept(base="tiny", precision="int4", calibrated=["legal", "medical"])
    kept.adapters = dict.fromkeys(names, "random")
    members = {name: member(name) for name in names}
    bench = Bench(kept, tmp_path / "family.json", members, "int4", records=2, tokens=3)
    bench.inside = ["legal", "medical"]
    measure_base(bench)
    for form in FORMS:
        measure_form(bench, "legal", form)
    measure_precisions(bench, "legal")
    measure_nodes(bench, PRECISIONS)
    measure_further(bench, "financial")
    measure_speeds(bench, "legal", PRECISIONS)
    found = {
        form: kept.measurement("kl_divergence", "form", "legal", form, "int4" * (form != "merged"))
        for form in FORMS
    }
    assert found["inputs"].value == pytest.approx(found["initializers"].value, rel=1e-2)
    assert found["merged"].value != found["initializers"].value
    assert kept.measurement("same_answers", "form", "legal", "inputs", "int4").value == 2
    own = kept.measurement("kl_divergence", "precision", "legal", "", "int4")
    assert own.value == pytest.approx(found["initializers"].value, rel=1e-6)
    least = [kept.measurement("bytes", "precision", "legal", "", p).value for p in PRECISIONS]
    assert min(least) == least[PRECISIONS.index("int4")]
    row = kept.row("further", "financial", "", "int4")
    assert row and {*row.counts} == {
        *(f"adapters/financial.{kind}" for kind in ("json", "onnx_adapter", "safetensors")),
        *(f"domains/financial/{name}" for name in DOMAIN_FILES),
    }
    counts = {row.form: sum(row.counts.values()) for row in kept.rows if row.part == "nodes"}
    assert counts["merged"] < counts["initializers"] == counts["inputs"]
    assert sum(row.part == "speed" for row in kept.rows) == 7
    assert Kept.model_validate(json.loads((tmp_path / "family.json").read_text())) == kept
    assert "financial" in render(kept)


@pytest.mark.slow
def test_a_page_fetches_an_adapter_at_a_switch_once_and_writes_the_cpus_tokens(
    world: Path, tmp_path: Path
) -> None:
    names = ("legal", "medical")
    kept = Kept(base="tiny", precision="int4", calibrated=list(names))
    bench = Bench(kept, tmp_path / "family.json", {n: member(n) for n in names}, "int4")
    bench.inside = list(names)
    measure_browser(bench)
    steps = [row for row in kept.rows if row.part == "browser"]
    fetched = [int(row.found["fetched"].value or 0) for row in steps]
    base, legal, medical, again, reloaded, after = fetched
    assert base > legal > 0 < medical and again == reloaded == after == 0
    held = [int(row.found["held"].value or 0) for row in steps]
    assert held[0] < held[1] < held[2] == held[3]
    same = [row.found["same"].value for row in steps if "same" in row.found]
    assert same == [MOST] * 4
    assert "| 3. medical" in render(kept)


@pytest.mark.slow
def test_a_base_at_size_is_built_with_its_adapters_and_answers_with_each(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("legal", "medical", "financial")
    monkeypatch.setattr(family_at_size, "DOMAINS", names)
    some = family_at_size.members(world / "models" / "base", tmp_path)
    first = family_at_size.timed(some[:-1])
    grown = family_at_size.timed(some, grown_from=first.family.folder)
    rows = family_at_size.answers(grown.family)
    assert [row[0] for row in rows] == list(names)
    text = family_at_size.render(first, grown, rows, 0.0)
    assert text.count("tokens after") == 3 and cells(text, "legal, medical")[1].endswith("s")
    assert cells(text, "all domains")[1] and cells(text, "financial")[1].endswith("s")


def test_rows_of_another_adapter_are_let_go() -> None:
    kept = Kept(adapters={"legal": "trained", "tax": "random"}, hashes={"legal": "a"})
    kept.rows = [Row(part="base"), Row(part="form", domain="legal"), Row(part="form", domain="tax")]
    kept.forget_others({"legal": "trained", "tax": "random"}, {"legal": "a", "tax": "b"})
    assert len(kept.rows) == 3
    kept.forget_others({"legal": "trained", "tax": "trained"}, {"legal": "c", "tax": "b"})
    assert [row.part for row in kept.rows] == ["base"]
