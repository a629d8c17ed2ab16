"""The domain of a family as a page has it: the graph that takes adapters, its own swapped in.

The stages before have measured the domain's own package, whose graph has the adapter as initializers.
A page that loads the family's base once runs another graph of the same weights, and so does the
family's card: here it reads held-out text on WebGPU, and the CPU reads it with the domain's own graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.base.hashing import sha256_file
from shared.base.manifest import Measurement, tool_versions
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.domain.settings import Gate
from shared.olive.build import DTYPES
from shared.olive.family_record import SWAP, adapter_file
from shared.setup.browser import find_browser
from shared.webgpu_bench import parity
from shared.webgpu_bench.measurements import describe
from shared.webgpu_bench.memory import with_budget
from shared.webgpu_bench.request import Profile, Request
from shared.webgpu_bench.result import BrowserResult, ParityPiece
from shared.webgpu_bench.server import PAGE_CODE
from shared.webgpu_bench.stage import Bench, Switches, offered, settings

if TYPE_CHECKING:
    from shared.evaluate.models.chat import Chat

STAGE = "swapped"
POSITIONS = 128
"""Weights and kernels are proven on the domain's own graph; what is new is where the adapter goes."""
NAMES = {
    "loads": "",
    "gpu_errors": "errors",
    **{name: unit for name, unit in parity.NAMES.items() if name != "parity_tokens"},
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
    """The domain's own gates on what is measured here, by the same bounds."""
    ours = {f"bench.{name}": f"{STAGE}.{name}" for name in NAMES}
    return [
        gate.model_copy(
            update={"name": f"{gate.name}, swapped in", "measurement": ours[gate.measurement]}
        )
        for gate in gates
        if gate.measurement in ours
    ]


def _with_positions(domain: Domain) -> Domain:
    bench = domain.chain.bench
    fewer = bench.model_copy(update={"parity_tokens": min(POSITIONS, bench.parity_tokens)})
    return replace(domain, chain=domain.chain.model_copy(update={"bench": fewer}))


@dataclass(frozen=True, kw_only=True)
class _Swapped(Bench):
    """`package` is the family's folder, `own` the domain's package."""

    own: Path

    def produce(self, work: Path) -> Produced:
        made = self._run_and_proof(work)
        found = {name: made.measurements[name] for name in NAMES}
        return replace(made, measurements=found)

    def _request(self, chat: Chat, profile: Profile, read: list[ParityPiece]) -> Request:
        request = super()._request(chat, profile, read)
        swap = {"domain": self.domain.name, "file": adapter_file(self.domain.name)}
        alone: dict[str, Any] = {"prompts": [], "documents": None, "warm_load": False}
        return replace(
            request, payload=request.payload | alone | {"placement": False, "swap": swap}
        )

    def _graph(self, result: BrowserResult) -> Path:
        return self.own / "onnx" / f"model_{result.dtype}.onnx"

    def _shown(self, request: Request, result: BrowserResult) -> Produced:
        soft = result.software_adapter
        there: dict[str, Any] = {"where": describe(result), "software_adapter": soft}
        errors = len(result.uncaptured_errors) + (result.device_lost is not None)
        found = {
            "loads": Measurement(value=True, how="loaded, with the adapter swapped in", **there),
            "gpu_errors": Measurement(value=errors, unit="errors", how="uncaptured", **there),
        }
        compared = self._compared(request, result)
        return Produced(found | compared, unfinished=compared["parity_tokens"].reason)
