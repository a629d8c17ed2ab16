"""The second moments of a layer's inputs and their factor: right, in place, same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from shared.base.bfloat16 import is_bfloat16_fast
from shared.base.cpu import cores
from shared.base.processes import give_back_memory
from shared.olive.quantise import hessian, layerwise
from shared.olive.quantise.gptq import Format, gptq, inputs_of
from shared.olive.quantise.hessian import ROWS, add, factor_, in_bfloat16
from shared.olive.quantise.layer_files import LayerFiles
from shared.olive.quantise.layerwise import quantize_decoder
from shared.source import weights
from shared.source.model import load_model
from shared.source.weights import SINGLE, forget_mapped, load_weights


def inputs(tokens: int, width: int) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(width))


@pytest.mark.parametrize("width", [5, 64, 150])
def test_the_factor_is_upper_and_gives_the_moments(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hessian, "TILE", 64)
    x = inputs(3 * width, width)
    found = factor_(add(add(None, x[:width]), x[width:])).triu().double()
    expected = (x.t() @ x).double()
    assert torch.allclose(found @ found.t(), expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_what_is_passed_on_lies_where_the_moments_lay() -> None:
    moments = add(None, inputs(90, 40))
    assert inputs_of(moments).passed_on.data_ptr() == moments.data_ptr()


def test_what_is_below_the_diagonal_is_not_read() -> None:
    moments = add(None, inputs(90, 40))
    spoilt = moments + torch.full((40, 40), 7.0).tril(-1)
    assert torch.equal(factor_(moments).triu(), factor_(spoilt).triu())


def test_tokens_may_be_added_in_any_number() -> None:
    x = inputs(2 * ROWS + 3, 40)
    parts = add(add(add(None, x[:1]), x[1 : ROWS + 1]), x[ROWS + 1 :])
    assert torch.allclose(parts.triu(), (x.t() @ x).triu(), rtol=1e-4, atol=1e-3)


def test_moments_that_are_not_positive_are_refused() -> None:
    with pytest.raises(ValueError, match="not positive"):
        factor_(-torch.eye(4))


def test_the_result_has_the_same_bits_with_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hessian, "TILE", 64)
    weight, x = inputs(700, 192), inputs(500, 192)

    def made(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        monkeypatch.setattr(hessian, "cores", lambda: count)
        blocks = gptq(weight, inputs_of(add(None, x)), Format())
        return blocks.packed, blocks.scales

    for one, many in zip(made(1), made(5), strict=True):
        assert torch.equal(one, many)


def test_a_worker_that_shares_the_machine_has_as_many_threads_as_it_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert cores() == len(psutil.Process().cpu_affinity())


class TestForgettingPages:
    def test_gives_back_what_a_file_holds_and_reads_it_again(self, tmp_path: Path) -> None:
        save_file({"a": torch.arange(16_000_000, dtype=torch.float32)}, tmp_path / SINGLE)
        weight = load_weights(tmp_path)["a"]
        before = float(weight.sum())
        held = psutil.Process().memory_info().rss
        forget_mapped([weight])
        assert held - psutil.Process().memory_info().rss > 50_000_000
        assert float(weight.sum()) == before

    def test_leaves_memory_of_torchs_own_alone(self) -> None:
        weight = torch.ones(4_000_000)
        forget_mapped([weight])
        assert float(weight.sum()) == 4_000_000

    def test_reaches_the_model_that_is_calibrated(
        self, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, forgotten = load_model(tiny("llama")), list[int]()
        monkeypatch.setattr(weights, "forget_pages", lambda t: forgotten.append(t.data_ptr()))
        matrices = [p.data for p in model.parameters() if p.ndim == 2]
        forget_mapped(matrices)
        assert forgotten == [matrix.data_ptr() for matrix in matrices]


class TestGivingBack:
    def test_what_was_freed_between_other_blocks_leaves_the_memory(self) -> None:
        torch.ones(7_000_000)  # 28 MB: freed, glibc takes smaller ones from its own heap
        blocks = [torch.ones(1_000_000) for _ in range(100)]
        kept = blocks[::10]
        del blocks
        held = psutil.Process().memory_info().rss
        give_back_memory()
        assert held - psutil.Process().memory_info().rss > 250_000_000
        assert all(float(block.sum()) == 1_000_000 for block in kept)

    def test_is_done_after_every_layer(
        self, tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finished, files = list[int](), LayerFiles(tmp_path)
        monkeypatch.setattr(layerwise, "give_back_memory", lambda: finished.append(files.finished))
        model = load_model(tiny("llama"))
        quantize_decoder(model, [], lambda _: Format(), files, lambda _: None)
        assert finished == [1, 2, 3, 4]


def test_what_is_made_on_the_way_lies_where_the_inputs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta` in place of a GPU: one that was made on the CPU would be refused."""
    monkeypatch.setattr(hessian, "int", lambda wrong: 0, raising=False)
    inputs = torch.empty(1, 40, 640, device="meta")
    total = hessian.add(None, inputs)
    products = hessian.add_products(None, torch.empty(1, 40, 64, device="meta"), inputs)
    (solved,) = hessian.divide([products], total.clone())
    factor = hessian.factor_(total)
    assert {t.device.type for t in (total, products, solved, factor)} == {"meta"}


def test_calls_for_a_gpu_come_one_after_the_other() -> None:
    with hessian.in_turn():
        assert len(set(hessian.spread(lambda _: threading.get_ident(), range(4)))) == 1


def test_what_the_cpu_rounds_beside_a_gpu_is_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessian, "cores", lambda: 2)
    both = threading.Barrier(2, timeout=20)
    with hessian.in_turn():
        assert sorted(hessian.spread(lambda _: both.wait(), range(2), on_the_cpu=True)) == [0, 1]


@pytest.mark.skipif(not is_bfloat16_fast(), reason="no instructions for bfloat16 here")
def test_sums_over_tokens_may_be_taken_in_bfloat16() -> None:
    x = inputs(300, 600)
    exact = add(None, x)
    with in_bfloat16():
        near = add(None, x)
    size = exact.abs().max()
    assert 0 < (near - exact).abs().max() < 0.01 * size
    assert torch.equal(add(None, x), exact), "and it ends with the block"


def test_factors_and_columns_are_computed_in_float32(
    few: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, seen = torch.backends.mkldnn.matmul, set[str]()
    usual = settings.fp32_precision
    for name in ("inputs_of", "gptq"):
        real = getattr(layerwise, name)

        def noted(*given: Any, real: Callable[..., Any] = real) -> Any:
            seen.add(settings.fp32_precision)
            return real(*given)

        monkeypatch.setattr(layerwise, name, noted)
    model, texts = load_model(few("qwen2"), lazily=True), [list(range(40))] * 3
    quantize_decoder(model, texts, lambda _: Format(), LayerFiles(tmp_path), lambda _: None)
    assert seen == {usual} and settings.fp32_precision == usual
