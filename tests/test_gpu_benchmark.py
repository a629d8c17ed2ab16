"""`python -m benchmarks.gpu`: what is packed, the random weights, and the document, without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from benchmarks.gpu import graphs
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.carried import FILES, Refused, join_pieces
from benchmarks.gpu.document import Results, document
from benchmarks.gpu.measure import FIGURES, NOT_RUN
from benchmarks.gpu.memory import GpuMemory
from benchmarks.gpu.pack import SCRIPTS, pack, write_parts
from benchmarks.gpu.reader import compared
from benchmarks.gpu.variants import VARIANTS, Format, rounded
from benchmarks.gpu.weights import DATA, EXACT, GRAPH, TENSORS, drawn, fill
from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.evaluate.models.onnx import OnnxDecoder
from shared.olive.quantise.packing import dequantized, unpack
from shared.webgpu_bench.engines.native_webgpu import VENV
from shared.webgpu_bench.engines.vulkan import swiftshader
from tests.tiny import ARCHITECTURES as TINY
from tests.tiny import FEW_TOKENS, SHAPE

MODEL = "qwen2"
SMALL = SHAPE | {"vocab_size": FEW_TOKENS, "hidden_size": 128, "intermediate_size": 256}
"""Rows that are multiples of 64, for all the formats."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the full-size architectures stands a small one."""
    kind, extra = TINY[MODEL]
    monkeypatch.setattr(graphs, "ARCHITECTURES", {MODEL: (kind, SMALL | extra)})
    monkeypatch.setattr(graphs, "BLOCK_SIZE", {MODEL: 32})
    monkeypatch.setattr(graphs, "SPECIAL", {})
    monkeypatch.setattr("benchmarks.gpu.pack.token_ids", lambda model: list(range(3, 300)))


@pytest.fixture
def unpacked(tmp_path: Path, tiny: None) -> Path:
    """All variants of the small model in q4, packed without wheels and unpacked again."""
    out = tmp_path / "packed"
    pack(out, [MODEL], ["q4"], python=None)
    return unpack_parts(out, tmp_path / "there")


def unpack_parts(out: Path, there: Path) -> Path:
    for part in sorted(out.glob("part-*.tar")):
        with tarfile.open(part) as tar:
            tar.extractall(there, filter="data")
    return there


class TestParts:
    def write(self, tmp_path: Path, sizes: dict[str, int], most: int) -> Path:
        for name, size in sizes.items():
            file = tmp_path / "root" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(np.random.default_rng(size).bytes(size))
        list(write_parts(tmp_path / "root", tmp_path, most))
        return tmp_path

    def test_none_is_larger_than_was_asked_and_together_they_are_the_whole(
        self, tmp_path: Path
    ) -> None:
        sizes = {"measure.py": 100, "models/a/model.onnx": 70_000, f"models/a/{DATA}": 400_000}
        out = self.write(tmp_path, sizes, 120_000)
        parts = sorted(out.glob("part-*.tar"))
        assert len(parts) > 4 and all(part.stat().st_size <= 120_000 for part in parts)
        there = unpack_parts(out, tmp_path / "there")
        join_pieces(there)
        for name in sizes:
            assert (there / name).read_bytes() == (tmp_path / "root" / name).read_bytes()
        assert not list(there.rglob("*.piece-*"))

    def test_the_first_one_has_what_is_needed_first(self, tmp_path: Path) -> None:
        sizes = {"models/a/model.onnx": 70_000, "measure.py": 100, "wheels/x.whl": 20_000}
        out = self.write(tmp_path, sizes, 100_000)
        with tarfile.open(out / "part-01.tar") as tar:
            assert {FILES, "measure.py", "wheels/x.whl"} <= set(tar.getnames())

    def test_a_spoiled_piece_is_refused_by_the_files_name(self, tmp_path: Path) -> None:
        out = self.write(tmp_path, {f"models/{DATA}": 200_000}, 120_000)
        there = unpack_parts(out, tmp_path / "there")
        piece = next(there.rglob("*.piece-01"))
        piece.write_bytes(piece.read_bytes()[:-1] + b"?")
        with pytest.raises(Refused, match=rf"models/{DATA}: its pieces are not what was packed"):
            join_pieces(there)

    def test_a_file_of_which_a_part_was_not_carried_is_left_alone(self, tmp_path: Path) -> None:
        out = self.write(tmp_path, {f"models/{DATA}": 200_000}, 120_000)
        there = unpack_parts(out, tmp_path / "there")
        next(there.rglob("*.piece-01")).unlink()
        join_pieces(there)
        assert not (there / "models" / DATA).exists()


