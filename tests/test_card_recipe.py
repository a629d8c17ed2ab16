"""The card tells how the weights were quantised, and compares only what was measured on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.base.manifest import Manifest, Measurement
from shared.domain.domain import load_domain
from shared.release.card.recipe import comparison, measured_beside, recipe_words, report_file


def manifest(stage: str, key: str, **given: Any) -> Manifest:
    empty: dict[str, Any] = {
        name: {} for name in ("inputs", "settings", "tools", "outputs", "measurements", "facts")
    }
    ran = {"wall_seconds": 1.0, "peak_rss_bytes": 1, "finished": ""}
    return Manifest(**{"stage": stage, "key": key, **empty, **ran, **given})


def build(root: Path, **settings: Any) -> Manifest:
    inputs = {"weights": "w1", "calibration": "c1"}
    return manifest("build", "k1", inputs=inputs, settings=settings)


def test_every_pass_is_named_with_its_settings_and_what_calibrated_it(root: Path) -> None:
    folder = root / "build" / "calibration" / "c1"
    folder.mkdir(parents=True)
    counts = {n: Measurement(value=v) for n, v in (("records", 16), ("tokens", 4874))}
    text = manifest("calibration", "c1", measurements=counts).model_dump_json()
    (folder / "manifest.json").write_text(text)
    words = recipe_words(build(root, olive=load_domain("legal").olive))
    assert words.startswith(
        "CalibratedQuant (bits 4, group_size 32, sym true) → StreamingModelBuilder (int4"
    )
    assert words.endswith("4,874 tokens of 16 records, none of them measured")


def test_the_other_toolchain_is_named(root: Path) -> None:
    assert recipe_words(build(root, exporter="optimum", block_size=32)) == "optimum, blocks of 32"


def shown(root: Path) -> str:
    return comparison("legal", measured_beside("legal", "embedded", build(root)))


class TestComparison:
    @pytest.fixture
    def told(self, root: Path) -> dict[str, Any]:
        def one(key: str, loss: float) -> dict[str, Any]:
            found = Measurement(value=loss, unit="nats/token", standard_error=0.001)
            return {"build": key, "measured": {"kl_divergence": found.model_dump()}}

        recipes = {
            "rounded": one("k2", 0.3),
            "calibrated": one("k1", 0.1),
            "x": one("k3", 0) | {"measured": {}},
        }
        return {"weights": "w1", "recipes": recipes} | {
            "chosen": "calibrated",
            "why": "calibrated: the lowest",
        }

    def write(self, told: dict[str, Any]) -> None:
        file = report_file("legal", "embedded")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(told))

    def test_shows_the_measured_ones_and_marks_this_release(
        self, root: Path, told: dict[str, Any]
    ) -> None:
        self.write(told)
        words = shown(root)
        assert words.index("calibrated, this release") < words.index("rounded")
        assert "0.3" in words and "| x" not in words
        assert words.endswith("The choice of `./inv tune`: calibrated: the lowest.")

    def test_says_where_the_release_is_not_by_the_chosen_recipe(
        self, root: Path, told: dict[str, Any]
    ) -> None:
        self.write(told | {"chosen": "rounded", "why": "rounded: the lowest"})
        assert "tune`: rounded: the lowest. This release was built by the recipe" in shown(root)

    def test_of_other_weights_is_not_shown(self, root: Path, told: dict[str, Any]) -> None:
        self.write(told | {"weights": "w2"})
        assert "not measured; `./inv tune --domain legal`" in shown(root)

    def test_says_so_where_nothing_was_tuned(self, root: Path) -> None:
        assert "not measured" in shown(root)
