"""bench-all.html decides quality too: scores with intervals, gates, recipes by bytes and KL."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shared.pipeline.quality import quality_of
from shared.release.card.recipe import report_file
from shared.release.model import release_folder
from shared.webgpu_bench.report.page import render_page
from tests.engine_rows import quality, rows
from tests.test_publishable import write_release


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(rows(), quality())


class TestTheReport:
    def test_has_every_systems_field_score_with_its_interval_beside_one_fixed_answer(
        self, page: str
    ) -> None:
        words = re.sub(r"<[^>]+>", "", page)
        for name, score in (("base", 20), ("16-bit parent", 55), ("4-bit release", 52)):
            assert re.search(rf"{name}: {score}(\.0)? % \(\d", words), name
        assert "one fixed answer: 31" in words
        assert 'aria-label="Field score, legal"' in page

    def test_says_why_a_domain_has_no_score_and_lets_no_markup_in(self, page: str) -> None:
        assert "not measured: no &lt;release&gt; here" in page
        assert "no &lt;GPU&gt; here" in page and "<GPU>" not in page

    def test_has_the_gates_as_a_matrix(self, page: str) -> None:
        for verdict in ("pass", "fail", "not-measured"):
            assert f'class="{verdict}"' in page

    def test_draws_each_recipe_over_its_bytes_and_names_the_chosen_one(self, page: str) -> None:
        assert "gptq-32 (chosen) 110,000,000 B, 0.04" in page
        assert ">int4-rtn</text>" in page.replace("-->", "")

    def test_is_drawn_in_the_pages_own_colours(self, page: str) -> None:
        assert "#0000e" not in page and "#0000f0" not in page
        assert render_page(rows(), quality()).count("currentColor") == page.count("currentColor")

    def test_without_any_is_the_report_on_speed(self) -> None:
        assert "<h2>How good" not in render_page(rows())


class TestADomainsQuality:
    def test_is_read_from_its_release_and_from_what_tune_wrote(self, root: Path) -> None:
        assert "run `./inv release` first" in quality_of("legal").missing
        folder = release_folder("legal")
        folder.mkdir(parents=True)
        write_release(folder, {})
        told = json.loads((folder / "release.json").read_text())
        told["measurements"] = {"check.floor.field_score": {"value": 0.3}}
        (folder / "release.json").write_text(json.dumps(told))
        tried = {"q4f16_bytes": {"value": 10}, "kl_divergence": {"value": 0.5}}
        recipes = {"a": {"measured": tried}, "b": {"measured": {}}}
        file = report_file("legal", "smollm3")
        file.parent.mkdir(parents=True)
        told = {"domain": "legal", "rung": "smollm3", "recipes": recipes, "chosen": "a"}
        file.write_text(json.dumps(told))
        other = report_file("legal-de", "smollm3")
        other.write_text(json.dumps(told | {"domain": "legal-de"}))
        found = quality_of("legal")
        assert found.check["floor.field_score"].value == 0.3 and not found.missing
        (recipe,) = found.recipes["smollm3"]
        assert (recipe.name, recipe.bytes, recipe.kl, recipe.chosen) == ("a", 10, 0.5, True)
