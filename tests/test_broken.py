"""`python -m benchmarks.broken`: a fault in what the browser alone gets, and what a release says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.broken import broken_copy, main, places, planted
from shared.base.errors import UserError
from shared.release.model import release_folder
from shared.webgpu_bench import layers
from shared.webgpu_bench import stage as bench
from tests.stand_ins import share_embedded

WEIGHT = "model.layers.1.mlp.down_proj.weight"


def data(package: Path) -> np.ndarray:
    return np.fromfile(package / "onnx" / "model_q4.onnx_data", np.float32)


class TestTheCopy:
    def test_has_one_scale_doubled_and_leaves_the_package_alone(
        self, package: Path, tmp_path: Path
    ) -> None:
        right = data(package)
        wrong = data(broken_copy(package, tmp_path / "wrong", WEIGHT, 3))
        assert data(package).tobytes() == right.tobytes()
        (where,) = np.flatnonzero(wrong.view(np.uint32) != right.view(np.uint32))
        assert wrong[where] == 2 * right[where] != 0

    @pytest.mark.parametrize(
        ("weight", "block", "sentence"),
        [
            ("model.layers.1.mlp.down.weight", 0, f"did you mean '{WEIGHT}'"),
            (WEIGHT, 10**6, "there is no block 1000000"),
        ],
    )
    def test_of_what_is_not_there_is_refused(
        self, package: Path, tmp_path: Path, weight: str, block: int, sentence: str
    ) -> None:
        with pytest.raises(UserError, match=re.escape(sentence)):
            broken_copy(package, tmp_path / "wrong", weight, block)


def test_no_release_takes_a_broken_bench_for_its_own() -> None:
    key = bench.Plan("bench", inputs={}, settings={}).key
    with planted(lambda package: package, "x"):
        assert bench.Plan("bench", inputs={}, settings={}).key != key
    assert bench.Plan("bench", inputs={}, settings={}).key == key


def test_only_the_browser_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, Path]] = []
    monkeypatch.setattr(
        layers, "compare_layers", lambda package, *a, served: seen.append((package, served))
    )
    with planted(lambda package: package / "broken", "x"):
        layers.compare_layers(Path("right"), Path("browser"), [], 1)
    assert seen == [(Path("right"), Path("right/broken"))]


def test_a_weight_outside_the_layers_may_show_at_either_end() -> None:
    assert places(WEIGHT) == ["layer 1"]
    assert places("model.embed_tokens.weight") == ["embeddings", "head"]


@pytest.mark.slow
def test_it_ends_the_release_by_its_layer_and_no_example_takes_the_models_place(
    root: Path,
    few: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The embedded model is there to be taken."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    share_embedded(root)
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    code = main(["--domain", "legal", "--weight", WEIGHT, "--records", "1"])
    said = capfd.readouterr().out
    assert code == 0, said
    assert "exit code 1; rung taken: none" in said
    assert re.search(r"^reason: .*layer 1 differs by ", said, re.MULTILINE)
    assert not release_folder("legal").exists()
