"""Stage 6, bench: the packaged model in a real browser, measured and compared with the CPU.

The page loads the package with Transformers.js on WebGPU from a loopback server. On a software
adapter the run is short and every measurement says so: it proves loading, placement and agreement,
never speed. What the time did not allow there is not measured, with the reason, and fails nothing; the
text it has read is kept, and the next run goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from shared.base.errors import RungFailed, UserError
from shared.base.gpu import has_gpu
from shared.base.hashing import sha256_json
from shared.base.manifest import Manifest, Measurement, tool_versions
from shared.base.progress import say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.setup.browser import Browser, find_browser
from shared.webgpu_bench import documents, parity
from shared.webgpu_bench.kernels import KERNELS_FILE, kernels_table
from shared.webgpu_bench.measurements import (
    MODELS_FAULT,
    NAMES,
    describe,
    facts,
    gpu_errors,
    likeliest,
    measurements,
    not_loaded,
    own_runs,
    with_unreached,
)
from shared.webgpu_bench.memory import context_measurements, with_budget
from shared.webgpu_bench.request import (
    SOFTWARE_PARITY_TOKENS,
    Profile,
    Request,
    make_request,
    unanswered,
)
from shared.webgpu_bench.result import BrowserResult, Parity, ParityPiece
from shared.webgpu_bench.server import PAGE_CODE

if TYPE_CHECKING:
    from shared.evaluate.models.chat import Chat


READ_FILE = "parity.jsonl"
"""What a software adapter has read, one ParityPiece a line."""
MACHINES_FAULT = ("crashed", "device_lost")
"""A driver that was reset, or a page that was ended for want of memory, may have been ill luck."""
COMPARED = ("parity_", "layers_agree")
"""Measurements of the given text's comparison, by what their names begin with."""
ENDED = ("crashed", "out_of_memory")
"""How a page ends, most often where the machine has no memory for it. On a software adapter that is not
taken for a fault of the model: the adapter's memory is the machine's."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Switches:
    """`--gpu-budget` (else `[bench]`'s) and `--profile`; `take_up`: go on with unfinished work."""

    gpu_budget: str | None = None
    profile: bool = False
    take_up: bool = True


def bench_stage(
    domain: Domain, package: StageResult, *, force: bool = False, switches: Switches = Switches()
) -> StageResult:
    """Run the browser; measurements are NAMES. RungFailed where the page fails (never cached)."""
    domain = with_budget(domain, switches.gpu_budget)
    browser = find_browser()
    gpu = offered(browser)
    profile = Profile.of(domain, bool(gpu))
    asked = {
        "documents": sha256_json(documents.request(domain, "") if profile.hardware else None),
        "kernels_profiled": switches.profile,
    }
    plan = Plan(
        "bench",
        inputs={"package": package.manifest.key},
        settings=settings(domain, profile, gpu, browser) | asked,
        tools=tool_versions("onnxruntime", "transformers"),
        code=(__name__, *PAGE_CODE),
    )
    bench = Bench(domain, package.folder, profile, browser, switches.profile)
    return run_stage(plan, bench.produce, force=force, keep_partial=True, take_up=switches.take_up)


def settings(domain: Domain, profile: Profile, gpu: str, browser: Browser | None) -> dict[str, Any]:
    """What any run in a browser depends on beside the files that it loads."""
    return {
        "prompt": domain.prompt,
        "profile": _asked_of(profile),
        "gpu": gpu,
        "parity_text": sha256_json([[r.input, r.gold] for r in domain.records]),
        "gpu_budget": domain.chain.bench.gpu_budget,
        "browser": browser.version if browser else None,
    }


def _asked_of(profile: Profile) -> dict[str, Any]:
    """The profile; of a software adapter without its time, since with more of that a run goes on."""
    told = asdict(profile)
    return told if profile.hardware else {name: told[name] for name in told if name != "seconds"}


def offered(browser: Browser | None) -> str:
    """The GPU that the browser offers, by name; empty where there is none: what is measured depends on
    it, and with a driver put in, or another GPU, it is measured anew."""
    if browser is None or not has_gpu():
        return ""
    from shared.webgpu_bench.driver import offered_gpu

    found = offered_gpu(browser.path, browser.version)
    if not found:
        say("      there is a GPU here, but the browser offers none; taking the software adapter")
    return found


def _indented(line: str) -> None:
    say(f"      {line}")


def _pieces(path: Path) -> list[ParityPiece]:
    """The pieces of a file up to a line that was cut off; none where there is no file."""
    found: list[ParityPiece] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(ParityPiece.model_validate_json(line))
        except ValidationError:
            break
    return found


def earlier(work: Path) -> Manifest | None:
    """The unfinished result that a run goes on with."""
    try:
        return Manifest.read(work)
    except (OSError, ValidationError):
        return None


def with_earlier(made: Produced, before: Manifest | None) -> Produced:
    """With what the unfinished result had measured and this run, going on with it, had no time for:
    all of it where nothing was loaded in time, and none where the model was seen not to load. The text
    was compared again with what was read of it before, if it was compared at all."""
    found, known = made.measurements, before.measurements if before else {}
    if before is None or found["loads"].value is False:
        return made
    measured = {name: one for name, one in found.items() if one.value is not None}
    if "loads" not in measured:
        return replace(made, measurements=known | measured, facts=before.facts)
    compared = "parity_finite" in measured
    stays = {
        name: one
        for name, one in known.items()
        if one.value is not None and not (compared and name.startswith(COMPARED))
    }
    asked = found.get("greedy_agreement", found["loads"])
    answered = "greedy_agreement" in stays and made.unfinished == asked.reason
    unfinished = None if answered else made.unfinished
    return replace(made, measurements=found | stays | measured, unfinished=unfinished)


@dataclass(frozen=True)
class Bench:
    """A domain's package in a browser, and what the run shows."""

    domain: Domain
    package: Path
    profile: Profile
    browser: Browser | None
    kernels: bool = False

    def produce(self, work: Path) -> Produced:
        before = earlier(work)
        made = self._run_and_proof(work)
        found = with_unreached(made.measurements, self.domain.chain.bench)
        return with_earlier(replace(made, measurements=found), before)

    def _run_and_proof(self, work: Path) -> Produced:
        if self.browser is None:
            reason = "no Chrome or Chromium on this machine; `./inv doctor` says how to get one"
            return Produced({n: Measurement.missing(reason, u) for n, u in NAMES.items()})
        say("      loading the tokenizer")
        from shared.evaluate.models.chat import Chat

        request, result = self._answered(Chat(self.package), work / READ_FILE)
        told = facts(result, self.browser) | {"profile": asdict(request.profile)}
        (work / "browser.json").write_text(result.model_dump_json(indent=2) + "\n")
        if result.kernels:
            (work / KERNELS_FILE).write_text(kernels_table(result.kernels) + "\n")
        if result.outcome in MODELS_FAULT:
            return Produced(not_loaded(result), facts=told)
        if result.outcome == "no_webgpu":  # no model's fault, and no other rung fares better
            raise UserError(f"{self.browser.path}: {result.error}, not even a software one")
        asked = unanswered(request, result) if result.outcome == "ok" else []
        if asked and request.profile.hardware:
            within = f"not answered within {request.profile.seconds:.0f} s"
            raise RungFailed(f"the browser: timeout: {', '.join(asked)} {within}")
        late = result.outcome == "timeout" and not request.profile.hardware
        if result.outcome in ENDED and not request.profile.hardware:
            raise UserError(
                f"the browser: {result.outcome}: {result.error}; on a software adapter that is most "
                "often want of memory, and no other model is tried: free some and run it again, or "
                "name another by --rung"
            )
        if result.outcome != "ok" and not late:  # the machine's: another run may fare better
            raise RungFailed(f"the browser: {result.outcome}: {result.error}")
        if not result.load.seconds:
            reason = f"the software adapter did not load it within {request.profile.seconds:.0f} s"
            found = {n: Measurement.missing(reason, u) for n, u in NAMES.items()}
            if (errors := gpu_errors(result)).value:
                soft = {"where": describe(result), "software_adapter": True}
                found["gpu_errors"] = errors.model_copy(update=soft)
            return Produced(found, facts=told, unfinished=reason)
        return replace(self._shown(request, result), facts=told)

    def _shown(self, request: Request, result: BrowserResult) -> Produced:
        """All that a run shows which loaded the model."""
        found = measurements(result, self._cpu_choices(result, request.own))
        found |= self._proof(result, request)
        budget = self.domain.chain.bench.gpu_budget_bytes
        found |= context_measurements(self._graph(result), budget, result)
        read, hardware = found["parity_tokens"], request.profile.hardware
        enough = hardware and int(read.value or 0) >= SOFTWARE_PARITY_TOKENS
        unfinished = None if enough else read.reason  # a GPU reads all anew, and comes no further
        if not hardware and found["greedy_agreement"].value is None:  # nothing was asked in time
            unfinished = unfinished or found["greedy_agreement"].reason
        return Produced(found, unfinished=unfinished)

    def _graph(self, result: BrowserResult) -> Path:
        return self.package / "onnx" / f"model_{result.dtype}.onnx"

    def _proof(self, result: BrowserResult, request: Request) -> dict[str, Measurement]:
        """Parity on given text, and no node on the CPU that should not be there."""
        from shared.webgpu_bench import cpu_nodes

        where = describe(result)
        placed = {"nodes_on_cpu_unexpected": cpu_nodes.measure(result, self._graph(result), where)}
        found = self._compared(request, result)
        layers = Measurement.missing("a GPU computes in other types", "")
        if result.software_adapter:
            layers = self._layers(found["parity_logits_error"], request, where)
        return found | placed | {"layers_agree": layers}

    def _compared(self, request: Request, result: BrowserResult) -> dict[str, Measurement]:
        """Parity on given text: parity.NAMES."""
        rows, soft = request.rows, result.software_adapter
        if result.parity is None:
            return parity.missing("the browser read no given text", soft)
        say("      reading the given text on the CPU")
        from shared.evaluate.models.onnx import OnnxDecoder

        cpu = OnnxDecoder(self._graph(result), exact=True)
        compared = parity.compare(cpu, rows, result.parity)
        return parity.measurements(compared, sum(map(len, rows)), describe(result), soft)

    def _layers(self, whole: Measurement, request: Request, where: str) -> Measurement:
        """Whether each layer computes what the CPU's does: by the whole model's logits; layer by layer
        where these differ, to name the layer, or where none were read in time."""
        from shared.webgpu_bench import layers

        about: dict[str, Any] = {"where": where, "software_adapter": True}
        if whole.value is not None and float(whole.value) <= layers.WHOLE:
            how = "as a whole: the logits of the given text are the CPU's"
            return Measurement(value=True, how=how, n=whole.n, **about)
        say("      comparing WebGPU with the CPU layer by layer")
        assert self.browser is not None
        compared = layers.compare_layers(
            self.package, self.browser.path, request.rows, request.profile.seconds, _indented
        )
        if compared.fault is None and not compared.proven:
            return Measurement.missing(compared.error or "not all layers were compared", "")
        how = f"layer by layer, each on the CPU's hidden states, {len(compared.layers)} pieces"
        return Measurement(value=compared.proven, how=how, reason=compared.fault, **about)

    def _cpu_choices(
        self, result: BrowserResult, own: dict[str, list[int]]
    ) -> dict[str, list[int]]:
        """Run id → what the CPU would have written after the same text, token by token.

        The CPU reads the browser's own text, so that one different token does not make all that
        come after it differ too.
        """
        say("      reading what the browser wrote on the CPU")
        from shared.evaluate.models.onnx import OnnxDecoder

        model = OnnxDecoder(self._graph(result), exact=True)
        choices: dict[str, list[int]] = {}
        for run in own_runs(result):
            if not run.output_ids:
                choices[run.id] = []
                continue
            model.reset()
            prompt = own[run.id]
            logits = model.feed([*prompt, *run.output_ids[:-1]])
            after = logits[len(prompt) - 1 :]
            pairs = zip(after, run.output_ids, strict=True)
            choices[run.id] = [likeliest(row, token) for row, token in pairs]
        return choices

    def _answered(self, chat: Chat, read: Path) -> tuple[Request, BrowserResult]:
        """On the GPU where there should be one; else, asked anew, on the software adapter. Once more
        where the machine failed it: what was read before is kept."""
        request, result = self._asked(chat, self.profile, read)
        if result.outcome in MACHINES_FAULT:
            say(f"      the browser: {result.outcome}: {result.error}; asking it once more")
            request, result = self._asked(chat, self.profile, read)
        if self.profile.hardware and (result.outcome == "no_webgpu" or result.software_adapter):
            say("      the browser offers no GPU; taking the software adapter")
            request, result = self._asked(chat, Profile.of(self.domain, False), read)
        return request, result

    def _request(self, chat: Chat, profile: Profile, read: list[ParityPiece]) -> Request:
        return make_request(self.domain, self.package, chat, profile, read)

    def _asked(self, chat: Chat, profile: Profile, read: Path) -> tuple[Request, BrowserResult]:
        """One run; on a software adapter with what is in the file `read`, to which it adds."""
        before = [] if profile.hardware else _pieces(read)
        request = self._request(chat, profile, before)
        if profile.hardware:
            return request, self._run(request)
        if request.kept:
            say(f"      {sum(p.rows * p.tokens for p in request.kept)} positions were read before")
        read.write_text("".join(f"{piece.model_dump_json()}\n" for piece in request.kept))
        with read.open("a") as file:
            result = self._run(request, lambda text: print(text, file=file, flush=True))
        if request.kept or result.parity:
            result.parity = result.parity or Parity()
            result.parity.pieces = request.kept + result.parity.pieces
        return request, result

    def _run(self, request: Request, on_piece: Progress = lambda text: None) -> BrowserResult:
        from shared.webgpu_bench import driver

        assert self.browser is not None
        return driver.run_in_browser(
            self.package,
            request.payload | {"profile": self.kernels},
            browser=self.browser.path,
            timeout_s=request.profile.seconds + 60,
            on_progress=_indented,
            on_piece=on_piece,
            adapter="hardware" if request.profile.hardware else "software",
        )
