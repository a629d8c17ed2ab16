"""Stage 6, bench: the packaged model in a real browser, measured and held against the CPU.

The page loads the package with Transformers.js on WebGPU from a loopback server. On a software
adapter the run is short and every measurement says so: it proves loading, placement and agreement,
never speed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.domain import Domain
from shared.errors import RungFailed
from shared.hashing import files_below, sha256_files, sha256_json
from shared.manifest import Measurement
from shared.progress import say
from shared.setup.browser import Browser, find_browser
from shared.stage import Done, Plan, Produced, run_stage
from shared.webgpu_bench import cpu_nodes, parity
from shared.webgpu_bench.budget import context_measurements, with_budget
from shared.webgpu_bench.engines.ask import context_of, domain_ids
from shared.webgpu_bench.figures import Points, questions
from shared.webgpu_bench.gpu import has_gpu
from shared.webgpu_bench.kernels import KERNELS_FILE, kernels_table
from shared.webgpu_bench.measured import (
    MODELS_FAULT,
    NAMES,
    describe,
    facts,
    measurements,
    not_loaded,
    own_runs,
)
from shared.webgpu_bench.result import BrowserResult

HARNESS = (
    "package-lock.json",
    *("driver.py", "chromium.py", "placement.py", "result.py", "server.py"),
    *("parity.py", "cpu_nodes.py", "cpu_nodes.toml", "budget.py", "kernels.py"),
    *("figures.py", "speeds.py", "measured.py"),
)


SOFTWARE_REPETITIONS = 2
"""Each repetition asks another record's question: greedy ids are compared on several prompts."""


@dataclass(frozen=True)
class Profile:
    """How much is asked of the browser: a GPU is warmed up and measured several times."""

    prompt_tokens: int
    new_tokens: int
    warm_ups: int
    repetitions: int
    parity_tokens: int
    hardware: bool
    points: Points

    @classmethod
    def of(cls, domain: Domain, hardware: bool) -> Profile:
        bench = domain.chain.bench
        return cls(
            prompt_tokens=bench.prompt_tokens if hardware else bench.software_prompt_tokens,
            new_tokens=bench.new_tokens if hardware else bench.software_new_tokens,
            warm_ups=bench.warm_ups if hardware else 0,
            repetitions=bench.repetitions if hardware else SOFTWARE_REPETITIONS,
            parity_tokens=bench.parity_tokens if hardware else bench.software_parity_tokens,
            hardware=hardware,
            points=Points.of(bench, hardware=hardware),
        )


@dataclass(frozen=True)
class Switches:
    """`--gpu-budget` (else fallback.toml's) and `--profile`."""

    gpu_budget: str | None = None
    profile: bool = False


def bench_stage(
    domain: Domain, package: Done, *, force: bool = False, switches: Switches = Switches()
) -> Done:
    """Run the browser; measurements are NAMES. RungFailed where the page fails (never cached)."""
    domain = with_budget(domain, switches.gpu_budget)
    browser = find_browser()
    profile = Profile.of(domain, has_gpu())
    plan = Plan(
        "bench",
        inputs={"package": package.manifest.key, "harness": _harness_hash()},
        settings={
            "prompt": domain.prompt,
            "profile": asdict(profile),
            "parity_text": sha256_json([[r.input, r.gold] for r in domain.records]),
            "time_budget_seconds": domain.chain.bench.time_budget_seconds,
            "gpu_budget": domain.chain.bench.gpu_budget,
            "browser": browser.version if browser else None,
            "kernels_profiled": switches.profile,
        },
        code=5,
    )
    bench = _Bench(domain, package.folder, profile, browser, switches.profile)
    return run_stage(plan, bench.produce, force=force)


def _harness_hash() -> str:
    """The page's own files and its npm lock: another harness, another measurement."""
    folder = paths.REPOSITORY / "shared" / "webgpu_bench"
    page = sha256_files(folder / "page", files_below(folder / "page"))
    return sha256_json([page, sha256_files(folder, list(HARNESS))])


