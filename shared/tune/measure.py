"""What a build keeps of its parent: KL divergence, agreement and perplexity, record by record.

Both models read the held-out records in chat form, answer included. Only what differs between the
records is counted: the system prompt, the same in each, would count many times over. Tokens of one
record go together, so that standard errors are those of a sample of records (clustered).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from shared.evaluate.fidelity import compare_logits
from shared.evaluate.forced import ForcedModel
from shared.manifest import Measurement
from shared.olive.calibration import common_start

WEIGHTS = ("_q4", "_scales", "_zeros", "weight", "bias")


@dataclass(frozen=True)
class Text:
    """Token ids of one record; predictions before position `start` are not counted."""

    ids: list[int]
    start: int

    @property
    def targets(self) -> np.ndarray:
        """The tokens that were to be predicted."""
        return np.array(self.ids[self.start + 1 :])


class Parent:
    """The 16-bit model's logits on all texts, computed once; about 200 KB a token and held."""

    def __init__(self, folder: Path, texts: Sequence[list[int]]) -> None:
        start = max(0, common_start(texts) - 1)
        self.texts = [Text(ids, start) for ids in texts]
        self._folder = folder
        self._logits: list[np.ndarray] = []

    @property
    def logits(self) -> list[np.ndarray]:
        """[counted tokens, vocabulary] float32 of each text."""
        if not self._logits:
            model = _load(self._folder)
            self._logits = [_logits(model, text.ids)[text.start : -1] for text in self.texts]
        return self._logits


def _load(folder: Path) -> Any:
    """The parent in PyTorch: in float32 where its weights are under 2 GB, else in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    dtype = torch.float32 if size < 2_000_000_000 else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


def _logits(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return np.asarray(model(torch.tensor([ids])).logits[0].float().numpy())


def measure(graph: Path, parent: Parent) -> dict[str, Measurement]:
    """`kl_divergence`, `agreement`, `perplexity`, `parent_perplexity`, `perplexity_ratio`."""
    model = ForcedModel(graph)
    divergence, agreement, ours, theirs = [], [], [], []
    if shared := parent.texts[0].ids[: parent.texts[0].start]:
        model.feed(shared)
    beginning = model.mark()
    for text, expected in zip(parent.texts, parent.logits, strict=True):
        model.back_to(beginning)
        logits = model.feed(text.ids[text.start :])[:-1]
        loss, same = compare_logits(expected, logits)
        divergence.append(loss)
        agreement.append(same)
        ours.append(_surprise(logits, text.targets))
        theirs.append(_surprise(expected, text.targets))
    how = "teacher-forced on held-out records, q4f16 on the CPU against PyTorch on the parent"
    more = [a - b for a, b in zip(ours, theirs, strict=True)]
    ratio, tokens = math.exp(_mean(more)), sum(map(len, more))

    def made(value: float, unit: str, error: float | None = None) -> Measurement:
        return Measurement(value=value, unit=unit, how=how, n=tokens, standard_error=error)

    return {
        "kl_divergence": made(_mean(divergence), "nats/token", _error(divergence)),
        "agreement": made(_mean(agreement), "share", _error(agreement)),
        "perplexity": made(math.exp(_mean(ours)), ""),
        "parent_perplexity": made(math.exp(_mean(theirs)), ""),
        "perplexity_ratio": made(ratio, "", ratio * _error(more)),
    }


def _surprise(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """−ln p of each target, [tokens]."""
    highest = logits.max(axis=-1, keepdims=True).astype(np.float64)
    total = np.log(np.exp(logits - highest).sum(axis=-1)) + highest[:, 0]
    return np.asarray(total - logits[np.arange(len(targets)), targets])


def _mean(parts: Sequence[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def _error(parts: Sequence[np.ndarray]) -> float:
    """Standard error of the mean over all tokens where records, not tokens, were drawn."""
    mean, count = _mean(parts), len(parts)
    spread = sum(float((part - mean).sum()) ** 2 for part in parts)
    tokens = sum(map(len, parts))
    return math.sqrt(spread * count / max(1, count - 1)) / tokens


def weight_bits(graph: Path) -> int:
    """Bits of all weights, scales and zero points; tables that the graph computes with are not."""
    model = onnx.load(graph, load_external_data=False)
    return 8 * sum(_bytes(t) for t in model.graph.initializer if t.name.endswith(WEIGHTS))


def _bytes(tensor: onnx.TensorProto) -> int:
    place: dict[str, Any] = {entry.key: entry.value for entry in tensor.external_data}
    return int(place["length"]) if "length" in place else len(tensor.raw_data)


def decode_speeds(graphs: dict[str, Path], ids: list[int], rounds: int = 3) -> dict[str, float]:
    """Greedy tokens/s of each on the CPU: the best of some rounds taken in turn, so that other work
    on the machine does not hit one of them alone."""
    best = dict.fromkeys(graphs, 0.0)
    for _ in range(rounds):
        for name, graph in graphs.items():
            best[name] = max(best[name], ForcedModel(graph).decode_speed(ids[:32], 32))
    return best
