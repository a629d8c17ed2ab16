"""A domain of a family in both runtimes: as a package of its own, or the graph that takes adapters."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
from safetensors.numpy import load_file

from shared.base.parsing import read_json
from shared.evaluate.models.chat import Answer, Chat, cut_at, room
from shared.evaluate.models.forced import Forced
from shared.evaluate.models.genai import GenaiModel, genai_options
from shared.evaluate.models.onnx import FLOATS, OnnxDecoder
from shared.olive.family_record import FILES, SWAP, adapter_file

DTYPE = "q4f16"


class SwappedDecoder(OnnxDecoder):
    """onnxruntime with the tensors of one domain's adapter given at every run."""

    def __init__(self, family: Path, domain: str, *, exact: bool = False) -> None:
        super().__init__(family / "onnx" / f"{SWAP}_{DTYPE}.onnx", exact=exact)
        tensors = load_file(family / adapter_file(domain))
        types = {name: FLOATS.get(i.type) for name, i in self._inputs.items()}
        given = {
            name: tensor.astype(types[name] or tensor.dtype) for name, tensor in tensors.items()
        }
        self._session = _Giving(self._session, given)


class _Giving:
    """A session that gets some inputs beside those of each run."""

    def __init__(self, session: Any, given: Mapping[str, np.ndarray]) -> None:
        self._session, self._given = session, given

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> Any:
        return self._session.run(outputs, {**feeds, **self._given})


class FamilyModel(GenaiModel):
    """onnxruntime-genai: a package, or with `domain` a family's folder with that adapter active."""

    def __init__(self, folder: Path, domain: str | None = None) -> None:
        config = og.Config(str(folder))
        config.clear_providers()
        graph = f"onnx/{SWAP if domain else 'model'}_{DTYPE}.onnx"
        decoder = {"filename": graph, "session_options": genai_options()}
        config.overlay(json.dumps({"model": {"decoder": decoder}}))
        self.model, self.chat = og.Model(config), Chat(folder)
        self.stop, told = self.chat.stop, read_json(folder / "genai_config.json")
        self.context_length = int(told["model"]["context_length"])
        self._active = domain
        if domain:
            self._adapters = og.Adapters(self.model)
            self.take_in(folder, domain)

    def take_in(self, family: Path, domain: str) -> None:
        """Load a domain's adapter beside those that are there; it answers from now on."""
        file = f"adapters/{domain}{Path(FILES[2]).suffix}"
        self._adapters.load(str(family / file), domain)
        self._active = domain

    def held(
        self, prompts: Sequence[Sequence[int]], limit: int, grammar: str, prefix: Sequence[int]
    ) -> list[Answer]:
        """Answers under a grammar as a release's are: forced text unasked, read in the same passes.
        `prefix`: shared.evaluate.models.chat.prompt_prefix."""
        forced = Forced.under(grammar, self.chat, self.stop, on=None)
        found = list[Answer]()
        for prompt in prompts:
            most = room(len(prompt), limit, self.context_length)
            begun, begins = self._begun(len(prompt) + most), cut_at(prompt, prefix)
            rest = list(prompt[len(begins) :])
            if begins:
                begun.append_tokens(begins)
            found.append(self._held(begun, rest, most, time.perf_counter(), forced))
        return found

    def free(self, prompt: Sequence[int], limit: int) -> Answer:
        """The greedy answer to one prompt."""
        begun = self._begun(len(prompt) + limit)
        return self._free(begun, list(prompt), limit, time.perf_counter())

    def speed(self, prompt: Sequence[int], tokens: int) -> float:
        """Greedy decode tokens/s after the prompt; the first token belongs to it."""
        length = len(prompt) + tokens + 1
        generator = self._begun(length, min_length=length)
        generator.append_tokens(list(prompt))
        generator.generate_next_token()
        began, count = time.perf_counter(), 0
        while not generator.is_done() and count < tokens:
            generator.generate_next_token()
            count += 1
        return count / (time.perf_counter() - began)

    def _begun(self, length: int, **more: int) -> Any:
        parameters = og.GeneratorParams(self.model)
        parameters.set_search_options(max_length=length, do_sample=False, **more)
        generator = og.Generator(self.model, parameters)
        if self._active:
            generator.set_active_adapter(self._adapters, self._active)
        return generator
