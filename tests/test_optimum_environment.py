"""The recipe "optimum": its environment is made once, and mended; configurations in old words."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shared.base import paths
from shared.base.errors import RungFailed
from shared.olive.optimum import environment
from shared.olive.optimum.environment import optimum_python, pinned
from shared.olive.optimum.old_config import translated

pytestmark = pytest.mark.slow


class TestTheEnvironment:
    def test_holds_what_the_lock_says_and_is_reused(self) -> None:
        python, stamp = optimum_python(), environment.optimum_folder() / environment.STAMP
        made = stamp.stat().st_mtime_ns
        code = "from importlib.metadata import version as v; print(v('optimum'), v('transformers'))"
        said = subprocess.check_output([python, "-I", "-c", code], text=True)
        assert said.split() == [pinned()["optimum"], pinned()["transformers"]]
        assert optimum_python() == python
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
            optimum_python()
        assert not leftover.exists()
        assert not (tmp_path / ".venv-optimum" / environment.STAMP).exists()

    def test_a_changed_lock_makes_it_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        optimum_python()
        changed = tmp_path / "requirements.lock"
        changed.write_text(environment.LOCK_FILE.read_text() + "six==1.17.0\n")
        made: list[Path] = []
        monkeypatch.setattr(environment, "_make", made.append)
        optimum_python()
        assert made == []
        monkeypatch.setattr(environment, "LOCK_FILE", changed)
        optimum_python()
        assert made == [environment.optimum_folder()]


def test_a_scaled_rotary_embedding_is_said_in_the_old_words() -> None:
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    old = translated({"rope_parameters": rope, "dtype": "bfloat16", "auto_map": {"A": "b.py"}})
    assert old == {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
        "torch_dtype": "bfloat16",
    }
