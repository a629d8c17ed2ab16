"""Cosine of a graph's logits with PyTorch's, on a small random model written without quantisation."""

import dataclasses
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from transformers import AutoModelForCausalLM

from shared.base.errors import RungFailed
from shared.olive.graph.mobius import BareGraph, bare_graph
from shared.olive.graph.small_config import VOCABULARY
from shared.olive.graph.weights import Int4Options, write_int4
from shared.source.weights import load_weights

TOKENS = 48
PROMPT = 5
LINEAR_GAIN = 1.5
VECTOR_SPREAD = 0.3
EMBEDDING_SPREAD = 0.2

INPUTS = ("input_ids", "attention_mask", "past_key_values.")
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Agreement:
    """The least cosine over all positions: the text at once, and token by token after a prompt.

    The cosine counts the length too (2ab / (aa + bb)): logits twice as large are another model.
    """

    prefill: float
    decode: float

    @property
    def least(self) -> float:
        return min(self.prefill, self.decode)


class Sample:
    """A random model of a configuration, saved as any source is, and its graphs."""

    def __init__(self, config: Any, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.model = random_model(config)
        self.model.save_pretrained(folder)
        self._graphs: dict[str, BareGraph] = {}

    def session(self, name: str, dtype: str, options: Int4Options) -> ort.InferenceSession:
        """The graph of a float type, "f16" or "f32", written to `name` and loaded."""
        if dtype not in self._graphs:
            self._graphs[dtype] = bare_graph(self.config, dtype)
        proto = onnx.ModelProto()
        proto.CopyFrom(self._graphs[dtype].proto)  # writing changes it
        graph = dataclasses.replace(self._graphs[dtype], proto=proto)
        write_int4(graph, load_weights(self.folder), self.folder / name, options)
        return load(self.folder / name)


@contextmanager
def sample(config: Any) -> Iterator[Sample]:
    """A sample in a folder of its own, which goes afterwards."""
    with tempfile.TemporaryDirectory() as name, silence():
        yield Sample(config, Path(name))


def compare(made: Sample, *, prefill_alone: bool = False) -> Agreement:
    """Compare the graph without quantisation with PyTorch's model, in float32.

    `prefill_alone` saves the steps: where the text at once disagrees, they say no more.
    Raises RungFailed where there is no graph, or none that onnxruntime loads and runs.
    """
    session = made.session("exact.onnx", "f32", Int4Options(quantize=False))
    ids = _text(made.config)
    prefill = least_cosine(feed(session, [ids]), _torch(made.model, [ids]))
    if prefill_alone:
        return Agreement(prefill, prefill)
    steps = [ids[:PROMPT], *([token] for token in ids[PROMPT:])]
    return Agreement(prefill, least_cosine(feed(session, steps), _torch(made.model, steps)))


def random_model(config: Any) -> Any:
    """PyTorch's model with random weights that leave nothing at 0 or 1, norms and biases too."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        ).eval()
        saved = model.state_dict()
        for value in {v.data_ptr(): v for v in saved.values() if v.is_floating_point()}.values():
            if value.ndim < 2:
                value.add_(torch.randn_like(value) * VECTOR_SPREAD)
            else:
                value.normal_(std=LINEAR_GAIN / value.shape[-1] ** 0.5)
        model.get_input_embeddings().weight.normal_(std=EMBEDDING_SPREAD)
    return model


def load(file: Path) -> ort.InferenceSession:
    """A session on the CPU; RungFailed where onnxruntime refuses the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise RungFailed(f"the graph does not load: {_runtime_reason(error)}") from error
    odd = [i.name for i in session.get_inputs() if not i.name.startswith(INPUTS)]
    if odd:
        raise RungFailed(f"the graph wants the input {odd[0]!r}, which no browser gives it")
    return session


def feed(session: ort.InferenceSession, pieces: Sequence[Sequence[int]]) -> np.ndarray:
    """Logits [tokens, vocabulary] float32 for a text that is fed piece by piece."""
    names = [output.name for output in session.get_outputs()]
    past = {
        i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), FLOATS[i.type])
        for i in session.get_inputs()
        if i.name.startswith("past")
    }
    length, rows = 0, []
    for piece in pieces:
        length += len(piece)
        feeds = {"input_ids": np.array([piece]), "attention_mask": np.ones((1, length), np.int64)}
        try:
            values = session.run(names, feeds | past)
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise RungFailed(f"the graph does not run: {_runtime_reason(error)}") from error
        made = dict(zip(names, values, strict=True))
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
        rows.append(np.asarray(made["logits"], np.float32)[0])
    return np.concatenate(rows)


def _torch(model: Any, pieces: Sequence[Sequence[int]]) -> np.ndarray:
    rows, past = [], None
    with torch.no_grad():
        for piece in pieces:
            out = model(torch.tensor([piece]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            rows.append(out.logits[0].float().numpy())
    return np.concatenate(rows)


def _text(config: Any) -> list[int]:
    """Random tokens, as many as the context takes."""
    context = getattr(config, "max_position_embeddings", None) or TOKENS
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCABULARY, (min(TOKENS, context),), generator=generator).tolist()


def least_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The least over all rows of 2ab / (aa + bb); 0 where a number is not finite."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if not np.isfinite(a).all():
        return 0.0
    return float((2 * (a * b).sum(-1) / ((a * a).sum(-1) + (b * b).sum(-1))).min())


def first_line(error: BaseException) -> str:
    """The kind of an error and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _runtime_reason(error: BaseException) -> str:
    """The end of onnxruntime's sentence, after node, types and the file's path."""
    text = " ".join(str(error).split())
    for mark in ("Status Message: ", ", Error ", "ShapeInferenceError] ", "failed:"):
        if mark in text:
            return text.rsplit(mark, 1)[1][:200]
    return text[:200]


class silence:
    """No warnings, no progress: what a random miniature lacks is nobody's concern."""

    def __enter__(self) -> None:
        self._level = _transformers.level
        _transformers.setLevel(logging.ERROR)
        self._parts = (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        )
        for part in self._parts:
            part.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        for part in reversed(self._parts):
            part.__exit__(None, None, None)
        _transformers.setLevel(self._level)


_transformers = logging.getLogger("transformers")
