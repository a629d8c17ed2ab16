"""The graph of a model folder, proved to compute what PyTorch computes before it is handed out."""

import dataclasses
from pathlib import Path

import onnx

from shared.base import paths
from shared.base.hashing import sha256_json
from shared.olive.graph.bare import BareGraph, bare_graph, read_config
from shared.olive.graph.contract import check_config

KEPT = 4
_kept: dict[str, BareGraph] = {}
"""The last graphs by configuration: a second domain of the same architecture costs its weights only.
In memory and not on disk: at full size a graph takes 0.7 s to make and 17 MB to store."""


def build_graph(folder: Path, dtype: str) -> BareGraph:
    """Build the WebGPU decoder graph for the model in `folder`; `dtype` is "f16" or "f32".

    Inputs: input_ids, attention_mask [batch, sequence] int64, past_key_values.N.{key,value}
    [batch, kv_heads, past, head_dim]; outputs: logits [batch, sequence, vocab], present.N.*.
    Raises RungFailed for an architecture Mobius does not know, and where the graph would compute
    something else than PyTorch (shared/olive/graph/contract.py).
    """
    hf_config = read_config(folder)
    key = sha256_json([hf_config.to_dict() | {"_name_or_path": ""}, dtype])
    if key not in _kept:
        check_config(hf_config, paths.shown(folder / "config.json"))
        while len(_kept) >= KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = bare_graph(hf_config, dtype)
    kept = _kept[key]
    proto = onnx.ModelProto()
    proto.CopyFrom(kept.proto)  # whoever fills it with weights changes it
    return dataclasses.replace(kept, proto=proto)
