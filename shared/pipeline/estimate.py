"""What a stage will take here: seconds, memory, disk, from the model's shape and the domain's settings.

>>> estimate(shape, work, machine)["build"]
Cost(seconds=1410.0, memory=3.6e9, disk=5.5e9)

A formula counts operations and bytes as the stage's code makes them, and stands in a function of its
own; what no arithmetic gives is a constant, measured at full size on two cores without a GPU
(docs/full-size.md). Within a factor of two is what is aimed at: it tells an hour from a minute.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from shared.base.machine import FED, Machine
from shared.evaluate.check import FIRST as ANSWERED_FIRST
from shared.evaluate.models.device import (
    CACHE_ROOM,
    FLOAT32_BELOW_BYTES,
    rows_at_once,
)
from shared.evaluate.models.mapped import KEPT_BYTES
from shared.evaluate.overflow import RECORDS, TOKENS
from shared.evaluate.reference import CHUNK
from shared.evaluate.systems import Mode, Name
from shared.release.model import Stage
from shared.webgpu_bench.request import Profile

ROUNDED_VALUE = 7000
"""Operations of a product in float32 that take as long as rounding a value: read, its scale searched,
itself rounded and packed (olive/quantise/columns.py)."""

CUT = 1.4
"""So many times as fast is what is computed of the text with products of float32 matrices from their
upper 16 bits, where the processor has bfloat16 (olive/quantise/hessian.py)."""

CALIBRATED_LAYER = 1.2
"""Seconds of a layer's passes and sums that are PyTorch's own, twice with make_up, from one build: the
embedded model with an adapter took 114 s, where all else that is counted here came to 40."""

ROUNDED = 190e6
"""Machine.rounding where the constants were measured: what is Python's own share scales by it."""
LIBRARIES, BUILDER, BROWSER = 5.0, 10.0, 15.0
"""Seconds for a stage's libraries; for Olive's and two bare graphs (docs/full-size.md: 9 to 10 s); for
a browser and its page."""
IN_BROWSER = 3.6
"""Bytes that a browser holds on a software adapter at its worst moment, for each byte of a model's q4
file: the benches of SmolLM3 and Qwen2.5 in docs/full-size.md, less what Python held of them."""
LOADED = 65
"""onnxruntime loads weights in the time of so many passes that read them: 1.75 GB in 6.7 s."""
LAYER_SECONDS = 0.002
"""PyTorch's own share of a layer and pass: eight answers of the embedded model, 80 tokens/s."""
SOFTWARE = 80
"""A software adapter multiplies so many times slower than the CPU in float32: 24 tokens of a 3B take
80 to 87 s, 512 of the embedded model 42 s."""
GPU_FLOPS, GPU_MEMORY = 1e12, 60e9
"""An integrated GPU on paper: none was at hand to be measured."""
PROCESS = 0.9e9
"""Memory of a process with PyTorch, transformers and onnxruntime, and of the one that waits for it."""
WAITING = 0.3e9
"""Of one that has left a large model's build and answers to processes of their own, without a GPU."""


@dataclass(frozen=True)
class Cost:
    """Of one stage: seconds, and the most bytes of memory and disk. `mapped`: of the memory what are
    16-bit weights as they lie on the disk, which the system takes back where memory is short."""

    seconds: float
    memory: float = PROCESS
    disk: float = 0.0
    mapped: float = 0.0


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions. `inner`: all query heads together; `cached`: all key heads."""

    layers: int
    width: int
    middle: int
    inner: int
    cached: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """From transformers' configuration object, which knows what config.json leaves out."""
        config = config.get_text_config()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            heads * size,
            (getattr(config, "num_key_value_heads", None) or heads) * size,
            config.vocab_size,
            bool(config.tie_word_embeddings),
        )

    @property
    def products(self) -> list[tuple[int, int]]:
        """(rows, columns) of a layer's weights; those with the same inputs as one: QKV, gate and up."""
        attention = [(self.inner + 2 * self.cached, self.width), (self.width, self.inner)]
        return [*attention, (2 * self.middle, self.width), (self.width, self.middle)]

    @property
    def table(self) -> int:
        return self.vocabulary * self.width

    @property
    def decoder(self) -> int:
        """Values in all layers."""
        return self.layers * sum(n * k for n, k in self.products)

    @property
    def parameters(self) -> int:
        return self.decoder + self.table * (1 if self.tied else 2)

    @property
    def flops(self) -> float:
        """Of a token's way through layers and head."""
        return 2.0 * (self.decoder + self.table)

    @property
    def large(self) -> bool:
        """Whether its weights stay 16-bit, and its work is done in processes of their own."""
        return 2 * self.parameters >= FLOAT32_BELOW_BYTES

    @property
    def parent(self) -> float:
        """Bytes of the weights as PyTorch computes with them: small ones in float32."""
        return self.parameters * (2.0 if self.large else 4.0)

    def release(self, block: int, scale: int = 2) -> float:
        """Bytes of 4-bit weights: half a byte a value, `scale` bytes a block."""
        return self.parameters * (0.5 + scale / block)


