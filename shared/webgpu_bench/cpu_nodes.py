"""Which nodes on the CPU are nothing but arithmetic on shapes, and which should not be there.

>>> unexpected(["Shape (model/Shape_node_7)", "MatMul (lm_head)"], Path("onnx/model_q4.onnx"))
['MatMul (lm_head)']
"""

import re
from pathlib import Path

import onnx
from onnx import TensorProto
from pydantic import Field

from shared.base.manifest import Measurement, Strict
from shared.base.parsing import read_toml
from shared.webgpu_bench.result import BrowserResult

LIST = Path(__file__).with_name("cpu_nodes.toml")
NODE = re.compile(r"(\S+) \((.*)\)")
INTEGERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL}
COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not")
MAKES = dict.fromkeys(("Shape", "Size"), TensorProto.INT64)
MAKES |= dict.fromkeys(COMPARISONS, TensorProto.BOOL)
FROM_INPUT = {"Where": 1, "GatherBlockQuantized": 2}


class Allowed(Strict):
    """cpu_nodes.toml: operator → why it may be on the CPU."""

    allowed: dict[str, str] = Field(min_length=1)


def unexpected(cpu_nodes: list[str], graph: Path) -> list[str]:
    """Those of `cpu_nodes`, as the log names them, that are no arithmetic on shapes.

    A node of an allowed operator must make integers or booleans, by the graph's types; one that
    onnxruntime made itself stands in no graph, and its operator must be one that can make no floats.
    """
    allowed = read_toml(LIST, Allowed).allowed
    known = _makers_of_integers(graph)
    return [node for node in cpu_nodes if not _is_allowed(node, allowed, known)]


def _is_allowed(node: str, allowed: dict[str, str], known: dict[str, bool]) -> bool:
    found = NODE.fullmatch(node)
    if found is None or found[1] not in allowed:
        return False
    return known.get(found[2], found[1] in MAKES)


def _makers_of_integers(graph: Path) -> dict[str, bool]:
    """Each node's name, and whether all that goes by it is known to make one of INTEGERS."""
    model = onnx.load(graph, load_external_data=False).graph
    types = {value.name: value.type.tensor_type.elem_type for value in model.input}
    types |= {tensor.name: tensor.data_type for tensor in model.initializer}
    found: dict[str, bool] = {}
    for node in model.node:
        made = _made_by(node, types)
        types |= dict.fromkeys(node.output, made)
        found[node.name] = found.get(node.name, True) and made in INTEGERS
    return found


def _made_by(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """The type of the node's outputs. onnx's own inference stops at onnxruntime's operators; those
    of a decoder make what their first input is, but for the ones named here."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Cast":
        return attributes["to"].i
    if node.op_type in ("Constant", "ConstantOfShape"):
        return attributes["value"].t.data_type if "value" in attributes else TensorProto.FLOAT
    if node.op_type in MAKES:
        return MAKES[node.op_type]
    first = FROM_INPUT.get(node.op_type, 0)
    return types.get(node.input[first], TensorProto.UNDEFINED)


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
