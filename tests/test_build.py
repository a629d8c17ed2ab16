"""What is built computes what PyTorch computes, in the bytes that onnxruntime would have chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnxruntime.capi._pybind_state import quantize_matmul_4bits
from transformers import AutoModelForCausalLM

from shared.base import paths
from shared.base.errors import RungFailed
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.external_data import ExternalDataWriter
from shared.olive.graph.weights import Int4Options, write_int4, write_together
from shared.olive.quantise.nearest import dequantize, quantize
from shared.source.weights import load_weights, weight_files
from tests.tiny import ARCHITECTURES, VOCABULARY, write_tiny

Tiny = Callable[[str], Path]


class TestQuantisation:
    @pytest.mark.parametrize("block_size", [16, 32, 128])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_gives_the_bytes_of_onnxruntime(self, block_size: int, dtype: torch.dtype) -> None:
        weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
        weight[3] = 0
        theirs = np.zeros((48, 256 // block_size, block_size // 2), np.uint8)
        scales = np.zeros((48, 256 // block_size), np.float32)
        points = np.zeros((48, (256 // block_size + 1) // 2), np.uint8)
        columns = np.ascontiguousarray(weight.float().numpy().T)
        quantize_matmul_4bits(theirs, columns, scales, points, block_size, 48, 256, True)
        packed, ours = quantize(weight, block_size)
        assert np.array_equal(packed.numpy(), theirs)
        assert np.array_equal(ours.numpy(), scales.reshape(ours.shape))

    def test_is_undone_within_half_a_step(self) -> None:
        weight = torch.randn(8, 64)
        packed, scales = quantize(weight, 32)
        # The value opposite the extreme may be clipped by one step: codes reach −8 but only +7.
        step = scales.abs().repeat_interleave(32, dim=1)
        assert ((dequantize(packed, scales) - weight).abs() <= step * 1.0001).all()

    def test_refuses_rows_that_do_not_fit_the_blocks(self) -> None:
        with pytest.raises(ValueError, match="not a multiple of block size"):
            quantize(torch.zeros(4, 40), 32)

    def test_refuses_weights_that_are_not_finite(self) -> None:
        with pytest.raises(ValueError, match="not finite"):
            quantize(torch.full((4, 32), float("nan")), 32)


def build(folder: Path, out: Path, dtype: str = "f32", quantize: bool = True) -> Path:
    out.mkdir(exist_ok=True)
    file = out / "model.onnx"
    options = Int4Options(accuracy_level=1, quantize=quantize)
    write_int4(build_graph(folder, dtype), load_weights(folder), file, options)
    return file


def run(session: ort.InferenceSession, ids: Sequence[int], past: dict[str, Any]) -> dict[str, Any]:
    """Feed `ids` after the cache `past`; all outputs by name."""
    length = len(ids) + next(iter(past.values())).shape[2]
    feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, length), np.int64)} | past
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def empty_cache(session: ort.InferenceSession) -> dict[str, Any]:
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    return {
        i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), kinds[i.type])
        for i in session.get_inputs()
        if i.name.startswith("past")
    }


def dequantised_reference(folder: Path) -> Any:
    """PyTorch's own model on the weights as the 4-bit file holds them: graph errors alone remain."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(dequantize(*quantize(parameter.to(torch.bfloat16), 32)))
    return model.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestTheGraph:
    IDS = (1, 4093, 198, 1780, 314, 260, 3575, 282, 649, 47, 2, 198, 1, 520, 2531, 198)

    def test_computes_what_pytorch_computes(
        self, architecture: str, tiny: Tiny, tmp_path: Path
    ) -> None:
        folder = tiny(architecture)
        session = ort.InferenceSession(build(folder, tmp_path))
        ours = run(session, self.IDS, empty_cache(session))["logits"][0]
        reference = dequantised_reference(folder)
        theirs = reference(torch.tensor([self.IDS])).logits[0].detach().numpy()
        assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-3

    def test_unquantised_computes_what_pytorch_computes(
        self, architecture: str, tiny: Tiny, tmp_path: Path
    ) -> None:
        session = ort.InferenceSession(build(tiny(architecture), tmp_path, quantize=False))
        reference = AutoModelForCausalLM.from_pretrained(tiny(architecture), dtype=torch.float32)
        for length in (1, 5, len(self.IDS)):
            ours = run(session, self.IDS[:length], empty_cache(session))["logits"][0]
            theirs = reference(torch.tensor([self.IDS[:length]])).logits[0].detach().numpy()
            assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-3

    def test_in_half_precision_stays_near(
        self, architecture: str, tiny: Tiny, tmp_path: Path
    ) -> None:
        """q4f16 against PyTorch in float32 on the same dequantised weights: fp16's rounding alone."""
        session = ort.InferenceSession(build(tiny(architecture), tmp_path, "f16"))
        ours = run(session, self.IDS, empty_cache(session))["logits"][0].astype(np.float32)
        theirs = dequantised_reference(tiny(architecture))(torch.tensor([self.IDS])).logits[0]
        theirs = theirs.detach().numpy()
        assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 3e-2

    def test_gives_the_same_token_by_token_as_at_once(
        self, architecture: str, tiny: Tiny, tmp_path: Path
    ) -> None:
        session = ort.InferenceSession(build(tiny(architecture), tmp_path))
        whole = run(session, self.IDS, empty_cache(session))["logits"][0]
        past, steps = empty_cache(session), []
        for token in self.IDS:
            outputs = run(session, [token], past)
            steps.append(outputs["logits"][0, 0])
            past = {
                k.replace("present", "past_key_values"): v
                for k, v in outputs.items()
                if k.startswith("present")
            }
        assert np.abs(np.stack(steps) - whole).max() / np.abs(whole).max() < 1e-3

    def test_is_fit_for_transformers_js(
        self, architecture: str, tiny: Tiny, tmp_path: Path
    ) -> None:
        graph = onnx.load(
            build(tiny(architecture), tmp_path, "f16"), load_external_data=False
        ).graph
        past = [i for i in graph.input if i.name.startswith("past")]
        assert all(i.type.tensor_type.shape.dim[3].dim_value == 16 for i in past)
        assert graph.output[0].name == "logits"
        symbols = {d.dim_param for i in graph.input for d in i.type.tensor_type.shape.dim}
        assert symbols <= {
            "",
            "batch_size",
            "sequence_length",
            "past_sequence_length",
            "total_sequence_length",
        }
        assert {i.name for i in graph.input} - {i.name for i in past} == {
            "input_ids",
            "attention_mask",
        }

    def test_says_nothing_of_the_machine_it_was_made_on(
        self, architecture: str, tiny: Tiny, tmp_path: Path
    ) -> None:
        data = build(tiny(architecture), tmp_path).read_bytes()
        for private in (str(tmp_path), str(Path.home()), sys.prefix):
            assert private.encode() not in data