@dataclass(frozen=True)
class Work:
    """What a domain asks of a model. Lengths are in tokens, `prompt`: what all records begin with.

    `calibration`: tokens in all. `made_up`: what layers have lost is made up for. `tuned`: the weights
    know the task. `systems`: who answers, within `minutes`. `adapted`: an adapter is merged into them.
    """

    prompt: float
    record: float
    answer: float
    limit: int
    records: int
    modes: tuple[Mode, ...]
    systems: tuple[Name, ...]
    tuned: bool
    read: int
    calibration: float
    searched: bool
    made_up: bool
    block: int
    optimum: bool
    packed: bool
    bench: Profile
    minutes: float = math.inf
    adapted: bool = False


def estimate(shape: Shape, work: Work, machine: Machine) -> dict[Stage, Cost]:
    """The cost of each stage; the gates have none."""
    build = optimum if work.optimum else calibrated if work.searched else plain
    return {
        "source": source(shape, work, machine),
        "build": build(shape, work, machine),
        "package": Cost(_own(LIBRARIES, machine)),
        "fidelity": fidelity(shape, work, machine),
        "check": check(shape, work, machine),
        "bench": bench(shape, work, machine),
    }


def _own(seconds: float, machine: Machine) -> float:
    """Python's own share, on this machine."""
    return seconds * ROUNDED / machine.rounding


def source(shape: Shape, work: Work, machine: Machine) -> Cost:
    """Look at the weights and hash them, unless that is remembered; unpacking a package takes 20 s."""
    own = 2 * LIBRARIES + (20 if work.packed else 0)
    return Cost(_own(own, machine) + 2 * shape.parameters / machine.hashing)


def plain(shape: Shape, work: Work, machine: Machine) -> Cost:
    """Read and quantise (8 to 11 s for 3 to 4 billion values: half a trial each), write both, hash.

    Memory: the table in 16 bits and its codes (docs/full-size.md, 0.8 to 1.4 GB).
    """
    written = shape.release(work.block) + shape.release(work.block, 4)
    seconds = _own(BUILDER, machine) + 0.5 * shape.parameters / machine.rounding
    seconds += written * (1 / machine.disk + 1 / machine.hashing)
    return Cost(seconds, 0.55e9 + 3.0 * shape.table, written)


def calibrated(shape: Shape, work: Work, machine: Machine) -> Cost:
    """The plain build, GPTQ's products (108 TFLOP for SmolLM3 and 4,874 tokens) and the rounding.

    Memory: a layer in float32, the largest Hessian, the text's hidden
    states, and eight bytes a value of the table (docs/full-size.md, 2.6 to 4.3 GB). What layers have
    lost takes a Hessian more, the 16-bit model's inputs, and a down projection in float32.
    """
    feedback = work.calibration > 0
    cut = CUT if machine.bfloat16 and not work.made_up else 1.0
    of_tokens, of_weights = gptq_flops(shape, work.calibration)
    seconds = (of_tokens / cut + of_weights) / machine.float32
    seconds += ROUNDED_VALUE * shape.parameters / machine.float32
    layer = 4.0 * shape.decoder / shape.layers
    hessian = 4.0 * max(k for _, k in shape.products) ** 2 * feedback
    seconds += _own(CALIBRATED_LAYER * shape.layers * feedback * (1 + work.made_up), machine)
    if work.made_up and feedback:
        seconds += make_up_flops(shape, work.calibration) / machine.float32
        inputs = sum(k for _, k in shape.products) + shape.width
        layer += hessian + 4 * (work.calibration * inputs + shape.width * shape.middle)
    bare, kept = plain(shape, work, machine), shape.release(work.block)
    memory = PROCESS + layer + hessian + 4 * work.calibration * shape.width + 8.0 * shape.table
    return Cost(bare.seconds + seconds + kept / machine.disk, memory, bare.disk + kept)


