"""Weights that an Olive pass has quantised already, read as they are: no code is changed.

Olive's PyTorch passes (Gptq, Rtn, KQuant, …) save a folder whose config.json has a
`quantization_config` with `quant_method` "olive" and whose quantised modules are three tensors:
qweight [N, K·bits/8] uint8 (lowest bits first), scales [N, K/block], qzeros [N, ⌈K/block·bits/8⌉]
uint8 where the module is not symmetric. That is MatMulNBits's own layout, byte for byte.

A graph may want a weight cut or joined by rows (a fused qkv). So the state dict gets *tickets* in
the weight's place: [N, 1] int64 that say which row of which module is meant. They are cut and
joined like any weight, and `Checkpoint.blocks` turns them into bytes when these are written.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import read_json
from shared.olive.quantise.packing import Blocks
from shared.source.model import model_weights
from shared.source.weights import forget_pages, load_weights

PARTS = ("qweight", "scales", "qzeros")
ROW_BITS = 32
TICKET = torch.int64


def is_ticket(tensor: torch.Tensor) -> bool:
    """Whether this stands for rows of a quantised module."""
    return tensor.dtype == TICKET and tensor.dim() == 2 and tensor.shape[1] == 1


class Checkpoint:
    """The weights of a model folder, quantised by Olive or not at all.

    `state` is its state dict with tickets for quantised weights. RungFailed names the file and the
    module where the tensors do not fit the configuration.
    """

    def __init__(self, folder: Path) -> None:
        self._where = paths.shown(folder)
        config = read_json(folder / "config.json").get("quantization_config")
        self.state = model_weights(folder) if config is None else load_weights(folder)
        self._modules: list[Blocks] = []
        if config is not None:
            self._take_modules(config)

    def _take_modules(self, config: dict[str, Any]) -> None:
        method = config.get("quant_method")
        if method != "olive":
            raise RungFailed(
                f"{self._where}/config.json: quantization_config: {method!r} is not read"
            )
        for name in [n.removesuffix(".qweight") for n in self.state if n.endswith(".qweight")]:
            settings = config | ((config.get("overrides") or {}).get(name) or {})
            blocks = self._module(name, settings)
            first = len(self._modules) << ROW_BITS
            self._modules.append(blocks)
            rows = torch.arange(first, first + blocks.packed.shape[0], dtype=TICKET)
            self.state[f"{name}.weight"] = rows.unsqueeze(1)

    def _module(self, name: str, settings: dict[str, Any]) -> Blocks:
        codes, scales, zeros = (self.state.pop(f"{name}.{part}", None) for part in PARTS)
        if codes is None or scales is None:
            raise RungFailed(f"{self._where}: {name}: quantised, but it has no scales")
        bits, (rows, width), blocks = int(settings["bits"]), codes.shape, scales.shape[1]
        columns = width * 8 // bits
        block_size = columns // blocks
        asked = int(settings["group_size"])
        fits = (
            bits in (4, 8)
            and scales.shape[0] == rows
            and blocks * block_size == columns
            and asked in (-1, block_size)
            and (zeros is None) == bool(settings["symmetric"])
            and (zeros is None or tuple(zeros.shape) == (rows, -(-blocks * bits // 8)))
        )
        if not fits:
            raise RungFailed(
                f"{self._where}: {name}: its tensors do not fit {bits} bits in blocks of {asked}"
            )
        return Blocks(bits, block_size, codes.view(rows, blocks, -1), scales, zeros)

    def blocks(self, tickets: torch.Tensor) -> Blocks:
        """The bytes of the rows that `tickets` [N, 1] name, in their order."""
        parts = [self._rows(run) for run in _runs(tickets.flatten())]
        if len({part.layout[:3] for part in parts}) != 1:
            raise RungFailed(f"{self._where}: parts of one weight are quantised differently")
        first = parts[0]
        if len(parts) == 1:
            return first
        zeros = [part.zeros for part in parts if part.zeros is not None]
        return Blocks(
            first.bits,
            first.block_size,
            torch.cat([part.packed for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat(zeros) if zeros else None,
        )

    def forget(self, tickets: torch.Tensor) -> None:
        """`forget_pages` for rows whose bytes were written; only for `load_weights`'s tensors."""
        for part in (self._rows(run) for run in _runs(tickets.flatten())):
            for tensor in (part.packed, part.scales, part.zeros):
                if tensor is not None:
                    forget_pages(tensor)

    def _rows(self, run: tuple[int, int, int]) -> Blocks:
        module, start, stop = run
        all_rows = self._modules[module]
        zeros = all_rows.zeros
        return Blocks(
            all_rows.bits,
            all_rows.block_size,
            all_rows.packed[start:stop],
            all_rows.scales[start:stop],
            None if zeros is None else zeros[start:stop],
        )


def _runs(tickets: torch.Tensor) -> list[tuple[int, int, int]]:
    """(module, first row, last row + 1) of each unbroken run."""
    breaks = (tickets.diff() != 1).nonzero().flatten() + 1
    edges = [0, *breaks.tolist(), len(tickets)]
    runs = []
    for start, stop in pairwise(edges):
        first = int(tickets[start])
        row = first & ((1 << ROW_BITS) - 1)
        runs.append((first >> ROW_BITS, row, row + stop - start))
    return runs