class TestPack:
    def test_the_scripts_import_nothing_that_does_not_come_along(self, tmp_path: Path) -> None:
        modules = {
            n.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for n in SCRIPTS
        }
        for name in SCRIPTS:
            for line in (paths.REPOSITORY / name).read_text().splitlines():
                if line.startswith(("from shared", "from benchmarks")):
                    assert line.split()[1] in modules, name

    def test_it_goes_into_an_empty_folder_only(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "x").touch()
        assert main(["pack", "--out", str(tmp_path)]) == 1
        assert "is not empty" in capsys.readouterr().err

    def test_a_wheel_that_is_not_to_be_had_is_a_sentence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from benchmarks.gpu import pack as module

        monkeypatch.setattr(module, "pip_installs", lambda lock: [("--no-index", "nothing==1")])
        with pytest.raises(UserError, match=r"^wheels for Python 3\.12: .*nothing"):
            module.fetch_wheels(tmp_path / "wheels", "3.12")

    def test_every_variant_is_planned_and_its_format_written_once(self, unpacked: Path) -> None:
        plan = json.loads((unpacked / "plan.json").read_text())
        assert [e["variant"] for e in plan["entries"]] == [v.name for v in VARIANTS]
        folders = {entry["folder"] for entry in plan["entries"]}
        assert len(folders) == len({v.format.name for v in VARIANTS}) == len(VARIANTS) - 1
        for folder in folders:
            names = {p.name for p in (unpacked / folder).iterdir()}
            assert names == {GRAPH, EXACT, TENSORS}, "no weights are carried"


