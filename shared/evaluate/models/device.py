"""Where PyTorch computes and in which type: the one place that chooses.

>>> computing(folder)
Computing(device='cpu', dtype='float32')

A GPU that PyTorch knows and that has room for the model, else the CPU. Small models compute in float32.
Large ones compute in bfloat16 on a GPU and on a CPU with instructions for it; on any other CPU in
float32, from weights that stay 16-bit and memory-mapped (`widened`): nowhere does a model take more
memory than its files and little more.
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.base.bfloat16 import is_bfloat16_fast
from shared.base.errors import UserError
from shared.base.gpu import has_gpu
from shared.base.parsing import nearest
from shared.evaluate.models.mapped import keep_within
from shared.source.model import load_model
from shared.source.weights import parts

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
FLOAT32_BELOW_BYTES = 2_000_000_000
"""Weights up to this size are converted to float32 as a whole."""
ROOM = 1.5
"""What must be free on a GPU, in sizes of the weights that lie there."""
LEAST_ROWS, ROWS = 8, 32
CACHE_BYTES, MOST_CACHE_BYTES = 600_000_000, 1_500_000_000
"""See `rows_at_once`."""
CACHE_ROOM = 64
"""Tokens for which a row's cache has room when it is made longer (roomy_cache.py)."""
PART = 2**18
"""Numbers that `widened` converts at a time: 1 MB in float32 stays in a core's cache."""


def rows_at_once(row_bytes: float) -> int:
    """How many prompts are a batch, whose keys and values have `row_bytes` each: as many as CACHE_BYTES
    have room for, ROWS at most; LEAST_ROWS at least, but for those that would be over MOST_CACHE_BYTES.

    Every step reads all weights once, for one row or for many; a 3B in bfloat16 comes to 16 rows of 500
    tokens, one whose heads share no keys (Phi-3) to a few.
    """
    least = min(LEAST_ROWS, int(MOST_CACHE_BYTES / row_bytes))
    return max(1, least, min(ROWS, int(CACHE_BYTES / row_bytes)))


@dataclass(frozen=True)
class Computing:
    """A device as PyTorch names it, and "float32" or "bfloat16"."""

    device: str = "cpu"
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.dtype} on {'the CPU' if self.device == 'cpu' else self.device.upper()}"


def parse_device(name: str) -> str:
    """A value of --device; UserError where there is no such name, or no such device here."""
    if name not in DEVICES:
        raise UserError(f"--device: there is no {name!r}; {nearest(name, list(DEVICES))}")
    if name in ("cuda", "mps") and name != _accelerator():
        raise UserError(
            f"--device: PyTorch finds no {name} on this machine; auto takes what is there"
        )
    return name


@cache
def computing(folder: Path, device: str = "auto") -> Computing:
    """How the model of this folder is computed here, on `device`, one of DEVICES.

    Looked at once: a GPU that the model is on has less room for it.
    """
    size = _weight_bytes(folder)
    small = not is_large(folder)
    if device == "auto":
        found = _accelerator() if has_gpu() else "cpu"
        needed = ROOM * size * (2 if small else 1)
        device = found if found == "cpu" or needed < _free_bytes(found) else "cpu"
    wide = small or (device == "cpu" and not is_bfloat16_fast())
    return Computing(device, "float32" if wide else "bfloat16")


def calibrating(device: str = "auto") -> str:
    """Where a build calibrates. That is part of the build's key, and one layer at a time has room
    anywhere: so what else lies on the GPU does not decide."""
    return device if device != "auto" else _accelerator() if has_gpu() else "cpu"


def load_on(folder: Path, how: Computing) -> Any:
    """The folder's model as `how` says."""
    if how.dtype == "float32" and is_large(folder):
        return keep_within(widened(load_model(folder)))
    model = load_model(folder, how.dtype).to(how.device)
    return keep_within(model) if how.device == "cpu" else model


def widened(model: Any) -> Any:
    """The same model, which then computes in float32 but keeps its weights as they are: each product
    converts its own as it uses them, PART at a time. Norms and the like are converted for good."""
    import torch

    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.forward = partial(_product, layer)  # type: ignore[method-assign]
        elif isinstance(layer, torch.nn.Embedding):
            layer.register_forward_hook(lambda *called: called[-1].float())
        else:
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.float()
    return model


def _product(layer: "torch.nn.Linear", inputs: "torch.Tensor") -> "torch.Tensor":
    import torch

    rows = max(1, PART // layer.in_features)
    parts = (part.float() for part in layer.weight.split(rows))
    product = torch.cat([torch.nn.functional.linear(inputs, part) for part in parts], -1)
    return product if layer.bias is None else product + layer.bias


def _accelerator() -> str:
    """ "cuda" or "mps", or "cpu" where PyTorch has neither."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found and found.type in DEVICES else "cpu"


def _free_bytes(device: str) -> int:
    import torch

    torch.accelerator.empty_cache()  # what an earlier model has left behind
    if device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int(torch.cuda.mem_get_info()[0])


def is_large(folder: Path) -> bool:
    """Whether the model's weights stay 16-bit on a CPU: they are FLOAT32_BELOW_BYTES, or more."""
    return _weight_bytes(folder) >= FLOAT32_BELOW_BYTES


def _weight_bytes(folder: Path) -> int:
    """Of the base alone: an adapter that is merged takes no more."""
    return sum(path.stat().st_size for path in parts(folder).base.glob("*.safetensors"))
