"""A folder of 6 GB that cannot serve is refused in seconds, without torch where that is possible."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from shared.base import paths
from shared.source.contract import need_good_headers
from shared.source.weights import SINGLE
from tests.full_size_folders import BAD, NONSENSE, make, sharded


def test_each_bad_folder_is_refused_in_its_own_sentence_within_ten_seconds(root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.full_size_folders"],
        cwd=paths.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-1000:]
    said = json.loads(run.stdout.splitlines()[-1])
    wanted = {kind: words for kind, (_, words) in (BAD | NONSENSE).items()}
    assert {kind: said[kind][0] for kind in wanted if wanted[kind] not in said[kind][0]} == {}
    assert [kind for kind, (_, torch, _) in said.items() if torch and kind in BAD] == []
    assert {kind: seconds for kind, (*_, seconds) in said.items() if seconds >= 10} == {}


def test_a_whole_folder_of_that_size_has_nothing_against_it(tmp_path: Path) -> None:
    make(tmp_path / "merged", lambda folder: None)
    assert (tmp_path / "merged" / SINGLE).stat().st_size > 5_900_000_000
    assert len(need_good_headers(tmp_path / "merged")) == 326
    make(tmp_path / "sharded", sharded)
    assert len(need_good_headers(tmp_path / "sharded")) == 326
