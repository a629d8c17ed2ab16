"""The recipe "optimum": its graphs compute what PyTorch computes, and the browser can load them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_genai as og
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits
from transformers import AutoModelForCausalLM

from shared.base import paths
from shared.base.errors import RungFailed
from shared.evaluate.models.onnx import OnnxDecoder
from shared.olive.optimum import recipe
from shared.olive.optimum.graphs import check_weights
from shared.olive.optimum.recipe import build_optimum
from shared.source.weights import load_weights
from tests.test_build import dequantised_reference, empty_cache
from tests.tiny import VOCABULARY, write_tiny

pytestmark = pytest.mark.slow

IDS = [1, 4093, 198, 1780, 314, 260, 3575, 282, 649, 47, 2, 198, 1, 520, 2531, 198]
THETA = {"rope_parameters": {"rope_theta": 100_000.0, "rope_type": "default"}}
FOREIGN_THETA = 1e-2
"""What rotating by another theta does to the logits, at the least: see the test that does it."""


class Built(NamedTuple):
    source: Path
    work: Path
    full: Path


@pytest.fixture(scope="module")
def built(embedded: Path, new_folder: Callable[[str], Path]) -> Built:
    """A tiny tied Llama with theta 100000, built once."""
    root = new_folder("optimum")
    source = write_tiny(root / "model", "llama", embedded, **THETA)
    (root / "work").mkdir()
    build_optimum(source, root / "work", keep_onnx=root / "onnx")
    return Built(source, root / "work", root / "onnx")


def graph_of(file: Path) -> onnx.GraphProto:
    return onnx.load(str(file), load_external_data=False).graph


def weights(file: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(file)).graph.initializer}


def pytorch(model: Any) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([IDS])).logits[0].float().numpy())


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def at_once_and_by_token(file: Path) -> list[np.ndarray]:
    model = OnnxDecoder(file)
    whole = model.feed(IDS)
    model.reset()
    return [whole, np.concatenate([model.feed([token]) for token in IDS])]


def float_activations(file: Path) -> Path:
    """A copy whose MatMulNBits do not round what goes in to 8 bits: graph errors alone remain."""
    model = onnx.load(str(file), load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    copy = file.with_name(f"exact_{file.name}")
    onnx.save(model, str(copy))
    return copy


class TestTheConfiguration:
    def test_an_untranslated_one_would_be_seen(
        self, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The parity test below can fail: transformers 4 takes theta 10000 in silence."""

        def as_it_is(config: Any, folder: Path) -> None:
            shutil.copyfile(built.source / "config.json", folder / "config.json")

        monkeypatch.setattr(recipe, "write_old_config", as_it_is)
        build_optimum(built.source, tmp_path)
        theirs = pytorch(dequantised_reference(built.source))
        for ours in at_once_and_by_token(float_activations(tmp_path / "model_q4.onnx")):
            assert error(ours, theirs) > FOREIGN_THETA


