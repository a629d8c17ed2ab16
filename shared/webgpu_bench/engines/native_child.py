"""Runs by itself: the questions of a job on stdin to onnxruntime-genai on the CPU, JSON on stdout."""

import json
import sys
import time
from typing import Any

import onnxruntime_genai as og


def main() -> None:
    """Load the model, answer one question after the other while there is time, print it all."""
    job: dict[str, Any] = json.load(sys.stdin)
    started = time.perf_counter()
    config = og.Config(job["package"])
    config.clear_providers()
    decoder = {"session_options": job["session_options"]}
    if job["filename"]:
        decoder |= {"filename": job["filename"]}
    config.overlay(json.dumps({"model": {"decoder": decoder}}))
    model = og.Model(config)
    seconds = time.perf_counter() - started
    until = time.perf_counter() + job["seconds"]
    runs = []
    for question in job["questions"]:
        if time.perf_counter() < until:
            runs.append(answer(model, question, until))
    found = {"load_seconds": seconds, "runs": runs, "version": og.__version__}
    print(json.dumps(found))


def answer(model: Any, question: dict[str, Any], until: float) -> dict[str, Any]:
    """One run, as result.Run has it; min_length keeps a stop token from being chosen."""
    ids, limit = question["input_ids"], question["max_new_tokens"]
    parameters = og.GeneratorParams(model)
    least = len(ids) + question.get("min_new_tokens", 0)
    parameters.set_search_options(max_length=len(ids) + limit, min_length=least, do_sample=False)
    generator = og.Generator(model, parameters)
    last = time.perf_counter()
    generator.append_tokens(ids)
    output: list[int] = []
    times: list[float] = []
    while len(output) < limit and not generator.is_done() and last < until:
        generator.generate_next_token()
        output.append(int(generator.get_next_tokens()[0]))
        now = time.perf_counter()
        times.append(1000 * (now - last))
        last = now
    return {
        "id": question["id"],
        "prompt_tokens": len(ids),
        "output_ids": output,
        "ttft_ms": times[0] if times else None,
        "decode_ms": times[1:],
        "stopped_by": "max_new_tokens" if len(output) == limit else _early(generator),
    }


def _early(generator: Any) -> str:
    return "eos" if generator.is_done() else "deadline"


if __name__ == "__main__":
    main()