@dataclass(frozen=True)
class _Bench:
    domain: Domain
    package: Path
    profile: Profile
    browser: Browser | None
    kernels: bool = False

    def produce(self, work: Path) -> Produced:
        if self.browser is None:
            reason = "no Chrome or Chromium on this machine; `./inv doctor` says how to get one"
            return Produced({n: Measurement.missing(reason, u) for n, u in NAMES.items()})
        say("      loading the tokenizer")
        from shared.evaluate.chat import Chat

        chat = Chat(self.package)
        how = parity.reading(self.profile.parity_tokens, hardware=self.profile.hardware)
        rows = parity.held_out_rows(chat, self.domain.prompt, self.domain.records, how)
        own = self._own_prompts(chat)
        result = self._run(self._request(chat, own) | {"parity": parity.request(rows, how)})
        (work / "browser.json").write_text(result.model_dump_json(indent=2) + "\n")
        if result.kernels:
            (work / KERNELS_FILE).write_text(kernels_table(result.kernels) + "\n")
        if result.outcome in MODELS_FAULT:
            return Produced(not_loaded(result), facts=facts(result, self.browser))
        if result.outcome != "ok":  # the machine's: not remembered, another run may fare better
            raise RungFailed(f"the browser: {result.outcome}: {result.error}")
        found = measurements(result, self._cpu_choices(result, own)) | self._proof(result, rows)
        budget = self.domain.chain.bench.gpu_budget_bytes
        found |= context_measurements(self._graph(result), budget, result)
        return Produced(found, facts=facts(result, self.browser))

    def _graph(self, result: BrowserResult) -> Path:
        return self.package / "onnx" / f"model_{result.dtype}.onnx"

    def _proof(self, result: BrowserResult, rows: list[list[int]]) -> dict[str, Measurement]:
        """Parity on given text, and no node on the CPU that should not be there."""
        graph, where = self._graph(result), describe(result)
        placed = {"nodes_on_cpu_unexpected": cpu_nodes.measure(result, graph, where)}
        if result.parity is None:
            return parity.missing("the browser read no given text") | placed
        say("      reading the given text on the CPU")
        from shared.evaluate.forced import ForcedModel

        compared = parity.compare(ForcedModel(graph, exact=True), rows, result.parity)
        wanted = sum(map(len, rows))
        return parity.measurements(compared, wanted, where, result.software_adapter) | placed

    def _cpu_choices(
        self, result: BrowserResult, own: dict[str, list[int]]
    ) -> dict[str, list[int]]:
        """Run id → the CPU's likeliest token after the same text, for each token the browser wrote.

        The CPU reads the browser's own text, so that one different token does not make all that
        come after it differ too.
        """
        say("      reading what the browser wrote on the CPU")
        from shared.evaluate.forced import ForcedModel

        model = ForcedModel(self._graph(result), exact=True)
        choices = {}
        for run in own_runs(result):
            model.reset()
            prompt = own[run.id]
            logits = model.feed([*prompt, *run.output_ids[:-1]])
            choices[run.id] = [int(i) for i in logits[len(prompt) - 1 :].argmax(axis=-1)]
        return choices

    def _own_prompts(self, chat: Any) -> dict[str, list[int]]:
        """Run id → the end of one record's chat, as long as the profile says; all end alike."""
        kinds = ["warm-up"] * self.profile.warm_ups + ["run"] * self.profile.repetitions
        records = self.domain.records
        return {
            f"{kind}-{number}": list(
                chat.prompt_ids(self.domain.prompt, records[number % len(records)].input)[
                    -self.profile.prompt_tokens :
                ]
            )
            for number, kind in enumerate(kinds)
        }

    def _request(self, chat: Any, own_prompts: dict[str, list[int]]) -> dict[str, Any]:
        own = [
            {"id": name, "input_ids": ids, "max_new_tokens": self.profile.new_tokens}
            for name, ids in own_prompts.items()
        ]
        text, context = domain_ids(self.domain, chat), context_of(self.package)
        return {
            "model": self.package.name,
            "dtype": "auto",
            "prompts": own + questions(self.profile.points, text, context),
            "budget_bytes": self.domain.chain.bench.gpu_budget_bytes,
            "profile": self.kernels,
            "warm_load": True,
            "deadline_ms": int(self.domain.chain.bench.time_budget_seconds * 1000),
        }

    def _run(self, request: dict[str, Any]) -> BrowserResult:
        from shared.webgpu_bench.driver import run_in_browser

        assert self.browser is not None
        return run_in_browser(
            self.package,
            request,
            browser=self.browser.path,
            timeout_s=self.domain.chain.bench.time_budget_seconds + 60,
            on_progress=lambda line: say(f"      {line}"),
        )
