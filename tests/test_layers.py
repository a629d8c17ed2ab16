"""Which layer computes something else is found in float32, and a model that is right passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.client import IncompleteRead
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import onnx
import pytest

from benchmarks.planted import Fault, faults, found_by, whole
from shared.domain.domain import load_domain
from shared.evaluate.models.onnx import OnnxDecoder
from shared.webgpu_bench import pieces_in_browser as in_browser
from shared.webgpu_bench.cut import (
    ALIGNMENT,
    DATA,
    Arrays,
    Piece,
    chain,
    cut,
    first_feeds,
    read_graph,
    run_on_cpu,
    with_own_data,
)
from shared.webgpu_bench.layers import (
    GRAPH,
    Layer,
    LayersResult,
    Runner,
    compare_layers,
    compare_pieces,
    relative_errors,
)
from shared.webgpu_bench.server import FileRange, serve
from tests.events import CEILING_SECONDS
from tests.spoil import copied, scale_tensor
from tests.test_lint import package as packaged
from tests.test_webgpu_page import browser

__all__ = ["browser"]
Tiny = Callable[[str], Path]

IDS = [(7919 * i + 13) % 40_000 + 100 for i in range(24)]
ROWS = np.array([IDS], np.int64)


@pytest.fixture(scope="module")
def package(embedded: Path, new_folder: Callable[[str], Path]) -> Path:
    """The embedded model's first three layers and its head, packaged."""
    folder = new_folder("three-layers")
    (folder / "model.safetensors").symlink_to(embedded / "model.safetensors")
    config = json.loads((embedded / "config.json").read_text()) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    return packaged(folder, folder / "package", "q4")


class TestAGraphInPieces:
    @pytest.mark.parametrize("exact", [True, False])
    @pytest.mark.parametrize(
        "architecture", ["llama", "smollm3", "smollm3-odd", "qwen2", "qwen2-untied", "phi3"]
    )
    def test_computes_the_bits_of_the_whole(
        self, architecture: str, exact: bool, tiny: Tiny, tmp_path: Path
    ) -> None:
        graph = packaged(tiny(architecture), tmp_path / "package", "q4") / GRAPH
        model = read_graph(graph) if exact else onnx.load(graph, load_external_data=False)
        pieces = cut(model)
        assert [p.name for p in pieces] == ["embeddings", *(f"layer {i}" for i in range(4)), "head"]
        made: Arrays = {}
        for _, outputs in chain(pieces, first_feeds(model, ROWS), graph.parent):
            made |= outputs
        names = [output.name for output in model.graph.output]
        whole = OnnxDecoder(graph, exact=exact).run(names, IDS)
        for name, value in zip(names, whole, strict=True):
            assert np.array_equal(made[name], value), name

    def test_has_its_data_from_the_released_file(self, package: Path, tmp_path: Path) -> None:
        """What the server joins is the data file that the piece's own offsets point into."""
        folder = (package / GRAPH).parent
        model = read_graph(package / GRAPH)
        pieces = cut(model)
        for piece, (given, right) in zip(
            pieces, chain(pieces, first_feeds(model, ROWS), folder), strict=True
        ):
            own, ranges = with_own_data(piece.model(given), folder)
            (tmp_path / DATA).write_bytes(fetched(ranges))
            moved = replace(piece, initializers=list(own.graph.initializer))
            found = run_on_cpu(moved, given, tmp_path)
            assert all(np.array_equal(found[name], value) for name, value in right.items())
            assert all(part.size % ALIGNMENT == 0 for part in ranges)

    def test_does_not_wait_for_a_file_that_is_cut_short(self, tmp_path: Path) -> None:
        (tmp_path / "short").write_bytes(b"12345678")
        with pytest.raises(IncompleteRead):
            fetched(
                [FileRange(tmp_path / "short", 4, 64, 0), FileRange(tmp_path / "short", 0, 8, 0)]
            )


def fetched(ranges: list[FileRange]) -> bytes:
    with serve({}, joined={"/piece": ranges}) as url, urlopen(f"{url}piece") as answer:
        return bytes(answer.read())


FAULTS = faults(read=IDS[3], unread=7)
IN_THE_BROWSER = (
    *("one scale doubled in self_attn.o_proj", "one code of q, k, v off"),
    *("a weight of the first norm", "the attention's scale", "one scale doubled in the table"),
)


def planted(package: Path, fault: Fault) -> list[Piece]:
    """The pieces of the package's graph with a fault in it."""
    model = read_graph(package / GRAPH)
    fault(model, (package / GRAPH).parent)
    return cut(model)


def compared(package: Path, theirs: list[Piece], run: Runner) -> list[Layer]:
    return list(compare_pieces(package, [IDS], theirs, run))


def wrong(found: list[Layer]) -> list[str]:
    return [layer.name for layer in found if not layer.ok]


