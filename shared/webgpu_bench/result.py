"""The browser's result, strictly: an answer with unknown keys is refused.

>>> BrowserResult(outcome="no_webgpu", error="this browser offers no WebGPU adapter").ok
False
"""

from typing import Literal

from pydantic import Field

from shared.base.manifest import Strict

Outcome = Literal[
    "ok",
    "load_failed",
    "run_failed",
    "out_of_budget",
    "out_of_memory",
    "device_lost",
    "timeout",
    "crashed",
    "no_webgpu",
]
StoppedBy = Literal["eos", "max_new_tokens", "deadline", "interrupted"]


class Adapter(Strict):
    """The WebGPU adapter as it names itself; `is_fallback` is the browser's word for software."""

    vendor: str = ""
    architecture: str = ""
    device: str = ""
    description: str = ""
    is_fallback: bool = False
    features: list[str] = Field(default_factory=list)
    limits: dict[str, float] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The longest of what it says of itself: Firefox and Chrome fill different fields."""
        kind = "a software adapter" if self.is_fallback else "an adapter"
        said = self.description or self.device or self.architecture or self.vendor
        return said or f"{kind} that the browser does not name"


class Load(Strict):
    """From the first request to a ready session, over loopback; bytes of the package only."""

    seconds: float = 0.0
    bytes_fetched: int = 0


class Run(Strict):
    """One prompt. `ttft_ms` is prefill and first token; `decode_ms` has one entry a later token,
    which is 0 for one that was forced: it is read with the token before it.

    `read_tokens`: of the prompt, those that were not there from the text before, where that is told.
    `model_runs`: how often the model was run for it, where the page's own loop tells; `buffers` and
    `dispatches`: of WebGPU for a whole document, how many were created and sent.
    `stopped_by` is "interrupted" where the run did not end by itself (timeout, lost device, crash).
    """

    id: str
    prompt_tokens: int
    read_tokens: int | None = None
    output_ids: list[int] = Field(default_factory=list)
    output_text: str = ""
    ttft_ms: float | None = None
    decode_ms: list[float] = Field(default_factory=list)
    model_runs: int | None = None
    buffers: int | None = None
    dispatches: int | None = None
    stopped_by: StoppedBy = "interrupted"

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Prompt tokens that were read over time to first token."""
        read = self.prompt_tokens if self.read_tokens is None else self.read_tokens
        return 1000 * read / self.ttft_ms if self.ttft_ms else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first over the time they took; None where none took any, as forced ones."""
        taken = sum(self.decode_ms)
        return 1000 * len(self.decode_ms) / taken if taken else None


class Gpu(Strict):
    """Counted where the page calls WebGPU. Bytes are requested buffer bytes, not the driver's own."""

    peak_requested_bytes: int = 0
    live_bytes_after_dispose: int | None = None
    buffers: int = 0
    dispatches: int = 0
    shader_modules: int = 0


class DeviceLost(Strict):
    reason: str
    message: str


class Placement(Strict):
    """How many graph nodes onnxruntime-web gave to each provider, by its own log."""

    WebGpuExecutionProvider: int
    CPUExecutionProvider: int
    cpu_nodes: list[str]


class Kernel(Strict):
    """One kind of kernel in one pass, by onnxruntime-web's profiler: GPU milliseconds in all.

    `role`: which weight it multiplied with, where it is a matrix product.
    """

    phase: Literal["prompt", "token"]
    kernel: str
    role: str
    dispatches: int
    milliseconds: float


class ParityPiece(Strict):
    """One pass of page/parity.js: `rows` texts from `row` on, `tokens` positions from `start` on.

    Base64 of little-endian ids [rows, tokens, top_k] int32, logits alike float32, log_sums
    [rows, tokens] float32. `whole` [vocab] float32: all logits of the first row's last position, in a
    run's first pass.
    """

    row: int
    start: int
    rows: int
    tokens: int
    ids: str
    logits: str
    log_sums: str
    whole: str | None = None
    ms: float


class Parity(Strict):
    """What the browser read of the given texts; shorter than asked where the time was up.

    `peak_requested_bytes`: of this reading alone, whose rows and logits are many.
    """

    pieces: list[ParityPiece] = Field(default_factory=list)
    peak_requested_bytes: int = 0


class BrowserResult(Strict):
    """The result of one run in the browser; `error` is one sentence unless the outcome is ok.

    `flags`: the command line that the browser was started with.
    """

    ok: bool = False
    outcome: Outcome
    error: str | None = None
    dtype: str | None = None
    dtype_reason: str | None = None
    adapter: Adapter = Adapter()
    software_adapter: bool = False
    load: Load = Load()
    warm_load: Load | None = None
    warm_load_reason: str | None = None
    threads: int | None = None
    runs: list[Run] = Field(default_factory=list)
    documents: list[Run] = Field(default_factory=list)
    parity: Parity | None = None
    kernels: list[Kernel] = Field(default_factory=list)
    gpu: Gpu = Gpu()
    placement: Placement | None = None
    placement_reason: str | None = None
    uncaptured_errors: list[str] = Field(default_factory=list)
    device_lost: DeviceLost | None = None
    flags: list[str] = Field(default_factory=list)
    console_errors: list[str] = Field(default_factory=list)
    blocked_requests: list[str] = Field(default_factory=list)
    user_agent: str = ""
    versions: dict[str, str | None] = Field(default_factory=dict)
