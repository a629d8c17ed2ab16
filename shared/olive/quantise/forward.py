"""A decoder layer's forward pass, and what its linear layers are given in it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

OUTPUT = ""
"""Beside the names of linear layers: what the layer itself passes on."""


class Stop(Exception):
    """Ends a forward pass once what is asked for has been reached."""


@torch.inference_mode()
def forward(layer: nn.Module, hidden: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """What the layer passes on."""
    output = layer(hidden, **arguments)
    passed: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return passed.contiguous()


SeenInputs = Callable[[nn.Module, torch.Tensor, dict[str, Any]], dict[str, torch.Tensor]]


@contextmanager
def watched(linears: dict[str, nn.Linear], *, to_the_end: bool = False) -> Iterator[SeenInputs]:
    """A forward pass that ends when every linear layer was reached: what each was given, by name in
    the order of the pass; `to_the_end`: with OUTPUT.

    Threads may call it side by side.
    """
    local = threading.local()

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            local.seen[name] = given[0]
            if len(local.seen) == len(linears) and not to_the_end:
                raise Stop

        return hook

    def inputs_in(layer: nn.Module, x: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
        local.seen = {}
        with suppress(Stop):
            local.seen[OUTPUT] = forward(layer, x, given)
        seen = dict(local.seen)
        return seen if to_the_end else {n: value for n, value in seen.items() if n != OUTPUT}

    handles = [m.register_forward_pre_hook(watch(n)) for n, m in linears.items()]
    try:
        yield inputs_in
    finally:
        for handle in handles:
            handle.remove()


def owners(seen: dict[str, torch.Tensor]) -> dict[str, str]:
    """Of each linear layer that was reached, the first that was given the same inputs."""
    first: dict[tuple[int, torch.Size], str] = {}
    return {
        name: first.setdefault((value.data_ptr(), value.shape), name)
        for name, value in seen.items()
        if name != OUTPUT
    }
