"""onnxruntime on the CPU: a packaged graph decodes a given text (teacher forcing).

Only the predictions are looked at, so that one different token does not change all that follows it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from shared.base.cpu import allotted_cores
from shared.base.errors import RungFailed, of_this_machine

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
SPINNING = "session.intra_op.allow_spinning"
"""Threads that wait by turning in circles take the cores that other workers would use."""


def session_options(folder: Path) -> ort.SessionOptions:
    """For a graph with its data in `folder`, on as many cores as this process was given."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    if count := allotted_cores():
        options.intra_op_num_threads = count
        options.add_session_config_entry(SPINNING, "0")
    return options


def set_exact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without the int8 rounding of activations that the CPU uses for speed
    (MatMulNBits's accuracy_level 4 becomes 1): WebGPU rounds in blocks of another size, or not at
    all."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    return model


class OnnxDecoder:
    """A decoder graph with its cache: inputs input_ids, attention_mask, [position_ids], past."""

    def __init__(self, graph: Path, *, exact: bool = False, model: bytes | None = None) -> None:
        """`exact`: see `set_exact`; `model`: read in place of the file, whose data it uses.

        Raises RungFailed where onnxruntime cannot load the graph.
        """
        if exact:
            model = set_exact(onnx.load(graph, load_external_data=False)).SerializeToString()
        try:
            self._session = ort.InferenceSession(
                model or str(graph),
                session_options(graph.parent),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            if of_this_machine(error):  # want of memory says nothing of the graph
                raise
            first = str(error).splitlines()[0]
            raise RungFailed(f"onnxruntime cannot load {graph.name}: {first}") from error
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._cache: dict[str, np.ndarray] = {}
        self.ids: list[int] = []
        """The text so far, which the cache holds."""
        self.reset()

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if length < len(self.ids):
            del self.ids[length:]
            self._cache = {
                name: np.ascontiguousarray(value[:, :, :length])
                for name, value in self._cache.items()
            }

    def reset(self) -> None:
        """Forget the text so far."""
        self.ids = []
        self._cache = {
            name: np.zeros((1, i.shape[1], 0, i.shape[3]), FLOATS[i.type])
            for name, i in self._inputs.items()
            if name.startswith("past_key_values")
        }

    def run(self, outputs: Sequence[str], ids: Sequence[int]) -> list[Any]:
        """The named outputs for `ids`, which continue the text so far; the cache is left as it is."""
        start, end = len(self.ids), len(self.ids) + len(ids)
        feeds: dict[str, Any] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
        }
        if "position_ids" in self._inputs:
            feeds["position_ids"] = np.arange(start, end, dtype=np.int64)[None]
        return list(self._session.run(outputs, feeds | self._cache))

    def advance(self, outputs: Sequence[str], ids: Sequence[int]) -> list[Any]:
        """The named outputs for `ids`, which continue the text so far and are of it afterwards."""
        caches = [name.replace("past_key_values", "present") for name in self._cache]
        found = self.run([*outputs, *caches], ids)
        self._cache = dict(zip(self._cache, found[len(outputs) :], strict=True))
        self.ids += ids
        return found[: len(outputs)]

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), vocab] float32 after each of `ids`, which continue the text so far."""
        (logits,) = self.advance(["logits"], ids)
        return np.asarray(logits[0], np.float32)

    def decode_speed(self, prompt: Sequence[int], tokens: int) -> float:
        """Greedy decode tokens/s after `prompt`, `tokens` of them."""
        self.reset()
        last = self.feed(prompt)[-1]
        started = time.perf_counter()
        for _ in range(tokens):
            last = self.feed([int(last.argmax())])[-1]
        return tokens / (time.perf_counter() - started)
