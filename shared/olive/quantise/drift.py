"""Make up for what the quantised layers before have changed: GPTQ with an asymmetric target.

GPTQ keeps Ŵx̂ near Wx̂, with x̂ a matrix's inputs behind the layers already quantised; what those have
lost stays lost. Here the target is what the 16-bit model has in that place, y = Wx, and for a matrix
whose output is added to the residual stream (o_proj, down_proj) also what that stream has lost so far,
y = Wx + (r − r̂). Over all calibration tokens the nearest weight is

    W + s·(Y − WX̂)X̂ᵀ · (X̂X̂ᵀ + d·mean(diag X̂X̂ᵀ)·I)⁻¹

and that one is rounded, as ever under X̂X̂ᵀ. The target is known as GPTAQ or GPTQ v2 (Li et al.,
arXiv:2504.02692); there d is GPTQ's own damping, with which it diverges here: `MakeUp.damp` is a larger
one for this solve alone. The head is left out: a tied table is also what is looked up in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from shared.base.cpu import cores
from shared.olive.quantise.forward import OUTPUT, SeenInputs, owners, watched
from shared.olive.quantise.gptq import Inputs, inputs_of
from shared.olive.quantise.hessian import add, add_products, by_rows, divide, spread

SAME = 1e-4
"""Two ways of summing up a layer's output may differ by that share of its largest value."""


@dataclass(frozen=True)
class MakeUp:
    """`share` of the loss to make up for, s above, 0 to 1; `damp`: d."""

    share: float = 0.0
    damp: float = 0.25


OFF = MakeUp()

INPUTS = ""
"""In the place of a linear layer's name: what all of them lack that have the same inputs."""

Quantise = Callable[[str, Inputs | None], None]


@dataclass(frozen=True)
class Streams:
    """What a layer is given in each pass, of one text or several: by the quantised layers before it, by
    the 16-bit ones, and the same of both."""

    hidden: list[torch.Tensor]
    exact: list[torch.Tensor]
    arguments: list[dict[str, Any]]


@dataclass(frozen=True)
class _Target:
    """A pass on the 16-bit stream: inputs by linear layer, and the residual stream before each that
    adds to it."""

    inputs: dict[str, torch.Tensor]
    stream: dict[str, torch.Tensor]


def quantise_towards(
    layer: nn.Module,
    linears: dict[str, nn.Linear],
    streams: Streams,
    make_up: MakeUp,
    quantise: Quantise,
) -> list[torch.Tensor]:
    """Move each weight to its target and `quantise(name, inputs)` it; what the 16-bit layer passes on.

    In the order of the forward pass, each on what the quantised ones before it in the layer give.
    """
    targets, passed = _targets(layer, linears, streams)
    groups: dict[str, list[str]] = {}
    for name, owner in owners(targets[0].inputs).items():
        groups.setdefault(owner, []).append(name)
    added: list[str] = []
    for group in groups.values():
        names = [*added, *group]
        with watched({name: linears[name] for name in names}) as inputs_in:
            errors = partial(_errors, layer, linears, inputs_in, group, added)
            hessian, products = _sums(errors, streams, targets)
        _move({n: linears[n] for n in group}, hessian, products, make_up)
        inputs = inputs_of(hessian)
        for name in group:
            quantise(name, inputs)
        added += [name for name in group if name in targets[0].stream]
        for target in targets:
            for name in group:
                del target.inputs[name]
    for name in linears:
        if not any(name in group for group in groups.values()):
            quantise(name, None)
    return passed


def _targets(
    layer: nn.Module, linears: dict[str, nn.Linear], streams: Streams
) -> tuple[list[_Target], list[torch.Tensor]]:
    """Of each text what its targets are made of, and what the 16-bit layer passes on."""
    with watched(linears, to_the_end=True) as inputs_in:
        seen = spread(partial(inputs_in, layer), streams.exact, streams.arguments)
    passed = [one.pop(OUTPUT) for one in seen]
    added = _added(linears, streams.exact[0], seen[0], passed[0])

    def target(given: torch.Tensor, inputs: dict[str, torch.Tensor]) -> _Target:
        stream = {}
        for name in added:
            stream[name] = given
            if name != added[-1]:
                given = given + _output(linears[name], inputs[name])
        return _Target(inputs, stream)

    return spread(target, streams.exact, seen), passed


def _added(
    linears: dict[str, nn.Linear],
    given: torch.Tensor,
    inputs: dict[str, torch.Tensor],
    passed: torch.Tensor,
) -> list[str]:
    """The linear layers whose outputs are added to the residual stream, if they and what the layer is
    given are all of what it passes on; none where they are scaled or normalised before."""
    owner = list(owners(inputs).values())
    alone = [name for name in inputs if owner.count(name) == 1 and owners(inputs)[name] == name]
    wide = [name for name in alone if linears[name].out_features == given.shape[-1]]
    whole = given + sum(_output(linears[name], inputs[name]) for name in wide)
    same = (whole - passed).abs().max() <= SAME * passed.abs().max()
    return wide if wide and same else []


def _output(module: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    """What it gives, unwatched."""
    return linear(inputs, module.weight, module.bias)


@torch.inference_mode()
def _errors(
    layer: nn.Module,
    linears: dict[str, nn.Linear],
    inputs_in: SeenInputs,
    group: Sequence[str],
    added: Sequence[str],
    hidden: torch.Tensor,
    target: _Target,
    arguments: dict[str, Any],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A text's inputs of the group, and of each of its layers how far its outputs are from their
    target; where nothing is added to the stream, how far the inputs are, the same for all."""
    seen = inputs_in(layer, hidden, arguments)
    inputs = seen[group[0]]
    missing = target.inputs[group[0]] - inputs
    if not target.stream.keys() & group:
        return inputs, {INPUTS: missing}
    errors = {name: linear(missing, linears[name].weight) for name in group}
    for name in target.stream.keys() & errors.keys():
        errors[name] += (
            target.stream[name] - hidden - sum(_output(linears[n], seen[n]) for n in added)
        )
    return inputs, errors


def _sums(
    errors_of: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]],
    streams: Streams,
    targets: list[_Target],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Over all texts Σ x̂·x̂ᵀ and, by linear layer, Σ (y − Wx̂)·x̂ᵀ, or of them all Σ (x − x̂)·x̂ᵀ."""
    hessian, products, at_once = None, dict[str, torch.Tensor](), cores()
    for start in range(0, len(targets), at_once):
        some = slice(start, start + at_once)
        parts = spread(errors_of, streams.hidden[some], targets[some], streams.arguments[some])
        for inputs, errors in parts:
            hessian = add(hessian, inputs)
            for name, error in errors.items():
                products[name] = add_products(products.get(name), error, inputs)
    assert hessian is not None
    return hessian, products


def _move(
    linears: dict[str, nn.Linear],
    hessian: torch.Tensor,
    products: dict[str, torch.Tensor],
    make_up: MakeUp,
) -> None:
    """Each weight to its target."""
    damped = hessian.clone()
    damped.diagonal().add_(make_up.damp * float(hessian.diagonal().mean().clamp(min=1e-12)))
    solved = dict(zip(products, divide(list(products.values()), damped), strict=True))
    for name, module in linears.items():
        weight = module.weight.data
        moved = solved[name] if name in solved else by_rows(lambda w: w @ solved[INPUTS], weight)
        module.weight.data = weight + make_up.share * moved