class TestRandomWeights:
    def test_fill_the_graph_of_every_format_so_that_it_loads_and_says_numbers(
        self, unpacked: Path
    ) -> None:
        for folder in {v.format.name for v in VARIANTS}:
            place = unpacked / "models" / MODEL / "q4" / folder
            fill(place)
            logits = OnnxDecoder(place / EXACT).feed([1, 2, 3, 4])
            assert np.isfinite(logits).all() and logits.std() > 1e-3
            assert len(set(logits.argmax(axis=-1).tolist())) > 1, "they differ by position"

    def test_have_the_bytes_that_the_graph_names(self, unpacked: Path) -> None:
        place = unpacked / "models" / MODEL / "q4" / "head-8"
        size = fill(place)
        graph = onnx.load(place / GRAPH, load_external_data=False).graph
        ends = []
        for tensor in graph.initializer:
            at = {entry.key: entry.value for entry in tensor.external_data}
            ends.append(int(at["offset"]) + int(at["length"]) if at else 0)
        assert size == max(ends)

    @pytest.mark.parametrize("bits", [4, 8])
    def test_have_the_deviation_of_a_real_one_and_no_mean(self, bits: int) -> None:
        scale = graphs.DEVIATION / graphs.code_deviation(bits)
        tensor = {"name": "x", "type": "uint8", "length": 2**18, "content": "codes", "bits": bits}
        codes = torch.from_numpy(next(drawn(tensor)).copy()).view(1, -1)
        values = (unpack(codes, bits, 2**18 * 8 // bits).float() - 2 ** (bits - 1)) * scale
        assert abs(float(values.std()) / graphs.DEVIATION - 1) < 0.02
        assert abs(float(values.mean())) < graphs.DEVIATION / 100

    def test_are_the_same_each_time_and_other_ones_for_each_tensor(self) -> None:
        tensor = {"name": "x", "type": "uint8", "length": 512, "content": "codes", "bits": 4}
        first, again = next(drawn(tensor)), next(drawn(tensor))
        assert (first == again).all() and (first != next(drawn(tensor | {"name": "y"}))).any()


class TestRounding:
    @pytest.mark.parametrize(
        ("bits", "zeros", "most"), [(4, True, 0.08), (8, False, 0.01), (8, True, 0.01)]
    )
    def test_to_nearest_is_near(self, bits: int, zeros: bool, most: float) -> None:
        weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(1)) + 0.5
        back = dequantized(rounded(weight, bits, 32, zeros=zeros))
        assert float((back - weight).abs().max() / weight.abs().max()) < most

    def test_a_row_that_no_block_divides_is_refused(self) -> None:
        with pytest.raises(ValueError, match="row length 96 is not a multiple of block size 64"):
            rounded(torch.zeros(2, 96), 4, 64, zeros=False)

    def test_a_weight_that_no_block_divides_is_named(self, tmp_path: Path) -> None:
        form = Format("odd", block_size=7)
        with pytest.raises(RungFailed, match=r"embed_tokens\.weight: row length 576 is not"):
            graphs.write_model(graphs.EMBEDDED, tmp_path / "x", "q4", form)


class TestComparing:
    right = np.random.default_rng(0).standard_normal((8, 100))

    def test_the_same_logits_differ_by_nothing(self) -> None:
        values = {name: value for name, (value, _) in compared(self.right, self.right).items()}
        assert values == {"parity_kl": 0.0, "parity_top1": 1.0, "parity_logits": 0.0}

    def test_a_wrong_position_shows_in_all_three(self) -> None:
        wrong = self.right.copy()
        wrong[3, 7] += 20
        values = [value for value, _ in compared(wrong, self.right).values()]
        assert values[0] > 0.1 and values[1] == 7 / 8 and values[2] > 1

    def test_what_is_no_number_is_not_measured_with_the_reason(self) -> None:
        wrong = self.right.copy()
        wrong[0, 0] = np.nan
        for value, more in compared(wrong, self.right).values():
            assert value is None and more["reason"] == "WebGPU computed logits that are not numbers"


def test_memory_that_nobody_can_see_is_not_measured_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with GpuMemory(software=True) as memory:
        pass
    assert memory.figure()["reason"] == "a software adapter has no memory of its own"
    monkeypatch.setenv("PATH", "")
    with GpuMemory(software=False) as memory:
        pass
    assert memory.figure()["reason"] == "there is no nvidia-smi to ask"


class TestTheDocument:
    def results(self, *, software: bool, **figures: Any) -> Results:
        def run(variant: str, **more: Any) -> dict[str, Any]:
            where = {"where": "X", "software_adapter": software}
            values = {key: {"reason": "the time was up"} for key in FIGURES} | figures | more
            named = {"model": "smollm3", "dtype": "q4f16", "variant": variant, "words": variant}
            facts = {"version": "1.2.3"}
            made = {name: dict(figure) | where for name, figure in values.items()}
            state = {"weights": "random", "facts": facts, "finished": True, "no_f16": False}
            return {**named, **state, "figures": made}

        machine = {"adapter": "X", "software_adapter": software, "cpu": "c", "cores": 2}
        fast = {"value": 300.0, "unit": "tokens/s"}
        runs = {
            "smollm3/q4f16/released": run("released", prefill=fast),
            "smollm3/q4f16/exact": run("exact", prefill=fast | {"value": 100.0}),
        }
        runs["smollm3/q4f16/zeros"] = run("zeros") | NOT_RUN
        head = {"version": 1, "machine": machine, "made": "2026-01-01", "date": "2026-01-02"}
        limits = {"prompt": 512, "positions": 256, "single": 4}
        return Results.model_validate({**head, "limits": limits, "runs": runs})

    def test_names_a_software_adapter_first_and_gives_its_speed_as_no_gpus(self) -> None:
        text = document(self.results(software=True))
        assert "No GPU was at hand" in "\n".join(text.splitlines()[:3])
        assert "300 tokens/s (software adapter)" in text and "3×" not in text
        assert "a software adapter's time is no GPU's" in text

    def test_of_a_gpu_it_tells_what_rounding_wins(self) -> None:
        text = document(self.results(software=False))
        assert "software" not in text and "No GPU" not in text
        assert "3×" in text and text.startswith("# Native WebGPU on X")

    def test_what_is_missing_is_not_measured_with_its_reason(self) -> None:
        text = document(self.results(software=False))
        assert "not measured: the time was up" in text
        assert "- phi3: not packed" in text
        assert "- smollm3, q4f16 (zeros): packed, not run" in text

    def test_an_adapter_without_f16_is_one_sentence_and_no_table(self) -> None:
        results = self.results(software=True)
        runs = {n: r.model_copy(update={"no_f16": True}) for n, r in results.runs.items()}
        text = document(results.model_copy(update={"runs": runs}))
        assert "Not measured: the time was up" in text and "|" not in text.split("## Not")[0]

    def test_results_of_another_kind_are_refused_by_the_key(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "results.json"
        good = self.results(software=True).model_dump(mode="json")
        file.write_text(json.dumps(good | {"rnus": {}}))
        assert main(["document", "--results", str(file), "--out", str(tmp_path / "x.md")]) == 1
        assert "rnus: unknown key" in capsys.readouterr().err and not (tmp_path / "x.md").exists()


@pytest.mark.slow
def test_a_small_model_is_measured_there_and_a_second_run_has_nothing_left_to_do(
    unpacked: Path,
) -> None:
    if swiftshader() is None:
        pytest.skip("no Chromium, whose SwiftShader stands in for a GPU")
    try:
        python = VENV.python()
    except RungFailed as error:
        pytest.skip(f"onnxruntime-webgpu is not to be had: {error}")
    little = ["--only", "/released", "--positions", "5"]
    asked = [*little, "--graph-seconds", "3000", "--seconds", "3000"]
    command = [sys.executable, "measure.py", "--python", str(python), *asked]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = Results.model_validate_json((unpacked / "results.json").read_text())
    run = results.runs[f"{MODEL}/q4/released"]
    assert results.machine.software_adapter and set(run.figures) == set(FIGURES)
    for name in set(FIGURES) - {"gpu_memory"}:
        assert run.figure(name).value is not None, run.figure(name).reason
    assert run.figure("parity_logits").n == 5
    assert run.figure("parity_logits").value < 0.05  # type: ignore[operator]
    assert run.figure("gpu_memory").reason == "a software adapter has no memory of its own"
    assert run.facts["kernels"] and not results.runs[f"{MODEL}/q4/exact"].figures
    again = subprocess.run(command, cwd=unpacked, capture_output=True, text=True)
    assert again.returncode == 0 and "load_seconds" not in again.stderr
    text = document(results)
    assert "software adapter" in text and f"{MODEL}, q4 (exact, zeros" in text
