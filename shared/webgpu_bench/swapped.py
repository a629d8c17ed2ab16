"""The domain of a family as a page has it: the graph that takes adapters, its own swapped in.

The stages before have measured the domain's own package, whose graph has the adapter as initializers.
A page that loads the family's base once runs another graph of the same weights: here it reads held-out
text on WebGPU, and the CPU reads it with the domain's own graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.base.hashing import sha256_file
from shared.base.manifest import tool_versions
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.domain.settings import Gate
from shared.olive.build import DTYPES
from shared.olive.family_record import SWAP, adapter_file
from shared.setup.browser import find_browser
from shared.webgpu_bench import measurements, parity
from shared.webgpu_bench.measurements import describe
from shared.webgpu_bench.memory import with_budget
from shared.webgpu_bench.request import Profile, Request
from shared.webgpu_bench.result import BrowserResult, ParityPiece
from shared.webgpu_bench.server import PAGE_CODE
from shared.webgpu_bench.stage import Bench, Switches, earlier, offered, settings, with_earlier

if TYPE_CHECKING:
    from shared.evaluate.models.chat import Chat

STAGE = "swapped"
POSITIONS = 128
"""Weights and kernels are proven on the domain's own graph; what is new is where the adapter goes."""
NOT_ABOUT_SPEED = (
    *("loads", "gpu_errors", "peak_gpu_bytes"),
    *("placement_proven", "nodes_on_cpu", "nodes_on_cpu_unexpected"),
)
NAMES = {
    **{name: unit for name, unit in measurements.NAMES.items() if name in NOT_ABOUT_SPEED},
    **parity.NAMES,
}


def swapped_stage(
    domain: Domain, family: Path, package: StageResult, switches: Switches, *, force: bool = False
) -> StageResult:
    """Run the browser on a family's folder; measurements are NAMES. `package`: the domain's own."""
    domain = _with_positions(with_budget(domain, switches.gpu_budget))
    browser = find_browser()
    gpu = offered(browser)
    profile = Profile.of(domain, bool(gpu))
    adapter = adapter_file(domain.name)
    graphs = [f"onnx/{SWAP}_{dtype}.onnx" for dtype in DTYPES]
    plan = Plan(
        STAGE,
        inputs={"package": package.manifest.key}
        | {name: sha256_file(family / name) for name in (*graphs, adapter)},
        settings=settings(domain, profile, gpu, browser),
        tools=tool_versions("onnxruntime", "transformers"),
        code=(__name__, *PAGE_CODE),
    )
    bench = _Swapped(domain, family, profile, browser, own=package.folder)
    return run_stage(plan, bench.produce, force=force, keep_partial=True, take_up=switches.take_up)


def swapped_gates(gates: list[Gate]) -> list[Gate]:
    """The domain's own gates on what is measured here, by the same bounds; of the positions to be
    compared POSITIONS, where more are asked of its own graph."""
    ours = {f"bench.{name}": f"{STAGE}.{name}" for name in NAMES}
    found = []
    for gate in (gate for gate in gates if gate.measurement in ours):
        told = {"name": f"{gate.name}, swapped in", "measurement": ours[gate.measurement]}
        if gate.measurement == "bench.parity_tokens" and gate.at_least:
            told["at_least"] = min(gate.at_least, POSITIONS)  # type: ignore[assignment]
        found.append(gate.model_copy(update=told))
    return found


def _with_positions(domain: Domain) -> Domain:
    bench = domain.chain.bench
    fewer = bench.model_copy(update={"parity_tokens": min(POSITIONS, bench.parity_tokens)})
    return replace(domain, chain=domain.chain.model_copy(update={"bench": fewer}))


@dataclass(frozen=True, kw_only=True)
class _Swapped(Bench):
    """`package` is the family's folder, `own` the domain's package."""

    own: Path

    def produce(self, work: Path) -> Produced:
        before = earlier(work)
        made = self._run_and_proof(work)
        found = {name: made.measurements[name] for name in NAMES}
        return with_earlier(replace(made, measurements=found), before)

    def _request(self, chat: Chat, profile: Profile, read: list[ParityPiece]) -> Request:
        request = super()._request(chat, profile, read)
        swap = {"domain": self.domain.name, "file": adapter_file(self.domain.name)}
        alone: dict[str, Any] = {"prompts": [], "documents": None, "warm_load": False}
        return replace(request, payload=request.payload | alone | {"swap": swap})

    def _graph(self, result: BrowserResult) -> Path:
        return self.own / "onnx" / f"model_{result.dtype}.onnx"

    def _shown(self, request: Request, result: BrowserResult) -> Produced:
        from shared.webgpu_bench import cpu_nodes

        graph, where = self.package / "onnx" / f"{SWAP}_{result.dtype}.onnx", describe(result)
        found = measurements.measurements(result, {}) | self._compared(request, result)
        found["nodes_on_cpu_unexpected"] = cpu_nodes.measure(result, graph, where)
        return Produced(found, unfinished=found["parity_tokens"].reason)
