"""Which nodes on the CPU are nothing but arithmetic on shapes, and which should not be there.

>>> unexpected(["Shape (model/Shape_node_7)", "MatMul (lm_head)"], Path("onnx/model_q4.onnx"))
['MatMul (lm_head)']
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
from pydantic import Field

from shared.manifest import Measurement, Strict
from shared.strict import read_toml
from shared.webgpu_bench.result import BrowserResult

LIST = Path(__file__).with_name("cpu_nodes.toml")
NODE = re.compile(r"(\S+) \((.*)\)")
INTEGERS = {
    onnx.TensorProto.INT64,
    onnx.TensorProto.INT32,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.BOOL,
}


class Allowed(Strict):
    """cpu_nodes.toml: operator → why it may be on the CPU."""

    allowed: dict[str, str] = Field(min_length=1)


def unexpected(cpu_nodes: list[str], graph: Path) -> list[str]:
    """Those of `cpu_nodes`, as the log names them, that are no arithmetic on shapes.

    A node of an allowed operator must make integers or booleans, as far as the graph tells; one that
    onnxruntime made itself stands in no graph and is judged by its operator.
    """
    allowed = read_toml(LIST, Allowed).allowed
    numbers = _makers_of_other_than_integers(graph)
    return [node for node in cpu_nodes if not _is_allowed(node, allowed, numbers)]


def _is_allowed(node: str, allowed: dict[str, str], numbers: set[str]) -> bool:
    found = NODE.fullmatch(node)
    return found is not None and found[1] in allowed and found[2] not in numbers


def _makers_of_other_than_integers(graph: Path) -> set[str]:
    """Names of the nodes with an output that is known to be of another type than INTEGERS."""
    model = onnx.shape_inference.infer_shapes(onnx.load(graph, load_external_data=False))
    values = [*model.graph.value_info, *model.graph.output, *model.graph.input]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {
        node.name
        for node in model.graph.node
        if any(types.get(output, onnx.TensorProto.INT64) not in INTEGERS for output in node.output)
    }


def measure(result: BrowserResult, graph: Path, where: str) -> Measurement:
    """`nodes_on_cpu_unexpected`: how many, and in `reason` which."""
    if result.placement is None:
        reason = result.placement_reason or "onnxruntime-web's placement log could not be read"
        return Measurement.missing(reason, "nodes")
    found = unexpected(result.placement.cpu_nodes, graph)
    return Measurement(
        value=len(found),
        unit="nodes",
        how="nodes on the CPU beyond the shape arithmetic of cpu_nodes.toml",
        where=where,
        reason=f"on the CPU: {', '.join(found)}" if found else None,
        software_adapter=result.software_adapter,
    )
