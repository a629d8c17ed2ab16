"""A whole release folder of a tiny model, by the real stages but for the browser's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base import paths
from shared.base.manifest import Measurement
from shared.base.stage import Plan, Produced, run_stage
from shared.domain.domain import load_domain
from shared.evaluate.overflow import overflow_stage
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options
from shared.release.folder import make_release
from shared.release.gates import judge_gates
from shared.release.model import ChainResult, release_folder
from shared.webgpu_bench.stage import NAMES
from tests.stand_ins import take_any_architecture

ON_A_GPU = {name: Measurement(value=1) for name in NAMES} | {
    "loads": Measurement(value=True),
    "placement_proven": Measurement(value=True),
    "decode_tokens_per_second": Measurement(value=20.0),
    "parity_tokens": Measurement(value=2000),
    **{
        name: Measurement(value=0)
        for name in ("parity_kl_divergence", "gpu_errors", "nodes_on_cpu_unexpected")
    },
}
"""What the browser would have measured: nothing here starts one."""


def walked(tiny: Callable[[str], Path]) -> ChainResult:
    """Under DOCINTEL_ROOT: legal's first rung with a tiny Qwen2, measured on the CPU alone."""
    root = paths.root()
    shutil.copytree(paths.REPOSITORY / "domains" / "legal", root / "domains" / "legal")
    take_any_architecture(root / "domains" / "legal")
    shutil.copytree(tiny("qwen2"), root / "models" / "legal" / "merged")
    domain = load_domain("legal")
    made = run_chain(domain, Options(rung="smollm3", records="1", until="check", on_the_way=True))
    made.stages["bench"] = run_stage(
        Plan("bench", {"none": "at all"}), lambda _: Produced(ON_A_GPU)
    )
    made.stages["overflow"] = overflow_stage(domain, made.stages["package"])
    made.gates = judge_gates(domain.chain.gate, made.manifests)
    return made


@pytest.fixture(scope="session")
def pristine(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release folder, made once a session; never to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCINTEL_ROOT", str(tmp_path_factory.mktemp("pristine")))
        patch.delenv("DOCINTEL_SIGNING_KEY", raising=False)
        make_release(walked(tiny))
        return release_folder("legal")


@pytest.fixture
def release(root: Path, pristine: Path) -> Path:
    """A copy of it at models/legal/webgpu of the test's own world, to be spoilt."""
    folder = root / "models" / "legal" / "webgpu"
    shutil.copytree(pristine, folder)
    return folder