def gptq_flops(shape: Shape, tokens: float) -> tuple[float, float]:
    """Operations of GPTQ over `tokens` of calibration text, and over its weights; none without any.

    A layer is passed twice (for its inputs, for its output): 4 · N · K a token. Of a weight [N, K]:
    half of H = X Xᵀ is K² a token, its factor K³ / 3, passing errors on N · K².
    """
    if not tokens:
        return 0.0, 0.0
    of_tokens = sum(tokens * (4 * n * k + k**2) for n, k in shape.products)
    of_weights = sum(k**3 / 3 + n * k**2 for n, k in shape.products)
    return shape.layers * of_tokens, shape.layers * of_weights + shape.vocabulary * shape.width**2


def make_up_flops(shape: Shape, tokens: float) -> float:
    """What making up for the layers before adds.

    The 16-bit model's pass: 2 · N · K a token. Solved: a factor, K³ / 3, and for each row of what is
    divided 2 · K². That is [K, K] where inputs are shared, of which a token adds 2 · K², applied to
    N rows; else [N, K], of which a token adds 4 · N · K.
    """

    def one(n: int, k: int) -> float:
        if n == shape.width:
            return tokens * 6 * n * k + k**3 / 3 + 2 * n * k**2
        return tokens * (2 * n * k + 2 * k**2) + 7 / 3 * k**3 + 2 * n * k**2

    return shape.layers * sum(one(n, k) for n, k in shape.products)


def optimum(shape: Shape, work: Work, machine: Machine) -> Cost:
    """Optimum's export in float32 twice over, then the plain build.

    On the embedded model 42 s and 3 GB; not measured at full size. Its environment, made on first use,
    comes on top.
    """
    bare, written = plain(shape, work, machine), 8.0 * shape.parameters
    seconds = bare.seconds + _own(20, machine) + written / machine.disk
    return Cost(seconds, 1e9 + 16.0 * shape.parameters, bare.disk + written)


def _feed(shape: Shape, tokens: float, at_once: int, machine: Machine) -> float:
    """Seconds in which PyTorch reads `tokens`, `at_once` a pass.

    A pass takes as long as its products, or as reading the weights if that is longer, and its layers'
    own share. In bfloat16 the weights are laid out anew for it, however few are read.
    """
    rows, speed = at_once, machine.float32
    if machine.bfloat16 and not _is_wide(shape, machine):
        rows, speed = max(at_once, FED), machine.bfloat16
    products = rows * shape.flops / speed
    pass_seconds = max(products, shape.parent / machine.memory)
    return tokens / at_once * (pass_seconds + _own(LAYER_SECONDS * shape.layers, machine))


def _is_wide(shape: Shape, machine: Machine) -> bool:
    """Whether PyTorch computes in float32: as shared.evaluate.models.device chooses on a CPU."""
    return shape.parent > 2 * shape.parameters or machine.bfloat16 is None


def _load(size: float, machine: Machine) -> float:
    """Seconds in which onnxruntime loads a graph with `size` bytes of weights."""
    return _own(1, machine) + LOADED * size / machine.memory


def fidelity(shape: Shape, work: Work, machine: Machine) -> Cost:
    """Parent and build read `read` tokens and the prompt; SmolLM3 took 143 s.

    Each position's whole vocabulary is compared, about 30 million values a second.
    """
    tokens, size = work.prompt + work.read, shape.release(work.block)
    seconds = _feed(shape, tokens, CHUNK, machine) + tokens * shape.flops / machine.float32
    seconds += shape.parent / machine.memory + 2 * _load(size, machine) + 64 * size / machine.memory
    seconds += _own(2 * LIBRARIES + 2 * work.read * shape.vocabulary / 30e6, machine)
    held, mapped = _held(shape, work)
    memory = PROCESS + max(held, 2 * size) + 4.0 * CHUNK * shape.vocabulary
    return Cost(seconds, memory, mapped=mapped)


def _held(shape: Shape, work: Work) -> tuple[float, float]:
    """Bytes of the parent in memory, and how many of them are mapped: no more than KEPT_BYTES, but of a
    small (float32) or a merged one, which is there as a whole and not mapped."""
    if work.adapted or not shape.large:
        return shape.parent, 0.0
    return (kept := min(shape.parent, float(KEPT_BYTES))), kept


