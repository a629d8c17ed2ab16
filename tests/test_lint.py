"""Each rule of the lint: our own graphs pass it, and a graph broken in just that way does not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from shared.base.errors import RungFailed
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.external_data import ExternalDataWriter
from shared.olive.graph.weights import Int4Options, write_int4
from shared.olive.lint.rules import RULES, Finding, LintReport, lint, render, require_clean
from shared.source.weights import load_weights
from tests.tiny import VOCABULARY

Tiny = Callable[[str], Path]
GRAPH, DATA = "model_q4f16.onnx", "model_q4f16.onnx_data"
NORM, TABLE = "model.norm.weight", "model.embed_tokens.weight_q4"


def package(folder: Path, out: Path, dtype: str = "q4f16", **options: bool) -> Path:
    """What the package stage lays out, as far as the lint reads it."""
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    graph = build_graph(folder, "f16" if dtype == "q4f16" else "f32")
    file = out / "onnx" / f"model_{dtype}.onnx"
    chunks = write_int4(graph, load_weights(folder), file, Int4Options(**options))
    config = json.loads((folder / "config.json").read_text())
    config["transformers.js_config"] = {"use_external_data_format": {file.name: len(chunks)}}
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.fixture(scope="module")
def clean(tiny: Tiny, new_folder: Callable[[str], Path]) -> Path:
    return package(tiny("llama"), new_folder("clean") / "package")


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Iterator[Path]:
    yield shutil.copytree(clean, tmp_path / "package")


def rules(folder: Path) -> set[str]:
    return {finding.rule for finding in lint(folder, "q4f16").findings}


class TestOurGraphs:
    @pytest.mark.parametrize("architecture", ["qwen2", "qwen2-untied", "smollm3", "phi3"])
    def test_are_clean(self, architecture: str, tiny: Tiny, tmp_path: Path) -> None:
        report = lint(package(tiny(architecture), tmp_path / "package"), "q4f16")
        assert render(report).endswith("q4f16: clean")
        require_clean(report)

    def test_are_clean_in_fp32(self, tiny: Tiny, tmp_path: Path) -> None:
        assert lint(package(tiny("llama"), tmp_path / "package", "q4"), "q4").findings == []

    def test_are_clean_in_several_chunks(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ExternalDataWriter.__init__, "__defaults__", (100_000,))
        report = lint(package(tiny("qwen2"), tmp_path / "package"), "q4f16")
        assert report.findings == []
        assert len(report.facts["chunks"]) > 2

    def test_are_counted(self, clean: Path) -> None:
        report = lint(clean, "q4f16")
        assert report.findings == []
        facts = report.facts
        assert facts["opset"] == 21
        assert facts["operators"]["com.microsoft.GroupQueryAttention"] == 4
        assert facts["largest_initializer"] == {"name": TABLE, "bytes": VOCABULARY * 32}
        assert facts["chunks"] == {DATA: (clean / "onnx" / DATA).stat().st_size}
        assert (facts["layers"], facts["kv_heads"], facts["kv_head_dim"]) == (4, 2, 16)
        assert 0 < facts["inline_bytes"] < 1000 < facts["initializer_bytes"]
        json.dumps(facts)

    def test_are_not_read_where_nothing_looks_like_a_second_table(
        self, clean: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr("shared.olive.lint.weights.mmap")
        assert rules(clean) == set()


Break = Callable[[onnx.ModelProto], object]


def value(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(v for v in (*model.graph.input, *model.graph.output) if v.name == name)


def node(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def record(key: str, change: Callable[[str], str]) -> Break:
    """Change one entry of where the last initializer, the final norm, says its bytes are."""

    def apply(model: onnx.ModelProto) -> None:
        entry = next(e for e in model.graph.initializer[-1].external_data if e.key == key)
        entry.value = change(entry.value)

    return apply


def dimension(name: str, at: int, size: int | str) -> Break:
    field = "dim_param" if isinstance(size, str) else "dim_value"
    return lambda m: setattr(value(m, name).type.tensor_type.shape.dim[at], field, size)


def rename_logits(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits_Q4"


def third_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("cache_position", TensorProto.INT64, []))


def hidden_operator(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("NonZero", ["logits"], ["x"])], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["logits"], ["y"], then_branch=inner))


def windows_home(model: onnx.ModelProto) -> None:
    model.graph.node[4].attribute.append(helper.make_attribute("source", r"C:\Users\ada"))


def large_inline(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[-1]
    weight.CopyFrom(numpy_helper.from_array(np.zeros((600, 512), np.float32), weight.name))


def huge_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].dims[0] = 1_000_000_001  # of two bytes


def wrong_scales(model: onnx.ModelProto) -> None:
    scales = next(t for t in model.graph.initializer if t.name.endswith("up_proj.weight_scales"))
    scales.dims[0], scales.dims[1] = scales.dims[1], scales.dims[0]


def wrong_block_size(model: onnx.ModelProto) -> None:
    next(a for a in node(model, "GatherBlockQuantized").attribute if a.name == "block_size").i = 64


def wrong_zero_points(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((64, 3), np.uint8), "points"))
    node(model, "MatMulNBits").input.append("points")


GRAPHS: dict[str, tuple[Break, str]] = {
    "logits under another name": (rename_logits, "logits"),
    "head_dim as a symbol": (dimension("past_key_values.2.key", 3, "kv_dim"), "cache-shape"),
    "a present unlike its past": (dimension("present.1.key", 3, 8), "cache-shape"),
    "a dimension nobody knows": (dimension("input_ids", 1, "sequence_len"), "symbol"),
    "a present left out": (lambda m: m.graph.output.pop(), "cache-pairs"),
    "an input nobody gives": (third_input, "interface"),
    "an output without a type": (lambda m: value(m, "logits").ClearField("type"), "value-type"),
    "a strange operator": (lambda m: setattr(node(m, "Mul"), "op_type", "Mish"), "operator"),
    "a strange operator in a branch": (hidden_operator, "operator"),
    "opset 24": (lambda m: setattr(m.opset_import[0], "version", 24), "opset"),
    "metadata": (lambda m: m.graph.node[3].metadata_props.add(key="trace"), "metadata"),
    "a home folder": (lambda m: setattr(m, "doc_string", "from /home/ada"), "private-text"),
    "a home folder on Windows": (windows_home, "private-text"),
    "our home folder": (lambda m: setattr(m.graph, "name", f"{Path.home()}/x"), "private-text"),
    "a local function": (lambda m: m.functions.add(name="Attention", domain="here"), "function"),
    "bytes nobody reads": (lambda m: m.graph.initializer.add(name="x"), "unused-initializer"),
    "one name twice": (lambda m: m.graph.initializer.add(name=NORM), "duplicate-initializer"),
    "a megabyte inside the graph": (large_inline, "inline-size"),
    "an initializer of 2 GB": (huge_initializer, "initializer-size"),
    "scales the wrong way round": (wrong_scales, "quantized-shape"),
    "another block size": (wrong_block_size, "quantized-shape"),
    "zero points that do not fit": (wrong_zero_points, "quantized-shape"),
    "a path for a data file": (record("location", "../{}".format), "data-name"),
    "another graph's data": (record("location", lambda _: "model_q4.onnx_data"), "data-name"),
    "a data file that is not there": (record("location", "{}_1".format), "data-missing"),
    "an offset past the end": (record("offset", "9{}".format), "data-range"),
    "an offset that is no number": (record("offset", "-{}".format), "data-range"),
    "a length unlike the shape": (record("length", "1{}".format), "data-range"),
    "shared bytes": (record("offset", lambda at: str(int(at) - 64)), "data-overlap"),
}


@pytest.mark.parametrize(("change", "rule"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_is_refused_for(change: Break, rule: str, copy: Path) -> None:
    model = onnx.load(copy / "onnx" / GRAPH, load_external_data=False)
    change(model)
    (copy / "onnx" / GRAPH).write_bytes(model.SerializeToString())
    assert rule in rules(copy)


def size(name: str, size: int) -> Callable[[Path], object]:
    """Cut or stretch a file; what is added takes no room on the disk."""
    return lambda copy: os.truncate(copy / "onnx" / name, size)


def append(copy: Path) -> None:
    with (copy / "onnx" / DATA).open("ab") as file:
        file.write(b"\0" * 100)


def link_elsewhere(copy: Path) -> None:
    elsewhere = (copy / "onnx" / DATA).rename(copy / "blob")
    (copy / "onnx" / DATA).symlink_to(elsewhere)


def another_count(copy: Path) -> None:
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(f'"{GRAPH}": 1', f'"{GRAPH}": 2'))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a chunk is missing": (lambda copy: (copy / "onnx" / DATA).unlink(), "data-missing"),
    "a chunk is a link": (link_elsewhere, "data-missing"),
    "a chunk is cut short": (size(DATA, 100_000), "data-range"),
    "a chunk holds more than is read": (append, "data-lost"),
    "a chunk has 2 GB": (size(DATA, 2_000_000_000), "chunk-size"),
    "config.json counts otherwise": (another_count, "chunk-count"),
    "a chunk is left over": (lambda c: (c / "onnx" / f"{DATA}_3").write_bytes(b""), "chunk-count"),
    "the graph is missing": (lambda copy: (copy / "onnx" / GRAPH).unlink(), "graph-file"),
    "the graph is cut": (size(GRAPH, 9_999), "graph-file"),
    "the graph has 1 GB": (size(GRAPH, 1_000_000_001), "graph-file"),
}


@pytest.mark.parametrize(("change", "rule"), FILES.values(), ids=FILES)
def test_a_package_is_refused_when(change: Callable[[Path], object], rule: str, copy: Path) -> None:
    change(copy)
    assert rule in rules(copy)


class TestTheTiedTable:
    def test_stored_twice_is_refused(self, tiny: Tiny, tmp_path: Path) -> None:
        """An untied model, called tied, whose head happens to hold the embedding's bytes."""
        folder = shutil.copytree(tiny("qwen2-untied"), tmp_path / "model")
        file = folder / "model.safetensors"
        weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
        save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 0}, file)
        made = package(folder, tmp_path / "package")
        assert rules(made) == set()
        config = json.loads((made / "config.json").read_text()) | {"tie_word_embeddings": True}
        (made / "config.json").write_text(json.dumps(config))
        sentence = lint(made, "q4f16").findings[0].sentence
        assert sentence.startswith("the tied table is stored twice: the same bytes as model.embed")

    def test_beside_a_float_one_is_refused(self, tiny: Tiny, tmp_path: Path) -> None:
        folder = package(tiny("llama"), tmp_path / "package", quantize_embedding=False)
        findings = lint(folder, "q4f16").findings
        assert {f.rule for f in findings} == {"tied-table"}
        assert findings[0].where == "model.embed_tokens.weight"
        size = f"({VOCABULARY * 128} bytes)"
        assert findings[0].sentence == f"the tied table lies here unquantised {size}"