class TestTheGraphs:
    def test_full_precision_computes_what_pytorch_computes(self, built: Built) -> None:
        model = AutoModelForCausalLM.from_pretrained(built.source, dtype=torch.float32)
        for ours in at_once_and_by_token(built.full / "model.onnx"):
            assert error(ours, pytorch(model)) < 1e-4

    @pytest.mark.parametrize(("dtype", "bound"), [("q4", 1e-4), ("q4f16", 5e-3)])
    def test_4_bits_compute_what_pytorch_computes_on_the_same_weights(
        self, built: Built, dtype: str, bound: float
    ) -> None:
        theirs = pytorch(dequantised_reference(built.source))
        file = float_activations(built.work / f"model_{dtype}.onnx")
        for ours in at_once_and_by_token(file):
            assert error(ours, theirs) < bound < FOREIGN_THETA

    def test_weights_are_the_bytes_of_onnxruntimes_quantiser(self, built: Built) -> None:
        full, q4 = (weights(built.full / "model.onnx"), weights(built.work / "model_q4.onnx"))
        stems = [name.removesuffix("_q4") for name in q4 if name.endswith("_q4")]
        assert len(stems) == 4 * 7 + 1
        for stem in stems:
            width, rows = (columns := np.ascontiguousarray(full[stem].T)).shape
            packed, scales = (
                np.zeros((rows, width // 32, 16), "u1"),
                np.zeros((rows, width // 32), "f4"),
            )
            points = np.zeros((rows, (width // 32 + 1) // 2), "u1")
            quantize_matmul_4bits(packed, columns, scales, points, 32, rows, width, True)
            assert np.array_equal(q4[f"{stem}_q4"], packed), stem
            assert np.array_equal(q4[f"{stem}_scales"], scales), stem

    @pytest.mark.parametrize("dtype", ["q4", "q4f16"])
    def test_padding_on_the_left_changes_nothing(self, built: Built, dtype: str) -> None:
        """Also a row that sees nothing must stay finite: its cache is multiplied by 0 later on."""
        session = ort.InferenceSession(float_activations(built.work / f"model_{dtype}.onnx"))
        results = []
        for pad in (0, 3):
            feeds = {
                "input_ids": [[2] * pad + IDS],
                "attention_mask": [[0] * pad + [1] * len(IDS)],
                "position_ids": [[1] * pad + list(range(len(IDS)))],
            }
            arrays = {name: np.array(value) for name, value in feeds.items()}
            results.append(session.run(None, arrays | empty_cache(session)))
            assert all(np.isfinite(value).all() for value in results[-1])
        plain, padded = (np.float32(result[0][0]) for result in results)
        assert error(padded[3:], plain) < 5e-3

    def test_a_masked_place_cannot_overflow_in_float16(self, built: Built) -> None:
        nodes = graph_of(built.work / "model_q4f16.onnx").node
        tensors = [n.attribute[0].t for n in nodes if n.op_type == "Constant"]
        lowest = min(float(numpy_helper.to_array(t).min()) for t in tensors if t.data_type == 10)
        assert np.isfinite(np.float16(lowest) + np.float16(-1000))


@pytest.mark.parametrize("dtype", ["q4", "q4f16"])
class TestTransformersJs:
    def test_finds_the_files_and_knows_the_inputs(self, built: Built, dtype: str) -> None:
        graph = graph_of(built.work / f"model_{dtype}.onnx")
        locations = {
            e.value for t in graph.initializer for e in t.external_data if e.key == "location"
        }
        assert locations == {f"model_{dtype}.onnx_data"}
        assert (built.work / f"model_{dtype}.onnx_data").is_file()
        symbols = {
            d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim
        }
        known = {"batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"}
        assert symbols - {""} == known
        past = [i for i in graph.input if i.name.startswith("past")]
        assert [d.dim_value for d in past[0].type.tensor_type.shape.dim] == [0, 2, 0, 16]
        assert {i.name for i in graph.input} - {i.name for i in past} == {
            "input_ids",
            "attention_mask",
            "position_ids",
        }
        assert graph.output[0].name == "logits"
        kinds = {i.type.tensor_type.elem_type for i in past}
        wanted = onnx.TensorProto.FLOAT16 if dtype == "q4f16" else onnx.TensorProto.FLOAT
        assert kinds == {wanted}

    def test_the_tied_table_is_stored_once(self, built: Built, dtype: str) -> None:
        graph = graph_of(built.work / f"model_{dtype}.onnx")
        tables = [t.name for t in graph.initializer if list(t.dims) == [VOCABULARY, 2, 16]]
        assert tables == ["model.embed_tokens.weight_q4"]
        readers = [n.op_type for n in graph.node if tables[0] in n.input]
        assert readers == ["Reshape", "MatMulNBits"]

    def test_nothing_tells_of_the_machine_or_lacks_a_kernel(self, built: Built, dtype: str) -> None:
        file = built.work / f"model_{dtype}.onnx"
        for private in (str(built.work.parent), str(Path.home()), str(paths.REPOSITORY)):
            assert private.encode() not in file.read_bytes()
        assert not {n.op_type for n in graph_of(file).node} & {"And", "IsNaN", "Trilu", "Identity"}


def test_onnxruntime_genai_continues_as_the_graph_does(built: Built) -> None:
    settings = og.Config(str(built.work))
    settings.clear_providers()
    model = og.Model(settings)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(IDS) + 6)
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.array(IDS, np.int32))
    graph, expected = OnnxDecoder(built.work / "model_q4f16.onnx"), list(IDS)
    last = graph.feed(IDS)[-1]
    while not generator.is_done():
        generator.generate_next_token()
        expected.append(int(last.argmax()))
        last = graph.feed(expected[-1:])[-1]
    assert list(generator.get_sequence(0)) == expected
    assert len(expected) > len(IDS)


class TestFailures:
    def test_an_architecture_that_optimum_does_not_know(
        self, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if both contracts, which refuse such a folder before, had let it through."""
        monkeypatch.setattr("shared.olive.optimum.old_config.check_config", lambda *_: None)
        monkeypatch.setattr("shared.olive.optimum.recipe.model_weights", load_weights)
        source = tmp_path / "model"
        shutil.copytree(built.source, source)
        config = json.loads((source / "config.json").read_text())
        changed = config | {"model_type": "apertus", "architectures": ["ApertusForCausalLM"]}
        (source / "config.json").write_text(json.dumps(changed | {"hidden_act": "xielu"}))
        (tmp_path / "work").mkdir()
        with pytest.raises(RungFailed, match=r"Optimum could not export the model: .*apertus"):
            build_optimum(source, tmp_path / "work")
        assert "Traceback" in (tmp_path / "work" / "recipe.log").read_text()
        assert [p.name for p in (tmp_path / "work").iterdir()] == ["recipe.log"]

    def test_weights_that_do_not_suit_the_configuration(self) -> None:
        shapes, fits = {"norm": [2]}, {"norm": torch.zeros(2), "lm_head.weight": torch.zeros(1)}
        check_weights(shapes, fits)
        for given, sentence in (
            ({"norm": torch.zeros(3)}, r"norm: has shape \[3\], config\.json asks for \[2\]"),
            (fits | {"extra": torch.zeros(1)}, r"Optimum's graph does not read this weight"),
            ({}, r"no tensor 'norm', which the graph needs"),
        ):
            with pytest.raises(RungFailed, match=sentence):
                check_weights(shapes, given)