def answer_tokens(work: Work, *, tuned: bool) -> float:
    """Tokens of one record's answers in all modes.

    Held to the schema it is as long as the right one; free it ends there in a model that knows the
    task, and at the limit in one that does not. Of a tuned model the geometric mean is taken, since
    merged weights have failed to know it.
    """
    right = min(work.answer, work.limit)
    free = math.sqrt(right * work.limit) if tuned else work.limit
    return sum(free if mode == "free" else right for mode in work.modes)


def check(shape: Shape, work: Work, machine: Machine) -> Cost:
    """Each system reads the prompt and all records, and writes its answers; SmolLM3 took 977 s.

    The release answers one record at a time, reading its weights a token, and once more token by token
    where it is held to the schema; the 16-bit models as many as `rows_at_once` says. A time budget
    cuts the records, but to no fewer than are answered first.
    Memory: what is held of the parent, and the cache of these answers.
    """
    prompts = len(work.modes) * (work.prompt + work.records * work.record)
    size, seconds = shape.release(work.block), _own(LIBRARIES, machine)
    row = (work.prompt + work.record + work.limit + CACHE_ROOM) * shape.layers * 2 * shape.cached
    row *= 4 if _is_wide(shape, machine) else 2
    at_once = min(work.records, rows_at_once(row))
    for name in work.systems:
        written = work.records * answer_tokens(work, tuned=work.tuned and name != "base")
        if name == "release":
            token = size / machine.int4 + _own(LAYER_SECONDS / 20 * shape.layers, machine)
            seconds += _load(size, machine) + prompts * shape.flops / machine.float32
            again = work.records * min(work.answer, work.limit) * ("constrained" in work.modes)
            seconds += (written + again) * token
            continue
        seconds += shape.parent / machine.memory + _feed(shape, prompts, CHUNK, machine)
        seconds += _feed(shape, written, at_once, machine)
    held, mapped = (size, 0.0) if work.systems == ("release",) else _held(shape, work)
    memory = PROCESS + held + at_once * row
    if seconds > 60 * work.minutes and work.records > ANSWERED_FIRST:
        least = check(shape, replace(work, records=ANSWERED_FIRST, minutes=math.inf), machine)
        seconds = max(60 * work.minutes, least.seconds)
    return Cost(seconds, memory, mapped=mapped)


def bench(shape: Shape, work: Work, machine: Machine) -> Cost:
    """The overflow finder's 1,024 tokens in float32 on the CPU (SmolLM3: 29 s), then the browser.

    Two loads (1.96 GB: 9 s the first), what is asked, at most its time budget, and the same on the
    CPU. Memory: Python's own, and the most that all of the browser's processes hold at a time.
    """
    size = shape.release(work.block, 4)
    seconds = RECORDS * TOKENS * shape.flops / machine.float32 + 2 * _load(size, machine)
    seconds += _own(BROWSER, machine) + 2 * _load(size, machine)
    seconds += min(work.bench.seconds, browser_seconds(shape, work, machine))
    seconds += work.bench.parity_tokens * shape.flops / machine.float32
    return Cost(seconds, (WAITING if shape.large else PROCESS) + IN_BROWSER * size)


def browser_seconds(shape: Shape, work: Work, machine: Machine) -> float:
    """Seconds of all that the page is asked, were there no budget: a token read costs the same products
    on any adapter, a token written on a GPU costs reading the weights."""
    asked = work.bench
    points = [*asked.points.depths, *(asked.points.prefill if asked.hardware else ())]
    times = asked.points.warm_ups + asked.points.repetitions
    own = asked.warm_ups + asked.repetitions
    read = asked.parity_tokens + own * asked.prompt_tokens + times * sum(points)
    written = own * asked.new_tokens + times * len(asked.points.depths) * asked.points.new_tokens
    if not asked.hardware:
        return adapter_seconds(shape, read + written, machine)
    return read * shape.flops / GPU_FLOPS + written * shape.release(work.block) / GPU_MEMORY


def adapter_seconds(shape: Shape, tokens: float, machine: Machine) -> float:
    """Seconds in which a software adapter reads `tokens`."""
    return SOFTWARE * tokens * shape.flops / machine.float32
