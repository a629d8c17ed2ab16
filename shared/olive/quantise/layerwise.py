"""Quantise a decoder layer by layer, each on what the quantised layers before it pass on.

At any time one layer is in float32 with the Hessians of its inputs (a 3B model: about 0.9 GB), beside
the calibration text's hidden states (tokens × width × 4 bytes). The 16-bit model is mapped from its
files: pages that were read are given back. What is finished is written to a file and forgotten, and a
run that was killed goes on behind it: the same bytes on the same kind of processor, since a layer
depends on its weights and on what the layers before it pass on.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from shared.base.cpu import cores
from shared.base.processes import give_back_memory
from shared.olive.quantise.drift import OFF, MakeUp, Streams, quantise_towards
from shared.olive.quantise.forward import Stop, forward, owners, watched
from shared.olive.quantise.gptq import SHRINK, Format, Inputs, gptq, inputs_of
from shared.olive.quantise.hessian import add, in_bfloat16, in_turn, one_thread, spread
from shared.olive.quantise.layer_files import LayerFiles
from shared.olive.quantise.packing import Blocks, dequantized
from shared.source.merging import address, merge_all, merged
from shared.source.weights import forget_mapped

FormatOf = Callable[[str], Format]

AT_ONCE = 512
"""Tokens that a pass reads at least, of several texts if they are short: for each pass a layer's
weights are laid out anew, and a Hessian that no cache holds is read and written."""


def quantize_decoder(
    model: Any,
    texts: list[list[int]],
    form: FormatOf,
    files: LayerFiles,
    step: Callable[[str], None],
    *,
    shrink: tuple[float, ...] = SHRINK,
    feedback: bool = True,
    make_up: MakeUp = OFF,
    device: str = "cpu",
) -> None:
    """Quantise every linear layer, the head and the embedding of a Hugging Face decoder.

    `texts`: token ids to calibrate on; without any, or without `feedback`, weights are rounded on
    their own. `files` gets each layer, and those that it has are not done again; `step(module name)`
    says where it is. `make_up`: for what the quantised layers before have changed
    (shared.olive.quantise.drift). `device`: where products are computed, as PyTorch names it: one layer
    at a time lies there, with its Hessians and the texts' hidden states. Rounding is the CPU's.
    A tied table is quantised for its use as the head, which is where its errors show.
    """
    with one_thread(), in_turn() if device != "cpu" else nullcontext():
        hidden, arguments = _first_inputs(model, texts) if texts and feedback else ([], [])
        hidden, arguments = _moved(hidden, device), _moved(arguments, device)
        hidden = _layers(model, hidden, arguments, form, files, step, shrink, make_up, device)
        _head(model, hidden, form, files, step, shrink, device)


def _layers(
    model: Any,
    hidden: list[torch.Tensor],
    arguments: list[dict[str, Any]],
    form: FormatOf,
    files: LayerFiles,
    step: Callable[[str], None],
    shrink: tuple[float, ...],
    make_up: MakeUp,
    device: str,
) -> list[torch.Tensor]:
    """Quantise the layers in turn; what the last one passes on.

    With `make_up` the 16-bit model's hidden states go along, behind the quantised one's.
    """
    layers, texts = model.model.layers, len(hidden)
    exact = hidden if make_up.share else []
    if 0 < files.finished <= len(layers):
        kept = _moved(files.hidden(), device)
        hidden, exact = kept[:texts], kept[texts:]
    for number in range(files.finished, len(layers)):
        layer, done = layers[number], dict[str, Blocks]()
        with _forgotten(layer):
            merge_all(layer).to(device, torch.float32)
        linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
        quantise = partial(_quantise, f"model.layers.{number}.", linears, form, shrink, step, done)
        if exact:
            streams = Streams(hidden, exact, arguments)
            exact = quantise_towards(layer, linears, streams, make_up, quantise)
        else:
            inputs = _seen_inputs(layer, linears, hidden, arguments)
            for name in linears:
                quantise(name, inputs.get(name))
            inputs.clear()
        with nullcontext() if exact else in_bfloat16():  # both streams alike: they are compared
            hidden = spread(partial(forward, layer), hidden, arguments)
        layer.to("meta")
        files.write(done, _moved([*hidden, *exact], "cpu"))
        give_back_memory()
    return hidden


def _quantise(
    prefix: str,
    linears: dict[str, nn.Linear],
    form: FormatOf,
    shrink: tuple[float, ...],
    step: Callable[[str], None],
    done: dict[str, Blocks],
    name: str,
    inputs: Inputs | None,
) -> None:
    """Quantise one of the layer's matrices; the layer goes on with what is left of it."""
    step(prefix + name)
    weight = linears[name].weight
    done[prefix + name] = blocks = gptq(weight.data, inputs, form(prefix + name), shrink)
    weight.data = dequantized(blocks).to(weight.device)


