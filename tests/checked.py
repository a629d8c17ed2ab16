"""A root in which every domain was checked, one after the other: made once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared.base import paths
from shared.pipeline.schedule.units import run_unit, units_of
from shared.pipeline.stages import Options
from tests.stand_ins import take_any_architecture
from tests.tiny import FEW_TOKENS, write_tiny

DOMAINS = {"alpha": "llama", "delta": "smollm3", "gamma": "phi3"}
CHECK = Options(rung="smollm3", records="1", until="check")


def make_world(root: Path, embedded: Path, domains: dict[str, str] = DOMAINS) -> Path:
    """A root with a domain for each name, each with a small merged model of its own."""
    for name, architecture in domains.items():
        shutil.copytree(paths.REPOSITORY / "domains" / "legal", root / "domains" / name)
        take_any_architecture(root / "domains" / name)
        write_tiny(root / "models" / name / "merged", architecture, embedded, vocab_size=FEW_TOKENS)
    return root


@pytest.fixture(scope="session")
def alone(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which every domain was checked, one after the other; never to be changed."""
    root = make_world(tmp_path_factory.mktemp("alone"), embedded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCINTEL_ROOT", str(root))
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert all(run_unit(units_of(name, CHECK)[-1]).ok for name in DOMAINS)
    return root
