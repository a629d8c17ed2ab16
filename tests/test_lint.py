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
from onnx import TensorProto, helper

from shared.errors import RungFailed
from shared.olive.external_data import ExternalDataWriter
from shared.olive.graph import build_graph
from shared.olive.int4 import Int4Options, write_int4
from shared.olive.lint import RULES, Finding, LintReport, lint, render, require_clean
from shared.olive.weights import load_weights

Tiny = Callable[[str], Path]
GRAPH, DATA = "model_q4f16.onnx", "model_q4f16.onnx_data"
TABLE = "model.embed_tokens.weight_q4"


def package(folder: Path, out: Path, dtype: str = "q4f16", **options: bool) -> Path:
    """What the package stage lays out, as far as the lint reads it."""
    (out / "onnx").mkdir(parents=True)
    graph = build_graph(folder, "f16" if dtype == "q4f16" else "f32")
    file = out / "onnx" / f"model_{dtype}.onnx"
    chunks = write_int4(graph, load_weights(folder), file, Int4Options(**options))
    config = json.loads((folder / "config.json").read_text())
    config["transformers.js_config"] = {"use_external_data_format": {file.name: len(chunks)}}
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.fixture(scope="module")
def clean(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tiny("llama"), tmp_path_factory.mktemp("clean") / "package")


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Iterator[Path]:
    yield shutil.copytree(clean, tmp_path / "package")


def rules(folder: Path) -> set[str]:
    return {finding.rule for finding in lint(folder, "q4f16").findings}


