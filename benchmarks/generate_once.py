"""Load a built folder in onnxruntime-genai on the CPU and generate 16 tokens: FOLDER."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import onnxruntime_genai as og

from shared.base.cpu import physical_cores

NEW_TOKENS = 16


def main(folder: str) -> None:
    (graph,) = Path(folder).glob("*.onnx")
    config = og.Config(folder)
    config.clear_providers()
    options = {"intra_op_num_threads": physical_cores()}
    decoder = {"decoder": {"filename": graph.name, "session_options": options}}
    config.overlay(json.dumps({"model": decoder}))
    started = time.perf_counter()
    model = og.Model(config)
    loaded = time.perf_counter() - started
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=8 + NEW_TOKENS, min_length=8 + NEW_TOKENS)
    generator = og.Generator(model, parameters)
    generator.append_tokens([1, 5, 9, 13, 17, 21, 25, 29])
    started = time.perf_counter()
    while not generator.is_done():
        generator.generate_next_token()
    speed = NEW_TOKENS / (time.perf_counter() - started)
    print(f"loaded in {loaded:.1f} s, {speed:.1f} tokens/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
