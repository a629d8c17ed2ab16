"""A folder of 6 GB that cannot serve is refused from its headers, before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from shared.base import paths
from shared.source.contract import need_good_headers
from shared.source.weights import SINGLE
from tests.full_size_folders import BAD, make, sharded


def test_each_bad_folder_is_refused_in_its_own_sentence_without_torch(root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.full_size_folders"],
        cwd=paths.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-1000:]
    said = json.loads(run.stdout.splitlines()[-1])
    other = {kind: said[kind][0] for kind, (_, words) in BAD.items() if words not in said[kind][0]}
    assert other == {}
    assert [kind for kind, (_, torch, _) in said.items() if torch] == []
    first, *_ = said.values()
    assert first[2] < 10  # seconds of this process, from its start


def test_a_whole_folder_of_that_size_has_nothing_against_it(tmp_path: Path) -> None:
    make(tmp_path / "merged", lambda folder: None)
    assert (tmp_path / "merged" / SINGLE).stat().st_size > 5_900_000_000
    assert len(need_good_headers(tmp_path / "merged")) == 326
    make(tmp_path / "sharded", sharded)
    assert len(need_good_headers(tmp_path / "sharded")) == 326
