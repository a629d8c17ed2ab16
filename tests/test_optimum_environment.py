"""The recipe "optimum": its environment is made once, and mended; configurations in old words."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.venv import STAMP, Venv
from shared.olive.optimum import recipe
from shared.olive.optimum.old_config import translated
from shared.olive.optimum.recipe import optimum_venv, pinned

pytestmark = pytest.mark.slow


class TestTheEnvironment:
    def test_holds_what_the_lock_says_and_is_reused(self) -> None:
        python, stamp = optimum_venv().python(), optimum_venv().folder / STAMP
        made = stamp.stat().st_mtime_ns
        code = "from importlib.metadata import version as v; print(v('optimum'), v('transformers'))"
        said = subprocess.check_output([python, "-I", "-c", code], text=True)
        assert said.split() == [pinned()["optimum"], pinned()["transformers"]]
        assert optimum_venv().python() == python
        assert stamp.stat().st_mtime_ns == made
        git = ["git", "status", "--porcelain", "--", python.parent]
        assert subprocess.check_output(git, cwd=paths.REPOSITORY) == b""

    def test_one_that_pip_could_not_finish_is_told_of_and_begun_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(paths, "REPOSITORY", tmp_path)
        monkeypatch.setenv(
            "PIP_CONFIG_FILE", os.devnull
        )  # a machine's own constraints word it anew
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        leftover = tmp_path / ".venv-optimum" / "lib" / "half"
        leftover.mkdir(parents=True)
        with pytest.raises(RungFailed, match=r"could not be made: .*torch==.* \(all of it: "):
            optimum_venv().python()
        assert not leftover.exists()
        assert not (tmp_path / ".venv-optimum" / STAMP).exists()

    def test_a_changed_lock_makes_it_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        optimum_venv().python()
        changed = tmp_path / "requirements.lock"
        changed.write_text(recipe.LOCK_FILE.read_text() + "six==1.17.0\n")
        made: list[Venv] = []
        monkeypatch.setattr(Venv, "_make", lambda venv: made.append(venv))
        optimum_venv().python()
        assert made == []
        monkeypatch.setattr(recipe, "LOCK_FILE", changed)
        optimum_venv().python()
        assert made == [optimum_venv()]


def test_a_scaled_rotary_embedding_is_said_in_the_old_words() -> None:
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    old = translated({"rope_parameters": rope, "dtype": "bfloat16", "auto_map": {"A": "b.py"}})
    assert old == {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
        "torch_dtype": "bfloat16",
    }
