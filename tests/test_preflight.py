"""Preflight: what is planned is what is built, and a verdict names the tensor that is too large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.olive.graph.shapes import planned_graph
from shared.olive.graph.weights import Int4Options
from shared.webgpu_bench import cpu_nodes, preflight
from shared.webgpu_bench.footprint import Footprint, footprint, read_footprint
from shared.webgpu_bench.kernels import kernels_table, read_kernels
from shared.webgpu_bench.memory import CACHE_COPIES, longest_context, measured_overhead, with_budget
from shared.webgpu_bench.preflight import package_footprints, read_profiles
from tests.tiny import FEW_TOKENS, SHAPE, VOCABULARY, write_tiny

SMALL = {"head": 100_000_000}


def print_of(dtype: str = "q4", **weights: int) -> Footprint:
    return Footprint(dtype, weights or SMALL, cache_bytes_per_token=1000, logits_bytes_per_token=4)


def row(name: str, found: Footprint) -> preflight.Row:
    return next(r for r in preflight.preflight({found.dtype: found}) if r.profile == name)


MINIMUM = "WebGPU's guaranteed minimum"


class TestThePlan:
    @pytest.mark.parametrize("dtype", ["q4f16", "q4"])
    def test_has_every_tensor_the_build_writes(
        self, package: Path, embedded: Path, tmp_path: Path, dtype: str
    ) -> None:
        source = write_tiny(tmp_path / "m", "qwen2", embedded, vocab_size=FEW_TOKENS)
        planned = footprint(planned_graph(source, dtype, Int4Options()), dtype)
        built = package_footprints(package)[dtype]
        assert planned.weights == built.weights
        assert planned.cache_bytes_per_token == built.cache_bytes_per_token > 0
        assert planned.logits_bytes_per_token == built.logits_bytes_per_token > 0

    @pytest.mark.parametrize("architecture", ["phi3", "smollm3", "qwen2-untied"])
    def test_stores_a_tied_head_once_and_an_untied_one_twice(
        self, tiny: Callable[[str], Path], architecture: str
    ) -> None:
        found = footprint(planned_graph(tiny(architecture), "q4", Int4Options()), "q4")
        tables = [name for name, size in found.weights.items() if size == VOCABULARY * 64 // 2]
        assert len(tables) == (1 if architecture == "smollm3" else 2)


class TestVerdicts:
    def test_a_device_without_f16_takes_q4(self) -> None:
        assert row(MINIMUM, print_of()).verdict == "q4"

    def test_a_tensor_over_the_buffer_limit_is_named_with_its_parts(self) -> None:
        found = row(MINIMUM, print_of(embed=300_000_000))
        assert not found.fits
        assert found.verdict.startswith("does not fit: embed (0.300 GB) is over maxBufferSize")
        assert found.notes == "embed would have to be split by rows into 2 in the graph"

    def test_a_tensor_over_the_binding_limit_is_bound_in_segments(self) -> None:
        found = row(MINIMUM, print_of(embed=200_000_000))
        assert found.fits and "bound in 2 segments" in found.notes

    def test_weights_over_the_memory_do_not_fit(self) -> None:
        parts = {f"layer{n}": 200_000_000 for n in range(9)}
        found = row("iPhone, Safari 26", print_of("q4f16", **parts))
        assert not found.fits and "of memory" in found.verdict

    def test_a_missing_type_is_said(self) -> None:
        assert "no q4 file" in row(MINIMUM, print_of("q4f16")).verdict

    def test_a_package_of_q4_alone_fits_a_device_with_f16_too(self) -> None:
        found = row("discrete GPU, 8 GB", print_of("q4"))
        assert (found.fits, found.verdict) == (True, "q4")

    def test_every_profile_has_a_source(self) -> None:
        assert all(len(profile.source) > 10 for profile in read_profiles())

    def test_a_folder_without_a_model_is_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"holds no onnx/model_\*\.onnx"):
            package_footprints(tmp_path)


class TestTheBudget:
    def test_the_longest_context_just_fits(self) -> None:
        found = print_of()
        context = longest_context(found, 200_000_000, overhead=1_000_000)
        wanted = found.weight_bytes + 1_000_000 + CACHE_COPIES * context * 1000
        assert wanted <= 200_000_000 < wanted + CACHE_COPIES * 1000

    def test_weights_over_the_budget_leave_no_context(self) -> None:
        assert longest_context(print_of(), 50_000_000, 0) == 0

    def test_the_overhead_makes_the_sum_agree_with_the_peak(self) -> None:
        taken = print_of().weight_bytes + 1024 * 1000 + 1_000_000
        assert measured_overhead(print_of(), taken, context=1000) == 1_000_000
        assert measured_overhead(print_of(), 5, context=1000) == 0

    @pytest.mark.parametrize("text", ["much", "GB", "-1GB", "0GB", "8 gigs", "8GB extra"])
    def test_what_is_no_size_is_refused(self, text: str) -> None:
        with pytest.raises(UserError, match=r"--gpu-budget: .*a size like 16GB is wanted"):
            with_budget(load_domain("legal"), text)

    def test_the_switch_replaces_the_file(self) -> None:
        assert with_budget(load_domain("legal"), "512MiB").chain.bench.gpu_budget_bytes == 2**29
        assert with_budget(load_domain("legal"), None).chain.bench.gpu_budget_bytes == 8 * 10**9


class TestNodesOnTheCpu:
    def test_shape_arithmetic_is_expected(self, package: Path) -> None:
        graph = package / "onnx" / "model_q4.onnx"
        nodes = ["ReduceSum (model/ReduceSum_node_4)", "Shape (model/Shape_node_7)"]
        assert cpu_nodes.unexpected(nodes, graph) == []

    def test_a_matrix_product_is_not(self, package: Path) -> None:
        graph = package / "onnx" / "model_q4.onnx"
        assert cpu_nodes.unexpected(["MatMulNBits (x)"], graph) == ["MatMulNBits (x)"]

    def test_nor_an_allowed_operator_that_makes_activations(self, package: Path) -> None:
        """A Mul may be on the CPU for a product of dimensions, not for the MLP's."""
        node = "Mul (model/layers.0/mlp/Mul_node_28)"
        graph = package / "onnx" / "model_q4.onnx"
        import onnx

        names = [n.name for n in onnx.load(graph, load_external_data=False).graph.node]
        muls = [name for name in names if "/mlp/Mul_node" in name]
        assert muls, node
        assert cpu_nodes.unexpected([f"Mul ({muls[-1]})"], graph) == [f"Mul ({muls[-1]})"]

    @pytest.mark.parametrize(
        ("operator", "allowed"), [("Shape", True), ("LessOrEqual", True), ("Mul", False)]
    )
    def test_one_that_is_in_no_graph_must_be_unable_to_make_floats(
        self, package: Path, operator: str, allowed: bool
    ) -> None:
        graph = package / "onnx" / "model_q4.onnx"
        node = f"{operator} (a name that onnxruntime made up)"
        assert cpu_nodes.unexpected([node], graph) == ([] if allowed else [node])


