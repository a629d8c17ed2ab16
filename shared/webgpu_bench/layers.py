"""WebGPU compared with the CPU layer by layer: which layer of a model computes something else.

Each piece of the graph (cut.py) runs in the browser on the hidden states that the CPU's run of the
pieces before it gave, so that a fault shows in its own layer only. Both compute in float32, where two
right runtimes differ by rounding alone.

>>> compare_layers(package, browser, rows, seconds=300).fault
'layer 17 differs by 6e-4'
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field

from shared.base.manifest import Strict
from shared.webgpu_bench.cut import Arrays, Piece, chain, cut, first_feeds, read_graph

WORST_TOKEN, WORST_CHANNEL = 1e-5, 3e-5
WHOLE = 2e-5
"""The whole model's relative error of a logit past which it is looked at layer by layer: the gate's."""
POSITIONS = 32
GRAPH = Path("onnx", "model_q4.onnx")
NAMED = 3
"""So many layers does a sentence name."""

Runner = Callable[[Piece, Arrays], Arrays]
Progress = Callable[[str], None]


class Layer(Strict):
    """One piece: the largest relative errors of a token's vector and of a channel over all tokens."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: str
    worst_token: float
    worst_channel: float
    seconds: float
    ok: bool


class LayersResult(Strict):
    """The pieces compared, of `pieces` in all; `error`: why one could not be run, or was not;
    `refused`: the GPU would not run it."""

    layers: list[Layer] = Field(default_factory=list)
    pieces: int
    error: str | None = None
    refused: bool = False

    @property
    def fault(self) -> str | None:
        """What was seen wrong, worst first; None where nothing was."""
        if self.refused:
            return self.error
        wrong = sorted((x for x in self.layers if not x.ok), key=lambda x: -x.worst_token)
        more = [f"{len(wrong) - NAMED} more"] if len(wrong) > NAMED else []
        return ", ".join([*map(_difference, wrong[:NAMED]), *more]) or None

    @property
    def proven(self) -> bool:
        """Whether all pieces were compared and agree."""
        return len(self.layers) == self.pieces and self.error is None and self.fault is None


def _difference(layer: Layer) -> str:
    if not np.isfinite(layer.worst_token):
        return f"{layer.name} gives what is not a number"
    size = max(layer.worst_token, layer.worst_channel * WORST_TOKEN / WORST_CHANNEL)
    shown = f"{size:.0e}".replace("e-0", "e-").replace("e+00", "")
    return f"{layer.name} differs by {shown}"


def compare_layers(
    package: Path,
    browser: Path,
    rows: Sequence[Sequence[int]],
    seconds: float,
    on_progress: Progress = lambda line: None,
    served: Path | None = None,
    *,
    hardware: bool = False,
) -> LayersResult:
    """The package's q4 graph, piece by piece, in the browser and on the CPU, until the time is up.

    Both read the first POSITIONS ids of the first row. `served`: the package that the browser gets
    in its place; the CPU reads the right one.
    """
    from shared.webgpu_bench.pieces_in_browser import BrowserFailed, pieces_in_browser

    end = time.monotonic() + seconds
    theirs = cut(read_graph((served or package) / GRAPH))
    result = LayersResult(pieces=len(theirs))
    try:
        with pieces_in_browser(browser, (served or package) / "onnx", seconds, hardware) as run:
            for layer in compare_pieces(package, rows, theirs, run):
                result.layers.append(layer)
                on_progress(f"{layer.name}: {layer.worst_token:.0e} ({layer.seconds:.1f} s)")
                longest = max(x.seconds for x in result.layers)
                if time.monotonic() + longest > end:
                    break
    except BrowserFailed as error:
        result.error, result.refused = str(error), error.wrong
    if len(result.layers) < result.pieces and result.error is None:
        done = f"only {len(result.layers)} of {result.pieces} pieces"
        result.error = f"{done} were compared within the time"
    return result


def compare_pieces(
    package: Path, rows: Sequence[Sequence[int]], theirs: Sequence[Piece], run: Runner
) -> Iterator[Layer]:
    """Run each of `theirs` on what the CPU gave the package's own piece, and compare the outputs."""
    model = read_graph(package / GRAPH)
    pieces = cut(model)
    ids = np.array([rows[0][:POSITIONS]], np.int64)
    began = time.monotonic()
    computed = chain(pieces, first_feeds(model, ids), package / "onnx")
    for piece, (given, right) in zip(theirs, computed, strict=True):
        found = run(piece, given)
        errors = [relative_errors(found[name], value) for name, value in right.items()]
        token, channel = (max(column) for column in zip(*errors, strict=True))
        ok = token <= WORST_TOKEN and channel <= WORST_CHANNEL
        took = time.monotonic() - began
        yield Layer(name=piece.name, worst_token=token, worst_channel=channel, seconds=took, ok=ok)
        began = time.monotonic()


def relative_errors(found: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The largest relative error of a token's vector, and of a channel over all tokens.

    >>> relative_errors(np.array([[3.0, 4.0], [0.0, 5.5]]), np.array([[3.0, 4.0], [0.0, 5.0]]))
    (0.1, 0.078...)
    """
    if found.shape != right.shape:
        return np.inf, np.inf
    a, b = (_by_token(x.astype(np.float64)) for x in (found, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(a == b, 0, a - b)
        errors = [_largest(difference, b, axis) for axis in (1, 0)]
    return errors[0], errors[1]


def _largest(difference: np.ndarray, right: np.ndarray, axis: int) -> float:
    """What is not a number is further off than any number; nothing against nothing is right."""
    off, size = (np.linalg.norm(x, axis=axis) for x in (difference, right))
    return float(
        np.nan_to_num(np.where(off == 0, 0, off / size), nan=np.inf, posinf=np.inf).max(initial=0)
    )


def _by_token(values: np.ndarray) -> np.ndarray:
    """[tokens, channels]; keys and values come as [rows, heads, tokens, channels of a head]."""
    if values.ndim == 4:
        values = values.swapaxes(1, 2).reshape(values.shape[0], values.shape[2], -1)
    return values.reshape(-1, values.shape[-1] if values.ndim else 1)
