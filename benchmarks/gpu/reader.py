"""Runs where the GPU is, once for each graph: reads token ids on the CPU or on WebGPU, and measures.

A job comes as JSON on stdin; each figure leaves as a line of JSON as soon as it is known, so that a run
that is ended keeps what it measured. Dawn bears one session in a process, and the CPU's reading of a
file is done before, in another.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from shared.webgpu_bench.engines.webgpu_child import FLOATS, Model, by_provider, session

PARITY = {"parity_kl": "nats/token", "parity_top1": "share", "parity_logits": "relative"}
LATE = "the time was up when"


class Late(Exception):
    """The time is up."""


def main() -> None:
    """Do the job; leave without Python's own ending, whose order is not Dawn's."""
    job: dict[str, Any] = json.load(sys.stdin)
    {"cpu": read_on_cpu, "webgpu": measure}[job["on"]](job)
    sys.stdout.flush()
    os._exit(0)


def read_on_cpu(job: dict[str, Any]) -> None:
    """The logits [positions, vocab] that onnxruntime's CPU computes go to the file `reference`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    made = ort.InferenceSession(job["graph"], options, providers=["CPUExecutionProvider"])
    found = Model(made, "cpu").logits(job["ids"][: job["positions"]])
    file = Path(job["reference"])
    unfinished = file.with_name(f".{file.name}")
    with unfinished.open("wb") as out:
        np.save(out, found)
    unfinished.rename(file)


def measure(job: dict[str, Any]) -> None:
    """Load, then parity, prefill, and decoding at each depth; what the time does not allow is said."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        made = session(job["graph"], str(Path(folder) / "profile"))
        say("load_seconds", time.perf_counter() - started, "s")
        model = Model(made)
        model.feed(job["ids"][:1])
        kernels = by_provider(json.loads(Path(made.end_profiling()).read_text(encoding="utf-8")))
    print(json.dumps({"kernels": kernels, "version": ort.__version__}), flush=True)
    Reader(model, job).all()


class Reader:
    """One graph's figures, in the order of what they are worth."""

    def __init__(self, model: Model, job: dict[str, Any]) -> None:
        self.model, self.job, self.ids = model, job, job["ids"]
        self.until = time.perf_counter() + job["seconds"]

    def all(self) -> None:
        steps: list[tuple[Sequence[str], Callable[[], None]]] = [(tuple(PARITY), self.parity)]
        steps += [(("prefill",), self.prefill)]
        steps += [((f"decode_{d}",), partial(self.decode, d)) for d in self.job["depths"]]
        for names, step in steps:
            try:
                step()
            except Late:
                for name in names:
                    say(name, None, "", reason=f"{LATE} {self.model.length:,} tokens were read")

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Logits after each of `ids`, read in one pass."""
        if time.perf_counter() > self.until:
            raise Late
        return self.model.logits(list(ids))

    def parity(self) -> None:
        """The first positions compared with the CPU's; the last `single` ones read one by one."""
        right = np.load(self.job["reference"], allow_pickle=False)
        self.model.reset()
        first = len(right) - self.job["single"]
        passes = [self.ids[:first], *([i] for i in self.ids[first : len(right)])]
        read: list[np.ndarray] = []
        try:
            for ids in filter(None, passes):
                read.append(self.feed(ids))
        except Late:
            if not read:
                raise
        found = np.concatenate(read)
        for name, (value, more) in compared(found, right[: len(found)]).items():
            say(name, value, PARITY[name], **more)

    def prefill(self) -> None:
        """Tokens/s of a prompt of one pass; a first one warms up, since it compiles kernels."""
        prompt, speeds = self.ids[: self.job["prompt"]], []
        for number in range(-self.job["warm_up"], self.job["times"]):
            if time.perf_counter() > self.until:
                break
            self.model.reset()
            began = time.perf_counter()
            self.model.logits(prompt)
            if number >= 0:
                speeds.append(len(prompt) / (time.perf_counter() - began))
        if not speeds:
            raise Late
        say("prefill", float(np.mean(speeds)), "tokens/s", samples=speeds, n=len(prompt))

    def decode(self, depth: int) -> None:
        """Tokens/s, one token after the other, behind so many others."""
        skip(self.model, depth)
        if time.perf_counter() > self.until:
            raise Late
        last, speeds = self.model.feed(self.ids[:1]), []
        for _ in range(self.job["tokens"]):
            if time.perf_counter() > self.until:
                break
            began = time.perf_counter()
            last = self.model.feed([last])
            speeds.append(1 / (time.perf_counter() - began))
        if not speeds:
            raise Late
        mean = len(speeds) / sum(1 / speed for speed in speeds)
        say(f"decode_{depth}", mean, "tokens/s", samples=speeds, n=len(speeds))


def skip(model: Model, tokens: int) -> None:
    """As if `tokens` others had been read: zeros stand in the cache, whose number alone takes time."""
    model.reset()
    for name, spec in model.inputs.items():
        if tokens and name.startswith("past_key_values"):
            zeros = np.zeros((1, spec.shape[1], tokens, spec.shape[3]), FLOATS[spec.type])
            model.cache[name] = ort.OrtValue.ortvalue_from_numpy(zeros)
    model.length = tokens


def compared(
    found: np.ndarray, right: np.ndarray
) -> dict[str, tuple[float | None, dict[str, Any]]]:
    """PARITY's figures of logits [n, vocab] against the CPU's, over the whole vocabulary.

    Mean KL(CPU ‖ WebGPU), share of positions with the same likeliest token, and the largest difference
    of a logit over the position's largest one, worst position.
    """
    theirs, ours = found.astype(np.float64), right.astype(np.float64)
    if not np.isfinite(theirs).all():
        wrong: dict[str, Any] = {"reason": "WebGPU computed logits that are not numbers"}
        return dict.fromkeys(PARITY, (None, wrong))
    log_p, log_q = log_softmax(ours), log_softmax(theirs)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    same = (theirs.argmax(axis=-1) == ours.argmax(axis=-1)).mean()
    error = (np.abs(theirs - ours).max(axis=-1) / np.abs(ours).max(axis=-1)).max()
    n = {"n": len(ours)}
    values = (max(float(divergence.mean()), 0.0), float(same), float(error))
    return {name: (value, n) for name, value in zip(PARITY, values, strict=True)}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """As shared/evaluate/distribution.py has it, which wants scipy: that does not come along."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def say(name: str, value: float | None, unit: str, **more: Any) -> None:
    print(json.dumps({"name": name, "figure": {"value": value, "unit": unit, **more}}), flush=True)


if __name__ == "__main__":
    main()