class TestSmolLM3:
    def test_rotating_a_layer_that_must_not_rotate_would_be_seen(
        self, tiny: Tiny, tmp_path: Path
    ) -> None:
        """The parity test above can fail: break the NoPE handling on purpose and measure it."""
        folder = tiny("smollm3")
        graph = build_graph(folder, "f32")
        attention = [n for n in graph.proto.graph.node if n.op_type == "GroupQueryAttention"]
        rotary = [next(a for a in n.attribute if a.name == "do_rotary") for n in attention]
        assert [a.i for a in rotary] == [1, 1, 1, 0]
        cache = attention[0].input[7:9]
        rotary[3].i = 1
        del attention[3].input[7:]
        attention[3].input.extend(cache)
        write_int4(graph, load_weights(folder), tmp_path / "m.onnx", Int4Options(accuracy_level=1))
        session = ort.InferenceSession(tmp_path / "m.onnx")
        ours = run(session, TestTheGraph.IDS, empty_cache(session))["logits"][0]
        theirs = dequantised_reference(folder)(torch.tensor([TestTheGraph.IDS])).logits[0]
        theirs = theirs.detach().numpy()
        assert np.abs(ours - theirs).max() / np.abs(theirs).max() > 1e-2


LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "factor": 4.0,
}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a window on Qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        "config.json: sliding_window: not honoured for qwen2 models",
    ),
    "a window on SmolLM3": (
        "smollm3",
        {"use_sliding_window": True, "sliding_window": 8},
        "config.json: sliding_window: not honoured for smollm3 models",
    ),
    "long-rope": (
        "phi3",
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 128},
        "config.json: rope_parameters: longrope is wrong beyond the original context",
    ),
    "a partial rotary embedding on Phi-3": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        },
        "config.json: partial_rotary_factor: not honoured for phi3 models",
    ),
}


