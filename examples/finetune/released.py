"""A base as it ships: its 4-bit weights in float32 again, in the place of the 16-bit ones.

An adapter that stands beside a 4-bit base (`./inv release-family`) can be trained for that very base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import sha256_json, sha256_now
from shared.domain.defaults import read_defaults
from shared.olive.family_record import RECORD, read_family
from shared.source.source import weights_hash

GRAPH = "onnx/model_q4.onnx"
PARTS = (".weight_q4", ".weight_scales", ".weight_zeros")
"""How the names of a product's codes, scales and zero points end in the graph."""


def family_base() -> Path:
    """The folder of the family that domains/defaults.toml names."""
    return paths.root() / "models" / "families" / read_defaults()[1].family.name


def released_hash(folder: Path, base: Path) -> str:
    """One hash over the base's graph and data; UserError where there is none, or a family of another
    base than the one in `base`."""
    if (folder / RECORD).is_file() and read_family(folder).base_weights != weights_hash(base):
        raise UserError(
            f"{paths.shown(folder / RECORD)}: base_weights: it is another base's family"
        )
    return sha256_json([sha256_now(path) for path in (_graph(folder), *_data(folder))])


def take_released(model: Any, folder: Path) -> Any:
    """The model with the 4-bit weights of `folder`, a family's, as float32 numbers; an embedding that
    is not the head's table stays as it is.

    UserError where these are of a model of other sizes. The format is MatMulNBits's (onnxruntime,
    docs/ContribOperators.md)."""
    import onnx
    import torch

    from shared.olive.graph.adapters import products
    from shared.olive.quantise.packing import Blocks, dequantized

    graph = onnx.load(str(_graph(folder)), load_external_data=False)
    values = {tensor.name: tensor for tensor in graph.graph.initializer}
    bits = {
        node.input[1]: next(a.i for a in node.attribute if a.name == "bits")
        for node in graph.graph.node
        if node.op_type == "MatMulNBits"
    }
    parameters, taken = dict(model.named_parameters()), 0
    for product in products(graph).values():
        codes, scales, zeros = (
            torch.from_numpy(_array(values[product.stem + end], _graph(folder).parent))
            if product.stem + end in values
            else None
            for end in PARTS
        )
        assert codes is not None and scales is not None
        width = bits[product.stem + PARTS[0]]
        whole = dequantized(Blocks(width, product.block_size, codes, scales, zeros))
        for name, rows in product.rows.items():
            if (parameter := parameters.get(f"{name}.weight")) is None:
                continue
            part = whole[rows.start : rows.stop]
            if parameter.shape != part.shape:
                raise UserError(
                    f"{paths.shown(_graph(folder))}: {name} has {list(part.shape)} weights, the model "
                    f"{list(parameter.shape)}; it is another's base"
                )
            parameter.data = part.clone()
            taken += 1
    if not taken:
        raise UserError(f"{paths.shown(_graph(folder))}: has none of the model's weights")
    model.tie_weights()
    return model


def _array(tensor: Any, folder: Path) -> Any:
    """A tensor of an external data file, which may be a hard link: onnx itself refuses those."""
    import numpy as np
    from onnx import helper
    from onnx.external_data_helper import ExternalDataInfo

    where = ExternalDataInfo(tensor)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = int(np.prod(tensor.dims))
    found = np.fromfile(folder / where.location, kind, count, offset=where.offset or 0)
    return found.reshape(tuple(tensor.dims))


def _graph(folder: Path) -> Path:
    file = folder / GRAPH
    if not file.is_file():
        raise UserError(
            f"{paths.shown(file)}: not there; --on-released-base takes the folder of a family, which "
            "`./inv release-family` makes"
        )
    return file


def _data(folder: Path) -> list[Path]:
    return sorted(_graph(folder).parent.glob(f"{Path(GRAPH).name}_data*"))
