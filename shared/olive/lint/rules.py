"""What can be known of a packaged graph without running it: each rule here once cost a release.

>>> report = lint(package, "q4f16")
>>> print(render(report))
>>> require_clean(report)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf.message import DecodeError

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import read_json
from shared.olive.lint import files, graph, weights
from shared.olive.lint.files import Opened, Problem

Level = Literal["error", "warning"]
Rule = Callable[[Opened], Iterator[Problem]]

RULES: dict[str, tuple[Level, Rule]] = {
    "data-missing": ("error", files.data_missing),
    "data-name": ("error", files.data_name),
    "data-range": ("error", files.data_range),
    "data-overlap": ("error", files.data_overlap),
    "data-lost": ("error", files.data_lost),
    "chunk-size": ("error", files.chunk_size),
    "chunk-count": ("error", files.chunk_count),
    "initializer-size": ("error", weights.initializer_size),
    "inline-size": ("warning", weights.inline_size),
    "duplicate-initializer": ("error", graph.duplicate_initializer),
    "unused-initializer": ("error", graph.unused_initializer),
    "interface": ("error", graph.interface),
    "logits": ("error", graph.logits),
    "cache-pairs": ("error", graph.cache_pairs),
    "cache-shape": ("error", graph.cache_shape),
    "symbol": ("error", graph.symbol),
    "value-type": ("error", graph.value_type),
    "opset": ("error", graph.opset),
    "operator": ("error", graph.operator),
    "function": ("error", graph.function),
    "quantized-shape": ("error", weights.quantized_shape),
    "tied-table": ("error", weights.tied_table),
    "metadata": ("error", graph.metadata),
    "private-text": ("error", graph.private_text),
}
"""Name → level and rule. A rule gives (where, sentence) for each thing that is wrong."""

UNREADABLE = "graph-file"
"""The rule before all others: there is a graph, of less than 1 GB, that can be parsed."""

MAX_GRAPH_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the rule's name, how bad, in which tensor or file, one sentence."""

    rule: str
    level: Level
    where: str
    sentence: str


@dataclass(frozen=True)
class LintReport:
    """All findings in the order of RULES, and what was counted on the way (plain JSON values)."""

    package: Path
    dtype: str
    findings: list[Finding]
    facts: dict[str, Any]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]


def lint(package: Path, dtype: str) -> LintReport:
    """Check `onnx/model_<dtype>.onnx` of a package and its external data by every rule.

    Loads no tensor data. Raises UserError where the package's config.json cannot be read.
    """
    file = package / "onnx" / f"model_{dtype}.onnx"
    config = read_json(package / "config.json")
    try:
        opened = Opened(file.parent, dtype, _parse(file), config)
    except ValueError as error:
        finding = Finding(UNREADABLE, "error", file.name, str(error))
        return LintReport(package, dtype, [finding], {})
    findings = [
        Finding(name, level, where, sentence)
        for name, (level, rule) in RULES.items()
        for where, sentence in _folded(rule(opened))
    ]
    return LintReport(package, dtype, findings, _facts(opened))


def render(report: LintReport) -> str:
    """One line for each finding; one line that says so where there is none."""
    name = f"{paths.shown(report.package)}: {report.dtype}"
    lines = [f"{f.level}: {f.rule}: {f.where}: {f.sentence}" for f in report.findings]
    return "\n".join(f"{name}: {line}" for line in lines or ["clean"])


def require_clean(report: LintReport) -> None:
    """RungFailed with the first error and the number of the others; warnings pass."""
    if not report.errors:
        return
    first, more = report.errors[0], len(report.errors) - 1
    rest = f" (and {more} more)" if more else ""
    where = f"{paths.shown(report.package)}: {report.dtype}: {first.where}"
    raise RungFailed(f"{where}: {first.sentence} [{first.rule}]{rest}")


def _folded(problems: Iterator[Problem]) -> Iterator[Problem]:
    """The same sentence about each of 72 caches is one finding."""
    places: dict[str, list[str]] = {}
    for where, sentence in problems:
        places.setdefault(sentence, []).append(where)
    for sentence, found in places.items():
        more = f" (and {len(found) - 1} more like it)" if found[1:] else ""
        yield found[0], f"{sentence}{more}"


def _parse(file: Path) -> onnx.ModelProto:
    """The graph without its data; ValueError with a sentence where there is none."""
    if not file.is_file():
        raise ValueError("the graph is missing")
    if file.stat().st_size > MAX_GRAPH_BYTES:
        raise ValueError(
            f"has {file.stat().st_size} bytes: the weights lie inside it, not beside it"
        )
    try:
        return onnx.load(str(file), load_external_data=False)
    except DecodeError:
        raise ValueError("is not an ONNX file, or it is cut short") from None


def _facts(opened: Opened) -> dict[str, Any]:
    sizes = {tensor.name: files.byte_length(tensor) for tensor in opened.initializers}
    largest = max(sizes, key=sizes.__getitem__, default="")
    inline = [t for t in opened.tensors if not files.is_external(t)]
    return {
        "opset": graph.opset_version(opened),
        "operators": {".".join(filter(None, k)): n for k, n in graph.operators(opened).items()},
        "initializer_bytes": sum(sizes.values()),
        "largest_initializer": {"name": largest, "bytes": sizes.get(largest, 0)},
        "inline_bytes": sum(map(files.byte_length, inline)),
        "chunks": opened.chunks,
        **graph.cache_facts(opened),
    }