@pytest.mark.parametrize(("architecture", "changes", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_the_graph_would_get_wrong_is_refused_by_name(
    architecture: str, changes: dict[str, Any], sentence: str, embedded: Path, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path, architecture, embedded, **changes)
    with pytest.raises(RungFailed) as caught:
        build_graph(folder, "f32")
    assert sentence in str(caught.value)


class TestTheTiedEmbedding:
    @pytest.mark.parametrize("architecture", ["llama", "qwen2", "smollm3"])
    def test_is_stored_once(self, architecture: str, tiny: Tiny, tmp_path: Path) -> None:
        graph = onnx.load(build(tiny(architecture), tmp_path), load_external_data=False).graph
        tables = [t.name for t in graph.initializer if list(t.dims) == [VOCABULARY, 2, 16]]
        assert tables == ["model.embed_tokens.weight_q4"]
        readers = [n.op_type for n in graph.node if tables[0] in n.input]
        assert readers == ["Reshape", "MatMulNBits"]

    def test_is_two_where_it_is_not_tied(self, tiny: Tiny, tmp_path: Path) -> None:
        graph = onnx.load(build(tiny("qwen2-untied"), tmp_path), load_external_data=False).graph
        assert sum(list(t.dims) == [VOCABULARY, 2, 16] for t in graph.initializer) == 2


class TestExternalData:
    def test_starts_a_new_chunk_before_the_limit(self, tmp_path: Path) -> None:
        with ExternalDataWriter(tmp_path / "model_q4.onnx", max_chunk_bytes=1000) as data:
            pointers = [data.add(str(i), torch.zeros(400, dtype=torch.uint8)) for i in range(5)]
        assert [c.name for c in data.chunks] == [
            "model_q4.onnx_data",
            "model_q4.onnx_data_1",
            "model_q4.onnx_data_2",
        ]
        assert all(c.stat().st_size <= 1000 for c in data.chunks)
        places = [{e.key: e.value for e in p.external_data} for p in pointers]
        assert places[1] == {"location": "model_q4.onnx_data", "offset": "448", "length": "400"}

    def test_a_model_in_several_chunks_loads(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = build(tiny("qwen2"), tmp_path / "whole")
        monkeypatch.setattr(ExternalDataWriter.__init__, "__defaults__", (200_000,))
        parts = build(tiny("qwen2"), tmp_path / "parts")
        assert len(list(parts.parent.glob("model.onnx_data*"))) > 1
        outputs = []
        for file in (whole, parts):
            session = ort.InferenceSession(file)
            outputs.append(run(session, [1, 2, 3], empty_cache(session))["logits"])
        assert np.array_equal(*outputs)


class TestWeights:
    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(RungFailed, match=r"only pytorch_model\.bin, which can run code"):
            weight_files(tmp_path)

    def test_an_index_cannot_point_outside(self, tmp_path: Path) -> None:
        index = '{"weight_map": {"w": "../evil.safetensors"}}'
        (tmp_path / "model.safetensors.index.json").write_text(index)
        with pytest.raises(RungFailed, match=r"weight_map: '\.\./evil\.safetensors' is not here"):
            weight_files(tmp_path)

    def test_a_missing_tensor_is_named(self, tiny: Tiny, tmp_path: Path) -> None:
        folder = tiny("qwen2")
        weights = load_weights(folder)
        del weights["model.layers.1.mlp.up_proj.weight"]
        graph = build_graph(folder, "f32")
        with pytest.raises(RungFailed, match=r"no tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
            write_int4(graph, weights, tmp_path / "m.onnx", Int4Options())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_numeric_types_in_one_pass_are_the_bytes_of_one_at_a_time(
    architecture: str, tiny: Tiny, tmp_path: Path
) -> None:
    """And each weight is quantised once: the codes do not depend on the graph's float type."""
    kinds = {"model_q4f16.onnx": "f16", "model_q4.onnx": "f32"}
    folder, weights = tiny(architecture), load_weights(tiny(architecture))
    together, apart = tmp_path / "together", tmp_path / "apart"
    together.mkdir()
    apart.mkdir()
    graphs = {together / name: build_graph(folder, dtype) for name, dtype in kinds.items()}
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "shared.olive.graph.weights.quantize",
            lambda w, b: (asked.append("once"), quantize(w, b))[1],
        )
        write_together(graphs, weights, Int4Options())
    stored = [t.name for t in graphs[together / "model_q4.onnx"].proto.graph.initializer]
    assert len(asked) == sum(name.endswith("_q4") for name in stored)
    for name, dtype in kinds.items():
        write_int4(build_graph(folder, dtype), weights, apart / name, Int4Options())
    names = sorted(path.name for path in apart.iterdir())
    assert names == sorted(path.name for path in together.iterdir()) and len(names) == 4
    assert all((apart / n).read_bytes() == (together / n).read_bytes() for n in names)


def test_olive_hashes_and_links_as_it_would_hash_and_copy(tmp_path: Path) -> None:
    from olive import resource_path
    from olive.model.config import model_config

    from shared.olive.workflow import _without_reading_or_copying

    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(b"w" * 3_000_000)
    theirs = model_config.hash_file(source / "weights")
    with _without_reading_or_copying():
        assert model_config.hash_file(source / "weights", block_size=1024) == theirs
        resource_path.copy_dir(source, tmp_path / "copy", dirs_exist_ok=True)
    linked = (tmp_path / "copy" / "weights").stat()
    assert linked.st_ino == (source / "weights").stat().st_ino
    assert resource_path.copy_dir.__name__ == "copy_dir", "put back afterwards"


def test_olive_calls_nobody_where_its_telemetry_is_switched_off() -> None:
    """In a process of its own: Olive's telemetry is one object for the whole process."""
    script = (
        "from shared.olive.workflow import _keep_olive_silent as silent\n"
        "silent()\n"
        "from olive.telemetry.telemetry import Telemetry\n"
        "print(Telemetry()._logger)"
    )
    off = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "CI": ""}
    words = [sys.executable, "-c", script]
    run = subprocess.run(words, cwd=paths.REPOSITORY, env=off, capture_output=True, text=True)
    assert run.stdout.strip() == "None", run.stderr