def test_the_names_of_this_user_and_host_are_found(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rules(copy) == set()
    monkeypatch.setattr("getpass.getuser", lambda: "norm")  # also a part of the model
    assert rules(copy) == set()
    monkeypatch.setattr("socket.gethostname", lambda: "mobius.local")  # also the graph's producer
    assert rules(copy) == {"private-text"}


def test_every_rule_is_broken_here_once() -> None:
    broken = {rule for _, rule in (*GRAPHS.values(), *FILES.values())}
    assert broken | {"tied-table"} == {*RULES, "graph-file"}


class TestTheReport:
    FINDINGS = (
        Finding("inline-size", "warning", "w", "is large"),
        Finding("opset", "error", "model_q4.onnx", "opset 24"),
        Finding("logits", "error", "model_q4.onnx", "has none"),
    )

    def test_raises_the_first_error_and_counts_the_rest(self) -> None:
        report = LintReport(Path("p"), "q4", list(self.FINDINGS), {})
        with pytest.raises(RungFailed) as caught:
            require_clean(report)
        assert str(caught.value) == "p: q4: model_q4.onnx: opset 24 [opset] (and 1 more)"
        assert len(render(report).splitlines()) == 3

    def test_lets_warnings_pass(self) -> None:
        require_clean(LintReport(Path("p"), "q4", list(self.FINDINGS[:1]), {}))

    def test_says_what_is_wrong_with_many_tensors_once(self, copy: Path) -> None:
        model = onnx.load(copy / "onnx" / GRAPH, load_external_data=False)
        for name in ("input_ids", "attention_mask", "logits"):
            value(model, name).type.tensor_type.shape.dim[0].dim_param = "batch"
        (copy / "onnx" / GRAPH).write_bytes(model.SerializeToString())
        symbols = [f for f in lint(copy, "q4f16").findings if f.rule == "symbol"]
        assert [f.where for f in symbols] == ["input_ids"]
        assert symbols[0].sentence.endswith("(and 2 more like it)")
