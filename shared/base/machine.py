"""How fast this machine is, measured in a second or two and remembered for a day in build/.

>>> measured_machine().float32
1.9e11

Each figure is the best of what fits into SECONDS: what else the machine does at the moment would
otherwise be held against it until tomorrow.
"""

import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import PositiveFloat, ValidationError

from shared.base import paths
from shared.base.bfloat16 import is_bfloat16_fast
from shared.base.cpu import cores, physical_cores
from shared.base.files import write_text
from shared.base.manifest import Strict

if TYPE_CHECKING:
    import torch

SECONDS = 0.2
REMEMBERED_SECONDS = 24 * 3600
ROWS, WIDTH, FED = 256, 1024, 64
DISK_BYTES = 1 << 26


class Machine(Strict):
    """Work a second, by all cores that this process may use.

    `float32`, `bfloat16`: floating-point operations of a matrix product; in bfloat16 with weights that
    no cache holds, since laying them out takes most of the time, None without instructions for it.
    `memory`: bytes of float32 weights that a product with a single row reads; `int4`: of 4-bit ones,
    as decoding does. `rounding`: values rounded to a block's scale, in tensors so small that Python's
    own share counts. `disk`: bytes written and synced. `hashing`: bytes of SHA-256.
    """

    float32: PositiveFloat
    bfloat16: PositiveFloat | None
    memory: PositiveFloat
    int4: PositiveFloat
    rounding: PositiveFloat
    disk: PositiveFloat
    hashing: PositiveFloat


def measured_machine() -> Machine:
    """This machine's speeds: from build/machine-<cores>.json if that is younger than a day."""
    file = paths.build() / f"machine-{cores()}.json"
    try:
        if time.time() - file.stat().st_mtime < REMEMBERED_SECONDS:
            return Machine.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        pass
    machine = _measure()
    write_text(file, machine.model_dump_json(indent=2) + "\n")
    return machine


@functools.cache
def _measure() -> Machine:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a product a core: two threads of one product wait for each other
    try:
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return Machine(
                float32=_product(pool, torch.float32, ROWS),
                bfloat16=_product(pool, torch.bfloat16, FED, wide=32)
                if is_bfloat16_fast()
                else None,
                memory=2 * _product(pool, torch.float32, 1, wide=32),  # 4 bytes, 2 operations
                int4=_int4(),
                rounding=_rounding(pool),
                disk=_disk(),
                hashing=_hashing(),
            )
    finally:
        torch.set_num_threads(before)


def _best(work: Callable[[], Any], amount: float) -> float:
    """`amount` over the least time that `work()` took in SECONDS; twice at least."""
    least, until, times = float("inf"), time.perf_counter() + SECONDS, 0
    while times < 2 or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        least, times = min(least, time.perf_counter() - began), times + 1
    return amount / least


def _product(pool: Executor, dtype: "torch.dtype", rows: int, wide: int = 1) -> float:
    """Operations a second of rows [rows, WIDTH] times a weight [wide · WIDTH, WIDTH]."""
    import torch

    values, weight = torch.ones(rows, WIDTH).to(dtype), torch.ones(wide * WIDTH, WIDTH).to(dtype)
    side_by_side = [part.contiguous() for part in weight.chunk(cores())]
    work = functools.partial(torch.nn.functional.linear, values)
    return _best(lambda: list(pool.map(work, side_by_side)), 2.0 * rows * weight.numel())


def _int4() -> float:
    """Bytes a second of the 4-bit weights that onnxruntime multiplies a single row with, in a layer so
    large that no cache holds it; scales as in q4f16, of two bytes."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rows, block = 128 * WIDTH, 32
    packed = np.full((rows, WIDTH // block, block // 2), 0x88, np.uint8)
    scales = np.ones((rows, WIDTH // block), np.float32)
    node = helper.make_node("MatMulNBits", ["x", "packed", "scales"], ["y"], domain="com.microsoft")
    shape = {"K": WIDTH, "N": rows, "bits": 4, "block_size": block, "accuracy_level": 4}
    node.attribute.extend(helper.make_attribute(name, value) for name, value in shape.items())
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])
        for name, width in (("x", WIDTH), ("y", rows))
    ]
    weights = [numpy_helper.from_array(a, n) for a, n in ((packed, "packed"), (scales, "scales"))]
    graph = helper.make_graph([node], "int4", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.ones((1, WIDTH), np.float32)}
    return _best(lambda: session.run(None, feeds), packed.nbytes + scales.nbytes / 2)


def _rounding(pool: Executor) -> float:
    """Values a second, as a scale is searched."""
    import torch

    values, scale = torch.randn(512, 32), torch.rand(512, 1) + 0.1

    def trial(_: int) -> None:
        codes = (values / scale + 8).round_().clamp_(0, 15)
        codes.sub_(8).mul_(scale).sub_(values).square_().mul_(values).sum(-1)

    return _best(lambda: list(pool.map(trial, range(100))), 100 * values.numel())


def _hashing() -> float:
    """Bytes a second of SHA-256, which one thread computes."""
    data = bytes(1 << 24)
    return _best(lambda: hashlib.sha256(data), len(data))


def _disk() -> float:
    """Bytes a second into build/, synced: once, since it can take long."""
    folder = paths.build()
    folder.mkdir(parents=True, exist_ok=True)
    data = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(DISK_BYTES >> 20):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return DISK_BYTES / (time.perf_counter() - began)
