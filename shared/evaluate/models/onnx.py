"""Feed a packaged graph a given text, token by token or at once, on onnxruntime's CPU provider.

Teacher forcing: the text is given, only the predictions are looked at, so that one different token
does not change all that comes after it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from shared.base.errors import RungFailed
from shared.evaluate.models.session import session_options

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class ForcedModel:
    """A decoder graph with its cache: inputs input_ids, attention_mask, [position_ids], past."""

    def __init__(self, graph: Path, *, exact: bool = False) -> None:
        """`exact` switches off the int8 rounding of activations that the CPU uses for speed
        (MatMulNBits's accuracy_level 4) and that no browser does alike.

        Raises RungFailed where onnxruntime cannot load the graph.
        """
        options = session_options(graph.parent)
        model = _without_int8(graph) if exact else str(graph)
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            first = str(error).splitlines()[0]
            raise RungFailed(f"onnxruntime cannot load {graph.name}: {first}") from error
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._length = 0
        self._cache: dict[str, np.ndarray] = {}
        self.read = np.empty(0, np.int64)
        """Room for whoever feeds it to remember what the cache holds."""
        self.reset()

    @property
    def length(self) -> int:
        """How many tokens the cache holds."""
        return self._length

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if length < self._length:
            self._length = length
            self._cache = {
                name: np.ascontiguousarray(value[:, :, :length])
                for name, value in self._cache.items()
            }

    def reset(self) -> None:
        """Forget the text so far."""
        self._length = 0
        self._cache = {
            name: np.zeros((1, i.shape[1], 0, i.shape[3]), FLOATS[i.type])
            for name, i in self._inputs.items()
            if name.startswith("past_key_values")
        }

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), vocab] float32 after each of `ids`, which continue the text so far."""
        end = self._length + len(ids)
        feeds: dict[str, Any] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
        }
        if "position_ids" in self._inputs:
            feeds["position_ids"] = np.arange(self._length, end, dtype=np.int64)[None]
        values = self._session.run(self._outputs, feeds | self._cache)
        named = dict(zip(self._outputs, values, strict=True))
        self._cache = {
            name.replace("present", "past_key_values"): value
            for name, value in named.items()
            if name.startswith("present")
        }
        self._length = end
        return np.asarray(named["logits"][0], np.float32)

    def decode_speed(self, prompt: Sequence[int], tokens: int) -> float:
        """Greedy decode tokens/s after `prompt`, `tokens` of them."""
        self.reset()
        last = self.feed(prompt)[-1]
        started = time.perf_counter()
        for _ in range(tokens):
            last = self.feed([int(last.argmax())])[-1]
        return tokens / (time.perf_counter() - started)


def _without_int8(graph: Path) -> bytes:
    """The graph with accuracy_level 1 (float32 activations); its weights stay where they are."""
    model = onnx.load(graph, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    return model.SerializeToString()
