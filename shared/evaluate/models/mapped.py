"""Weights that lie in mapped files: what a process keeps of them is bounded.

>>> keep_within(load_model(folder))

All pages of a mapped file that were read count as the process's memory, of a 3B model 6 to 8 GB. Those
that are let go of stay the system's copy of the file as long as it has room, and come back from there.
"""

from functools import partial
from typing import Any

from shared.source.weights import forget_mapped

KEPT_BYTES = 4_500_000_000
"""Of a model's weights that stay in a process's memory: beside them lie the cache of several answers
and the libraries, and a stage should do with 8 GB."""
TOGETHER_BYTES = 250_000_000
"""What is let go of at a time: what is mapped is looked up for each."""


def keep_within(model: Any, kept: int = KEPT_BYTES, together: int = TOGETHER_BYTES) -> Any:
    """The same model, on the CPU; of its mapped weights the first `kept` bytes stay once they are read.

    Those after them are let go of whenever a pass has gone through `together` bytes more. What lies in
    memory of torch's own stays.
    """
    seen, used = set[int](), list[Any]()
    for layer in model.modules():
        for weight in layer.parameters(recurse=False):
            if weight.data_ptr() in seen:  # a head that is the table
                continue
            seen.add(weight.data_ptr())
            kept -= weight.nbytes
            used += [weight.data] if kept < 0 else []
        if sum(weight.nbytes for weight in used) > together:
            _let_go_after(layer, used)
            used = []
    _let_go_after(model, used)
    return model


def _let_go_after(layer: Any, weights: list[Any]) -> None:
    if weights:
        layer.register_forward_hook(partial(_forget, weights))


def _forget(weights: list[Any], *_: Any) -> None:
    forget_mapped(weights)