def _head(
    model: Any,
    hidden: list[torch.Tensor],
    form: FormatOf,
    files: LayerFiles,
    step: Callable[[str], None],
    shrink: tuple[float, ...],
    device: str,
) -> None:
    """The head behind all layers and, where it is not the same table, the embedding behind that."""
    base, layers = model.model, len(model.model.layers)
    table, head = base.embed_tokens.weight, model.lm_head.weight
    tied = address(table) == address(head)
    if files.finished == layers:
        step("lm_head")
        name = "model.embed_tokens" if tied else "lm_head"
        inputs = _head_inputs(final_norm(base).to(device), hidden)
        files.write({name: gptq(merged(head.data), inputs, form(name), shrink)})
        forget_mapped([head.data])
    if not tied and files.finished == layers + 1:
        name = "model.embed_tokens"
        step(name)
        files.write({name: gptq(table.data, None, form(name), shrink)})


def final_norm(base: nn.Module) -> nn.Module:
    """The norm behind the last layer, by transformers' names for it."""
    found = next(getattr(base, name) for name in ("norm", "final_layernorm") if hasattr(base, name))
    assert isinstance(found, nn.Module)
    return found


def _head_inputs(norm: nn.Module, hidden: list[torch.Tensor]) -> Inputs | None:
    norm, hessian = norm.to(torch.float32), None
    with torch.inference_mode(), in_bfloat16():
        for x in hidden:
            hessian = add(hessian, norm(x))
    return None if hessian is None else inputs_of(hessian)


@contextmanager
def _forgotten(layer: nn.Module) -> Iterator[None]:
    """The weights that the layer has now leave the memory afterwards, where a file holds them."""
    before = [parameter.data for parameter in layer.parameters()]
    yield
    forget_mapped(before)


Caught = tuple[list[torch.Tensor], list[dict[str, Any]]]
"""What the first layer is given in each pass: hidden states [1, tokens, width], and the rest."""


def _first_inputs(model: Any, texts: list[list[int]]) -> Caught:
    """Of short texts several at once, where the model's own mask keeps them apart."""
    alone = [[ids] for ids in texts]
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return _caught(model, alone)
    passes = _together(texts)
    found = _caught(model, passes)
    masks = [given.get("attention_mask") for given in found[1]]
    apart = all(map(_are_apart, passes, masks))
    return found if apart else _caught(model, alone)


def _are_apart(texts: list[list[int]], mask: Any) -> bool:
    """Whether the mask hides each text from the next one: False, or a large negative number."""
    if len(texts) == 1:
        return True
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        return False
    begins = list(itertools.accumulate(map(len, texts)))[:-1]
    seen = [mask[..., begin:, :begin] for begin in begins]
    return not any((part if part.dtype == torch.bool else part >= 0).any() for part in seen)


def _together(texts: list[list[int]]) -> list[list[list[int]]]:
    """The texts in passes of AT_ONCE tokens or more, but for the last one; a long text has its own."""
    passes: list[list[list[int]]] = []
    for ids in texts:
        if not passes or sum(map(len, passes[-1])) >= AT_ONCE or len(ids) >= AT_ONCE:
            passes.append([])
        passes[-1].append(ids)
    return passes


@torch.inference_mode()
def _caught(model: Any, passes: list[list[list[int]]]) -> Caught:
    """Of each pass's texts one after the other; where positions begin anew, transformers' mask knows
    another one."""
    hidden: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = []

    def catch(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = named.pop("hidden_states") if "hidden_states" in named else given[0]
        hidden.append(states.to(torch.float32))
        arguments.append({key: _as_float(value) for key, value in named.items()})
        raise Stop

    handle = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for some in passes:
            ids = torch.tensor([[token for text in some for token in text]])
            places = torch.tensor([[place for text in some for place in range(len(text))]])
            given = {"position_ids": places} if len(some) > 1 else {}
            with suppress(Stop):
                model(ids, use_cache=False, **given)
    finally:
        handle.remove()
    return hidden, arguments


def _moved(value: Any, device: str) -> Any:
    """Tensors, also in lists, tuples and dictionaries, on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    return (
        type(value)(_moved(v, device) for v in value) if isinstance(value, list | tuple) else value
    )


def _as_float(value: Any) -> Any:
    """16-bit floats, also in tuples, as float32: the layers are calibrated in it."""
    if isinstance(value, tuple):
        return tuple(map(_as_float, value))
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(torch.float32)
    return value


def _seen_inputs(
    layer: nn.Module,
    linears: dict[str, nn.Linear],
    hidden: list[torch.Tensor],
    arguments: list[dict[str, Any]],
) -> dict[str, Inputs]:
    """What each linear layer's inputs were like; those that share their input share the result."""
    sums: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    at_once = cores()
    with watched(linears) as inputs_in, in_bfloat16():
        for start in range(0, len(hidden), at_once):
            some = slice(start, start + at_once)
            for seen in spread(partial(inputs_in, layer), hidden[some], arguments[some]):
                found = owners(seen)
                shared |= found
                for name in dict.fromkeys(found.values()):
                    sums[name] = add(sums.get(name), seen[name])
    results = {name: inputs_of(sums.pop(name)) for name in list(sums)}
    return {name: results[owner] for name, owner in shared.items()}
