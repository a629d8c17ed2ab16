"""The overflow finder: it flags a model that would overflow fp16, and passes one that does not."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from shared.domain.domain import load_domain
from shared.evaluate import activations as probes
from shared.evaluate import overflow
from shared.evaluate.activations import Peak, find_peaks
from shared.evaluate.overflow import at_risk, by_layer, headroom
from tests.spoil import copied, scale_tensor

TEXT = [list(range(100, 160))]


def scaled(package: Path, folder: Path, layer: int, factor: float) -> Path:
    """The q4 graph of a copy with one layer's down projection scaled."""
    spoilt = copied(package, folder / "spoilt")
    scale_tensor(spoilt, "q4", f"model.layers.{layer}.mlp.down_proj.weight_scales", factor)
    return spoilt / "onnx" / "model_q4.onnx"


class TestTheFinder:
    def test_passes_a_model_that_stays_small(self, package: Path) -> None:
        layers = by_layer(find_peaks(package / "onnx" / "model_q4.onnx", TEXT))
        assert [p.layer for p in layers] == ["embed", "0", "1", "2", "3", "head"]
        assert float(headroom(layers, 60).value or 0) > 10
        assert not at_risk(layers)

    def test_flags_an_mlp_scaled_past_fp16_and_names_its_layer(
        self, package: Path, tmp_path: Path
    ) -> None:
        layers = by_layer(find_peaks(scaled(package, tmp_path, 2, 1e6), TEXT))
        found = headroom(layers, 60)
        assert float(found.value or 0) < 1
        assert at_risk(layers)[0].layer == "2"
        assert "of layer 2" in str(found.reason) or "of layer 3" in str(found.reason)
        assert "fp16 ends at 65504" in str(found.reason)

    def test_sees_what_the_output_does_not_show(self, package: Path, tmp_path: Path) -> None:
        """A norm follows: the logits of the spoilt model are as small as any."""
        layers = by_layer(find_peaks(scaled(package, tmp_path, 2, 1e6), TEXT))
        head = next(peak for peak in layers if peak.layer == "head")
        assert head.largest < overflow.LARGEST_F16 * overflow.AT_RISK

    def test_sees_what_is_not_a_number_wherever_it_stands(
        self, package: Path, tmp_path: Path
    ) -> None:
        layers = by_layer(find_peaks(scaled(package, tmp_path, 2, float("nan")), TEXT))
        assert headroom(layers, 60).value == 0.0
        assert at_risk(layers)[0].layer == "2"

    def test_a_graph_that_cannot_be_looked_into_has_no_headroom(
        self, root: Path, package: Path, tmp_path: Path
    ) -> None:
        """A proof that could not be made must fail the gate, not slip past it."""
        spoilt = copied(package, tmp_path / "spoilt")
        (spoilt / "onnx" / "model_q4.onnx_data").unlink()
        found = overflow._measure(load_domain("legal"), spoilt).measurements["f16_headroom"]
        assert found.value == 0.0 and "cannot be run with its probes" in str(found.reason)
        (spoilt / "onnx" / "model_q4.onnx").unlink()
        found = overflow._measure(load_domain("legal"), spoilt).measurements["f16_headroom"]
        assert found.value is None and "no q4 file" in str(found.reason)

    def test_probes_leave_the_graph_valid(self, package: Path) -> None:
        model, watched = probes._probed(package / "onnx" / "model_q4.onnx")
        proto = onnx.load_from_string(model)
        outputs = [o.name for o in proto.graph.output if o.name.endswith("/peak")]
        assert len(outputs) == len(watched) == len(set(outputs))
        assert all(
            o.type.tensor_type.elem_type == TensorProto.FLOAT
            for o in proto.graph.output
            if o.name.endswith("/peak")
        )


class TestHeadroom:
    def test_is_nothing_where_even_fp32_overflowed(self) -> None:
        assert headroom([Peak("3", "t", "Mul", float("inf"))], 1).value == 0.0

    @pytest.mark.parametrize("largest", [float("nan"), 40_000.0, 70_000.0])
    def test_names_the_layers_at_risk(self, largest: float) -> None:
        layers = [Peak("1", "t", "Mul", 5.0), Peak("2", "t", "Mul", largest)]
        assert [p.layer for p in at_risk(layers)] == ["2"]

    @pytest.mark.parametrize("places", [(0, 1), (1, 0)])
    def test_is_nothing_where_something_is_not_a_number(self, places: tuple[int, int]) -> None:
        """Wherever it stands: no number is larger than NaN, nor smaller."""
        both = [Peak("1", "t", "Mul", 5.0), Peak("1", "t", "Mul", float("nan"))]
        ordered = [both[i] for i in places]
        assert headroom(ordered, 1).value == 0.0
        assert headroom(by_layer(ordered), 1).value == 0.0

    def test_the_largest_of_a_layer_is_kept(self) -> None:
        peaks = [Peak("1", "a", "Mul", 5.0), Peak("1", "b", "Add", 7.0), Peak("1", "c", "Mul", 6.0)]
        assert by_layer(peaks) == [Peak("1", "b", "Add", 7.0)]