def event(node: str, kernel: str, microseconds: int) -> str:
    name = f"{node}&Op&{kernel}"
    return f'{{"cat" : "Api","dur" :{microseconds},"ts" :1,"name" :"{name}","args" : {{}}}},'


class TestKernels:
    LINES = (
        event("embed", "Gather", 1000),
        event("layers.0/mlp/down_proj/MatMul_1", "Tile", 3000),
        event("layers.1/mlp/down_proj/MatMul_2", "Tile", 2000),
        event("embed", "Gather", 500),
        event("layers.0/mlp/down_proj/MatMul_1", "Decode", 700),
    )

    def test_are_summed_a_pass_slowest_first(self) -> None:
        found = [
            (k.phase, k.kernel, k.role, k.dispatches, k.milliseconds)
            for k in read_kernels(self.LINES)
        ]
        assert found == [
            ("prompt", "Tile", "down_proj", 2, 5.0),
            ("prompt", "Gather", "", 1, 1.0),
            ("token", "Decode", "down_proj", 1, 0.7),
            ("token", "Gather", "", 1, 0.5),
        ]

    def test_the_table_gives_shares_of_the_pass(self) -> None:
        assert "83.3 %" in kernels_table(read_kernels(self.LINES))

    def test_of_a_line_that_was_cut_short_are_none_rather_than_a_part(self) -> None:
        assert read_kernels([*self.LINES, self.LINES[0][:30]]) == []

    def test_without_a_profile_there_are_none(self) -> None:
        assert read_kernels([]) == []


def test_a_footprint_has_what_the_model_was_made_for(package: Path) -> None:
    made_for = read_footprint(package / "onnx" / "model_q4.onnx").made_for
    assert made_for == SHAPE["max_position_embeddings"]