class TestAPlantedFault:
    @pytest.mark.parametrize("name", FAULTS)
    def test_is_found_in_its_own_layer(self, name: str, package: Path) -> None:
        fault, where = FAULTS[name]
        run = partial(run_on_cpu, folder=(package / GRAPH).parent)
        found = compared(package, planted(package, fault), run)
        assert wrong(found) == where
        assert all(x.worst_token == x.worst_channel == 0 for x in found if x.ok)

    @pytest.mark.parametrize("name", FAULTS)
    def test_fails_the_gates_of_the_whole_model(self, name: str, package: Path) -> None:
        model = read_graph(package / GRAPH)
        FAULTS[name][0](model, (package / GRAPH).parent)
        gates = load_domain("legal").chain.gate
        assert found_by(whole(package, model, [IDS]), gates, soft=True) == "yes"

    def test_of_nothing_passes_them(self, package: Path) -> None:
        compared = whole(package, read_graph(package / GRAPH), [IDS])
        assert found_by(compared, load_domain("legal").chain.gate, soft=True) == "no"

    @pytest.mark.slow
    def test_is_found_in_the_browser_where_the_intact_model_passes(
        self, browser: Path, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a second page, which a large model needs at times."""
        folder, model = (package / GRAPH).parent, read_graph(package / GRAPH)
        with in_browser.pieces_in_browser(browser, folder, CEILING_SECONDS, False) as run:
            with monkeypatch.context() as patch:
                patch.setattr(in_browser, "RENEW_BYTES", 0)
                next(compare_pieces(package, [IDS], cut(model), run))
            assert wrong(compared(package, cut(read_graph(package / GRAPH)), run)) == []
            for name in IN_THE_BROWSER:
                fault, where = FAULTS[name]
                assert wrong(compared(package, planted(package, fault), run)) == where, name

    @pytest.mark.slow
    def test_a_page_that_does_not_answer_is_ended(
        self, browser: Path, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_browser, "GRACE_SECONDS", 0)
        found = compare_layers(package, browser, [IDS], 0)
        assert found.error == "the page did not answer in time; the browser was ended"

    @pytest.mark.slow
    def test_of_the_file_that_the_browser_gets_is_named(
        self, browser: Path, package: Path, tmp_path: Path
    ) -> None:
        spoilt = copied(package, tmp_path / "spoilt")
        scale_tensor(spoilt, "q4", "model.layers.2.mlp.gate_proj.weight_scales", 2)
        said: list[str] = []
        found = compare_layers(package, browser, [IDS], CEILING_SECONDS, said.append, spoilt)
        assert found.error is None and len(found.layers) == found.pieces == len(said) == 5
        assert str(found.fault).startswith("layer 2 differs by ")
        assert not found.proven


@contextmanager
def on_the_cpu(_: Path, folder: Path, seconds: float, hardware: bool) -> Iterator[Runner]:
    """In the browser's place."""
    yield partial(run_on_cpu, folder=folder)


@contextmanager
def failing(*_: object, wrong: bool = False) -> Iterator[Runner]:
    def run(piece: Piece, feeds: Arrays) -> Arrays:
        words = f"{piece.name}: device_lost: the GPU device was lost"
        raise in_browser.BrowserFailed(words, wrong=wrong)

    yield run


class TestTheResult:
    def test_is_proven_where_all_pieces_agree(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_browser, "pieces_in_browser", on_the_cpu)
        found = compare_layers(package, Path("browser"), [IDS], 1000)
        assert found.proven and (found.error, found.fault) == (None, None)

    def test_is_not_where_the_time_was_short(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_browser, "pieces_in_browser", on_the_cpu)
        found = compare_layers(package, Path("browser"), [IDS], 0)
        assert not found.proven and found.fault is None
        assert found.error == "only 1 of 5 pieces were compared within the time"

    def test_nor_where_a_piece_could_not_be_run(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_browser, "pieces_in_browser", failing)
        found = compare_layers(package, Path("browser"), [IDS], 1000)
        assert not found.proven and found.fault is None
        assert found.error == "embeddings: device_lost: the GPU device was lost"

    def test_is_a_fault_where_the_gpu_refuses_a_piece(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_browser, "pieces_in_browser", partial(failing, wrong=True))
        found = compare_layers(package, Path("browser"), [IDS], 1000)
        assert found.error and found.fault == found.error and not found.proven

    def test_names_the_worst_first_and_not_all(self) -> None:
        layers = [layer(f"layer {i}", 10.0 ** (i - 5)) for i in range(6)]
        result = LayersResult(layers=[*layers, layer("head", np.inf)], pieces=7)
        assert result.fault == (
            "head gives what is not a number, layer 5 differs by 1, layer 4 differs by 1e-1, 3 more"
        )
        assert LayersResult.model_validate_json(result.model_dump_json()) == result


def layer(name: str, token: float) -> Layer:
    ok = token <= 1e-5
    return Layer(name=name, worst_token=token, worst_channel=0, seconds=1, ok=ok)


class TestRelativeErrors:
    def test_are_of_a_tokens_vector_and_of_a_channel(self) -> None:
        right = np.array([[[3.0, 4.0], [0.0, 5.0]]])
        found = np.array([[[3.0, 4.0], [0.0, 5.5]]])
        token, channel = relative_errors(found, right)
        assert token == pytest.approx(0.1) and channel == pytest.approx(0.5 / 41**0.5)

    def test_gather_the_heads_of_a_tokens_keys(self) -> None:
        right = np.ones((1, 2, 3, 2))
        found = right.copy()
        found[0, 1, 2, 0] += 1
        assert relative_errors(found, right) == (pytest.approx(0.5), pytest.approx(3**-0.5))

    @pytest.mark.parametrize("broken", [np.nan, np.inf])
    def test_are_beyond_bounds_where_something_is_not_a_number(self, broken: float) -> None:
        right = np.array([[1.0, 2.0]])
        assert relative_errors(np.array([[1.0, broken]]), right) == (np.inf, np.inf)

    def test_and_where_something_came_of_nothing_or_has_another_shape(self) -> None:
        assert relative_errors(np.ones((1, 2)), np.zeros((1, 2))) == (np.inf, np.inf)
        assert relative_errors(np.ones((1, 2)), np.ones((2, 1))) == (np.inf, np.inf)
        assert relative_errors(np.zeros((1, 2)), np.zeros((1, 2))) == (0, 0)
