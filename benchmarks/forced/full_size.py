"""A model of full size in onnxruntime-genai reads gold answers on the CPU: forced runs, or by tokens.

Random weights never end an answer, so what is read is given: the same tokens in fewer runs.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import onnxruntime_genai as og

from benchmarks.forced.cpu import WAYS
from benchmarks.forced.gold import RULE, gold_runs
from benchmarks.forced.rows import DTYPE, Case, Rows
from shared.base.code import code_hash
from shared.base.progress import say
from shared.evaluate.models.forced import Forced
from shared.evaluate.models.genai import GenaiModel


def full_key(case: Case, way: str, record: str) -> str:
    return f"full/{code_hash(RULE)[:8]}/{case.key}/{way}/{record}"


def measure(case: Case, rows: Rows, count: int) -> None:
    """Read the first gold answers that the grammar takes, so many, both ways."""
    model = GenaiModel(case.package, DTYPE)
    forced = Forced.under(case.grammar, model.chat, case.stop)
    taken = ((one, gold_runs(forced, model.chat, one)) for one in case.records(2 * count))
    for record, runs in [(one, runs) for one, runs in taken if runs][:count]:
        prompt = case.prompt(model.chat, record)
        tokens = [[token] for run in runs for token in run]
        cuts = dict(zip(WAYS, ([prompt, *runs[:-1]], [prompt, *tokens[:-1]]), strict=True))
        for way, cut in cuts.items():
            rows.once(full_key(case, way, record.id), partial(_read, model, cut))
            say(f"{case.key}, {way}: {record.id}, {len(cut)} runs")


def _read(model: GenaiModel, cut: list[list[int]]) -> dict[str, Any]:
    """Seconds of the prompt's run and of all later ones, with the choice after each."""
    parameters = og.GeneratorParams(model.model)
    parameters.set_search_options(max_length=sum(map(len, cut)) + 1, do_sample=False)
    generator = og.Generator(model.model, parameters)
    marks = [time.perf_counter()]
    for run in cut:
        generator.append_tokens(run)
        generator.get_logits()[0, -1].argmax()
        marks.append(time.perf_counter())
    read = {"prompt": marks[1] - marks[0], "answer": marks[-1] - marks[1]}
    return read | {"runs": len(cut), "load": os.getloadavg()[0]}
