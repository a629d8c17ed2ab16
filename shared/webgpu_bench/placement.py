"""Which provider got which node, read from onnxruntime-web's verbose log.

>>> read_placement([
...     "[V:onnxruntime:, session_state.cc:1383 ...]  Node(s) placed on [CPUExecutionProvider]. Number of nodes: 1",
...     "[V:onnxruntime:, session_state.cc:1385 ...]   Shape (model/Shape_node_7)",
...     "[V:onnxruntime:, session_state.cc:1383 ...]  Node(s) placed on [WebGpuExecutionProvider]. Number of nodes: 184",
... ])
Placement(WebGpuExecutionProvider=184, CPUExecutionProvider=1, cpu_nodes=['Shape (model/Shape_node_7)'])
"""  # noqa: E501

import re
from collections.abc import Iterable

from shared.webgpu_bench.result import Placement

SOURCE = "VerifyEachNodeIsAssignedToAnEp"
HEADING = re.compile(r"(?:Node\(s\)|All nodes) placed on \[(\w+)\]\. Number of nodes: (\d+)")
NODE = re.compile(r"\]\s+(\S+ \(.*\))\s*$")
WEBGPU, CPU = "WebGpuExecutionProvider", "CPUExecutionProvider"


class Unreadable(ValueError):
    """The log holds no placement, or one that contradicts itself; the message is one sentence."""


def read_placement(lines: Iterable[str]) -> Placement:
    """Sum over the graph and its subgraphs; Unreadable where the log does not say it clearly."""
    counts: dict[str, int] = {}
    cpu_nodes: list[str] = []
    provider = None
    for line in lines:
        if heading := HEADING.search(line):
            provider = heading[1]
            counts[provider] = counts.get(provider, 0) + int(heading[2])
        elif provider == CPU and (node := _node(line)):
            cpu_nodes.append(node)
    return _checked(counts, cpu_nodes)


def _node(line: str) -> str | None:
    found = NODE.search(line) if "session_state.cc" in line else None
    return found[1] if found else None


def _checked(counts: dict[str, int], cpu_nodes: list[str]) -> Placement:
    if not counts:
        raise Unreadable("onnxruntime-web logged no node placement")
    if strangers := sorted(counts.keys() - {WEBGPU, CPU}):
        raise Unreadable(f"onnxruntime-web placed nodes on {', '.join(strangers)}")
    on_cpu = counts.get(CPU, 0)
    if len(cpu_nodes) != on_cpu:
        raise Unreadable(f"the log counts {on_cpu} nodes on the CPU but names {len(cpu_nodes)}")
    return Placement(
        WebGpuExecutionProvider=counts.get(WEBGPU, 0),
        CPUExecutionProvider=on_cpu,
        cpu_nodes=cpu_nodes,
    )
