"""Quantised layers on disk, each as soon as it is done, with the hidden states that it passes on.

A run that was killed goes on behind the last of them. A file is written aside and renamed, and its
SHA-256 stands in layers.json: what is damaged counts as not done. The hidden states of the last two
layers are kept, so that damage to the newest files costs one layer.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from shared.base.errors import UserError, of_this_machine
from shared.base.files import link_or_copy, write_bytes, write_json
from shared.base.hashing import sha256_now
from shared.base.paths import shown
from shared.olive.quantise.packing import Blocks

RECORD, SHARD, HIDDEN = "layers.json", "model-{:05}.safetensors", "hidden-{:05}.safetensors"


class LayerFiles:
    """The finished layers in `folder`, which are the shards of a model folder in Olive's format.

    A layer here is any part that is quantised at once, the head and the embedding as well.
    `finished`: how many there are, counted from the first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._hashes = self._recorded()
        self.finished = 0
        while self._whole(SHARD.format(self.finished + 1)):
            self.finished += 1
        while self.finished and not self._whole(HIDDEN.format(self.finished)):
            self.finished -= 1

    def _recorded(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / RECORD).read_bytes()))
        except (OSError, ValueError, TypeError):
            return {}

    def _whole(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and self._hashes.get(name) == sha256_now(path)

    def write(self, blocks: dict[str, Blocks], hidden: Sequence[torch.Tensor] = ()) -> None:
        """Add the next layer: its modules by name, and what it passes on.

        UserError where the disk is full; what was finished stays.
        """
        number = self.finished + 1
        tensors = {k: v for name, part in blocks.items() for k, v in _tensors(name, part).items()}
        try:
            self._save(SHARD.format(number), tensors)
            self._save(HIDDEN.format(number), {f"{i:06}": x for i, x in enumerate(hidden)})
            write_json(self.folder / RECORD, self._hashes)
        except OSError as error:
            if not of_this_machine(error):
                raise
            where, why = shown(self.folder), os.strerror(error.errno or 0)
            raise UserError(f"{where}: {why}; run it again: finished layers are kept") from error
        self.finished = number
        (self.folder / HIDDEN.format(number - 2)).unlink(missing_ok=True)

    def _save(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        path = self.folder / name
        self._hashes[name] = write_bytes(path, save(tensors, metadata={"format": "pt"}))

    def hidden(self) -> list[torch.Tensor]:
        """What the last finished layer passes on, in memory of its own."""
        tensors = load_file(self.folder / HIDDEN.format(self.finished))
        return [tensors[name].clone() for name in sorted(tensors)]

    def link_into(self, folder: Path, others: dict[str, torch.Tensor]) -> dict[str, str]:
        """Put the shards, and one of `others`, into a model folder; tensor → file, for its index."""
        where: dict[str, str] = {}
        for number in range(1, self.finished + 1):
            name = SHARD.format(number)
            link_or_copy(self.folder / name, folder / name)
            with safe_open(folder / name, framework="pt") as shard:
                where |= dict.fromkeys(shard.keys(), name)
        name = SHARD.format(self.finished + 1)
        write_bytes(folder / name, save(others, metadata={"format": "pt"}))
        return where | dict.fromkeys(others, name)


def _tensors(name: str, blocks: Blocks) -> dict[str, torch.Tensor]:
    """A quantised module as Olive names its parts."""
    parts = {"qweight": blocks.packed.flatten(1), "scales": blocks.scales, "qzeros": blocks.zeros}
    return {f"{name}.{part}": t.contiguous() for part, t in parts.items() if t is not None}
