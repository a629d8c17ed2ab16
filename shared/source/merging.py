"""A base's weight with a LoRA, merged when it is read: W + scaling · B · A in float32, then W's type.

>>> weight = Merged(base, pair)     # no byte of it is read
>>> weight.to(torch.float32)        # merged, and forgotten again

Any operation that reads its numbers merges it first; what only looks at shape and type, names it anew
or takes some of its rows leaves it as it is. So a loader that takes a weight at a time (the build, the
calibration) holds one merged weight at a time, and there is no second copy of the model.

The order of the operations is peft's (tuners/lora/layer.py: get_delta_weight, merge), so that in
float32 the bits are those of its merge_and_unload().
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

import torch
from torch.utils._pytree import tree_map

from shared.source.weights import forget_mapped, mapped

aten: Any = torch.ops.aten
KEEPS = (aten.detach.default, aten.alias.default)
CUTS = (aten.slice.Tensor, aten.split.Tensor, aten.split_with_sizes.default)


@dataclass(frozen=True)
class Pair:
    """A LoRA's A [r, in] and B [out, r] with their scaling; `transposed`: the weight is [in, out]."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    transposed: bool = False


class Merged(torch.Tensor):
    """A weight of a base, or some of its rows (`base`), with the pair that belongs to all of them.

    It has no memory of its own: what asks for its address, and would read the base, is an error.
    """

    base: torch.Tensor
    whole_base: torch.Tensor
    pair: Pair
    rows: tuple[int, int]

    def __new__(cls, base: torch.Tensor, pair: Pair, rows: tuple[int, int] | None = None) -> Self:
        """`rows`: from and to before; all of the weight `base` where none are named."""
        start, stop = rows or (0, base.shape[0])
        some = base[start:stop]
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls, some.shape, strides=some.stride(), dtype=base.dtype, requires_grad=False
        )
        made.base, made.whole_base, made.pair, made.rows = some, base, pair, (start, stop)
        return made

    def merge(self) -> torch.Tensor:
        """The merged weight, in memory of its own."""
        with torch.no_grad():
            a, b = self.pair.a.to(torch.float32), self.pair.b.to(torch.float32)
            change = (b @ a).T if self.pair.transposed else b @ a
            merged = change.mul_(self.pair.scaling).add_(self.whole_base).to(self.base.dtype)
        return merged[slice(*self.rows)]

    def some(self, start: int, stop: int) -> "Merged":
        """The rows from `start` to before `stop`, of those that this has."""
        first, count = self.rows[0], self.shape[0]
        start, stop = (min(max(at + count * (at < 0), 0), count) for at in (start, stop))
        return Merged(self.whole_base, self.pair, (first + start, first + max(start, stop)))

    def data_ptr(self) -> int:
        """An error: there are no bytes to point at."""
        raise RuntimeError("a weight that is merged as it is read lies nowhere")

    @property
    def data(self) -> torch.Tensor:
        """As any tensor's."""
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        raise TypeError("a weight that is merged as it is read cannot be changed; see merge_all")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func` on the merged weight, unless it is one that leaves this as it is."""
        first = args[0] if args else None
        if isinstance(first, Merged) and not kwargs:
            if func in KEEPS:
                return first.some(0, len(first))
            if func in CUTS and (cuts := _cuts(func, *args)):
                some = [first.some(start, stop) for start, stop in cuts]
                return some[0] if func is aten.slice.Tensor else some
        if func._schema.is_mutable:
            raise TypeError(f"{func}: a weight that is merged as it is read cannot be changed")
        return func(*tree_map(merged, args), **tree_map(merged, dict(kwargs or {})))


def _cuts(func: Any, weight: Merged, *asked: Any) -> list[tuple[int, int]]:
    """The rows, from and to, that a cut of the weight asks for; empty where it asks for others."""
    rows = len(weight)
    if func is aten.slice.Tensor:
        left_out: list[Any] = [0, None, None, 1]
        axis, start, stop, step = [*asked, *left_out[len(asked) :]]
        start, stop = start or 0, sys.maxsize if stop is None else stop
        whole = start == 0 and stop >= weight.shape[axis]
        return [(0, rows) if whole else (start, stop)] if step == 1 and (whole or axis == 0) else []
    size = asked[0]
    sizes = [size] * math.ceil(rows / size) if isinstance(size, int) else size
    return list(pairwise(accumulate(sizes, initial=0))) if asked[1:] in ((), (0,)) else []


def merged(value: Any) -> Any:
    """The merged weight where the value is one that is merged as it is read; else the value itself."""
    return value.merge() if isinstance(value, Merged) else value


def merge_all(model: Any) -> Any:
    """The same model, with every weight merged for good, in the place of the base's: one copy."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, Merged):
                value = torch.nn.Parameter(weight.merge(), requires_grad=False)
                setattr(module, name, value)
                forget_mapped([weight])
    return model


def address(tensor: torch.Tensor) -> int:
    """What tells whether two names are one weight: where its bytes, or its base's, lie."""
    return mapped(tensor).data_ptr()