class TestOurGraphs:
    @pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen2-untied", "smollm3", "phi3"])
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
        facts = lint(clean, "q4f16").facts
        assert facts["opset"] == 21
        assert facts["operators"]["com.microsoft.GroupQueryAttention"] == 4
        assert facts["largest_initializer"] == {"name": TABLE, "bytes": 49152 * 32}
        assert facts["chunks"] == {DATA: (clean / "onnx" / DATA).stat().st_size}
        assert (facts["layers"], facts["kv_heads"], facts["kv_head_dim"]) == (4, 2, 16)
        assert 0 < facts["inline_bytes"] < 1000 < facts["initializer_bytes"]
        json.dumps(facts)

    def test_keep_their_bytes_on_disk(self, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No data file is opened where nothing looks like a second copy of the table."""
        opened: list[str] = []
        original = Path.open

        def watch(self: Path, *args: str) -> object:
            opened.append(self.name)
            return original(self, *args)

        monkeypatch.setattr(Path, "open", watch)
        lint(clean, "q4f16")
        assert DATA not in opened


Break = Callable[[onnx.ModelProto], None]


def value(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(v for v in (*model.graph.input, *model.graph.output) if v.name == name)


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def record(model: onnx.ModelProto, key: str, change: Callable[[str], str]) -> None:
    """Change one entry of where the last initializer, the final norm, says its bytes are."""
    entry = next(e for e in model.graph.initializer[-1].external_data if e.key == key)
    entry.value = change(entry.value)


def rename_logits(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits_Q4"


def symbolic_head_dim(model: onnx.ModelProto) -> None:
    value(model, "past_key_values.2.value").type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"


def present_of_another_size(model: onnx.ModelProto) -> None:
    value(model, "present.1.key").type.tensor_type.shape.dim[3].dim_value = 8


def unknown_symbol(model: onnx.ModelProto) -> None:
    value(model, "input_ids").type.tensor_type.shape.dim[1].dim_param = "sequence_len"


def lose_a_present(model: onnx.ModelProto) -> None:
    model.graph.output.remove(value(model, "present.3.value"))


def third_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("cache_position", TensorProto.INT64, []))


def two_types_less(model: onnx.ModelProto) -> None:
    value(model, "logits").ClearField("type")


def unknown_operator(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Sigmoid").op_type = "Mish"


def hidden_operator(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("NonZero", ["logits"], ["x"])], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["logits"], ["y"], then_branch=inner))


def newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 24


def stack_trace(model: onnx.ModelProto) -> None:
    model.graph.node[3].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="line 7")


def home_in_a_description(model: onnx.ModelProto) -> None:
    model.graph.doc_string = "exported from /home/ada/merged"


def windows_home_in_an_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[4].attribute.append(helper.make_attribute("source", r"C:\Users\ada"))


def this_python_in_a_name(model: onnx.ModelProto) -> None:
    model.graph.node[0].name = f"made by {Path.home()}/.venv"


def local_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="Attention", domain="here")


def unused_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3), "left_over"))


def duplicate_name(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(tensor(model, "model.norm.weight"))


def large_inline(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[-1]
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((600, 512), np.float32), weight.name))


def huge_initializer(model: onnx.ModelProto) -> None:
    del model.graph.initializer[-1].dims[:]
    model.graph.initializer[-1].dims.extend([2, 500_000_001])


def wrong_scales(model: onnx.ModelProto) -> None:
    scales = tensor(model, "model.layers.1.mlp.up_proj.weight_scales")
    scales.dims[0], scales.dims[1] = scales.dims[1], scales.dims[0]


def wrong_block_size(model: onnx.ModelProto) -> None:
    gather = next(n for n in model.graph.node if n.op_type == "GatherBlockQuantized")
    next(a for a in gather.attribute if a.name == "block_size").i = 64


def wrong_zero_points(model: onnx.ModelProto) -> None:
    points = onnx.numpy_helper.from_array(np.zeros((64, 3), np.uint8), "points")
    model.graph.initializer.append(points)
    next(n for n in model.graph.node if n.op_type == "MatMulNBits").input.append("points")


GRAPHS: dict[str, tuple[Break, str]] = {
    "logits under another name": (rename_logits, "logits"),
    "head_dim as a symbol": (symbolic_head_dim, "cache-shape"),
    "a present unlike its past": (present_of_another_size, "cache-shape"),
    "a dimension nobody knows": (unknown_symbol, "symbol"),
    "a present left out": (lose_a_present, "cache-pairs"),
    "an input nobody gives": (third_input, "interface"),
    "an output without a type": (two_types_less, "value-type"),
    "an operator without a kernel": (unknown_operator, "operator"),
    "such an operator in a branch": (hidden_operator, "operator"),
    "opset 24": (newer_opset, "opset"),
    "metadata": (stack_trace, "metadata"),
    "a home folder": (home_in_a_description, "private-text"),
    "a home folder on Windows": (windows_home_in_an_attribute, "private-text"),
    "this machine's home folder": (this_python_in_a_name, "private-text"),
    "a local function": (local_function, "function"),
    "an initializer nobody reads": (unused_initializer, "unused-initializer"),
    "one name twice": (duplicate_name, "duplicate-initializer"),
    "a megabyte inside the graph": (large_inline, "inline-size"),
    "an initializer of 2 GB": (huge_initializer, "initializer-size"),
    "scales the wrong way round": (wrong_scales, "quantized-shape"),
    "another block size": (wrong_block_size, "quantized-shape"),
    "zero points that do not fit": (wrong_zero_points, "quantized-shape"),
    "a path for a data file": (lambda m: record(m, "location", "../{}".format), "data-name"),
    "a data file of another graph": (
        lambda m: record(m, "location", lambda _: "model_q4.onnx_data"),
        "data-name",
    ),
    "a data file that is not there": (
        lambda m: record(m, "location", "{}_1".format),
        "data-missing",
    ),
    "an offset past the end": (lambda m: record(m, "offset", "9{}".format), "data-range"),
    "an offset that is no number": (lambda m: record(m, "offset", "-{}".format), "data-range"),
    "a length unlike the shape": (lambda m: record(m, "length", "1{}".format), "data-range"),
    "bytes that two tensors share": (
        lambda m: record(m, "offset", lambda at: str(int(at) - 64)),
        "data-overlap",
    ),
}


@pytest.mark.parametrize(("change", "rule"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_is_refused_for(change: Break, rule: str, copy: Path) -> None:
    model = onnx.load(copy / "onnx" / GRAPH, load_external_data=False)
    change(model)
    (copy / "onnx" / GRAPH).write_bytes(model.SerializeToString())
    assert rule in rules(copy)


def append(copy: Path) -> None:
    with (copy / "onnx" / DATA).open("ab") as file:
        file.write(b"\0" * 100)


def cut_short(copy: Path) -> None:
    os.truncate(copy / "onnx" / DATA, 1_000_000)


def two_gigabytes(copy: Path) -> None:
    os.truncate(copy / "onnx" / DATA, 2_000_000_000)  # sparse: no bytes are written


def link_elsewhere(copy: Path) -> None:
    elsewhere = (copy / "onnx" / DATA).rename(copy / "blob")
    (copy / "onnx" / DATA).symlink_to(elsewhere)


def another_count(copy: Path) -> None:
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(f'"{GRAPH}": 1', f'"{GRAPH}": 2'))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a chunk is missing": (lambda copy: (copy / "onnx" / DATA).unlink(), "data-missing"),
    "a chunk is a link": (link_elsewhere, "data-missing"),
    "a chunk is cut short": (cut_short, "data-range"),
    "a chunk holds more than is read": (append, "data-lost"),
    "a chunk has 2 GB": (two_gigabytes, "chunk-size"),
    "config.json counts otherwise": (another_count, "chunk-count"),
    "a chunk is left over": (lambda c: (c / "onnx" / f"{DATA}_3").write_bytes(b""), "chunk-count"),
    "the graph is missing": (lambda copy: (copy / "onnx" / GRAPH).unlink(), "graph-file"),
    "the graph is cut": (lambda c: os.truncate(c / "onnx" / GRAPH, 9_999), "graph-file"),
    "the graph has 1 GB": (lambda c: os.truncate(c / "onnx" / GRAPH, 1_000_000_001), "graph-file"),
}


@pytest.mark.parametrize(("change", "rule"), FILES.values(), ids=FILES)
def test_a_package_is_refused_when(change: Callable[[Path], object], rule: str, copy: Path) -> None:
    change(copy)
    assert rule in rules(copy)


class TestTheTiedTable:
    def test_stored_twice_is_refused(self, tiny: Tiny, tmp_path: Path) -> None:
        """An untied model whose head happens to hold the embedding's bytes, called tied."""
        weights = load_weights(tiny("qwen2-untied"))
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        folder = package(tiny("qwen2-untied"), tmp_path / "package")
        file = folder / "onnx" / GRAPH
        write_int4(build_graph(tiny("qwen2-untied"), "f16"), weights, file, Int4Options())
        assert rules(folder) == set()
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(
            config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
        )
        findings = [f for f in lint(folder, "q4f16").findings if f.rule == "tied-table"]
        assert "stored twice: the same bytes as model.embed_tokens" in findings[0].sentence

    def test_beside_a_float_one_is_refused(self, tiny: Tiny, tmp_path: Path) -> None:
        folder = package(tiny("llama"), tmp_path / "package", quantize_embedding=False)
        findings = lint(folder, "q4f16").findings
        assert {f.rule for f in findings} == {"tied-table"}
        assert findings[0].where == "model.embed_tokens.weight"
        assert findings[0].sentence == "the tied table lies here unquantised (6291456 bytes)"


def test_the_names_of_this_user_and_host_are_found(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rules(copy) == set()
    monkeypatch.setattr("getpass.getuser", lambda: "decoder")
    assert rules(copy) == set()
    monkeypatch.setattr("socket.gethostname", lambda: "mobius.local")
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
