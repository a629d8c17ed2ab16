"""Is this architecture supported? Its graph computes what PyTorch computes, or is refused by the key.

>>> check_graph(Path("models/legal/merged"))
Agreement(prefill=1.0, decode=1.0)

Read is config.json alone, no weights. A miniature of it (small_config.py) with random
weights is built unquantised by the same graph source and compared with PyTorch in float32; then both
quantised graphs are loaded and run, and their operators compared with WebGPU's. The verdict is cached
as a stage by the miniature's keys and the tool versions: once for each kind of model.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from transformers import AutoConfig

from shared.base import paths
from shared.base.errors import RungFailed, of_this_machine
from shared.base.hashing import sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.stage import Plan, Produced, run_stage
from shared.olive.graph.comparison import (
    PROMPT,
    Agreement,
    Sample,
    compare,
    feed,
    first_line,
    sample,
)
from shared.olive.graph.mobius import BareGraph, bare_graph, graph_task, read_config
from shared.olive.graph.small_config import arithmetic, head_size, miniature
from shared.olive.graph.weights import Int4Options
from shared.olive.graph.wrong_key import faults
from shared.olive.lint.files import Opened
from shared.olive.lint.graph import operator

NEEDED = 0.999999
"""The least cosine at any position: what is right reaches 1 − 1e-11, rounding of float32 alone."""

TOOLS = ("mobius-onnx", "onnx", "onnx-ir", "onnxruntime", "torch", "transformers")
DECODER = "text-generation"
QUANTISED = {"q4f16": "f16", "q4": "f32"}

KEPT = 4
_graphs: dict[str, BareGraph] = {}
"""The last graphs by configuration: a second domain of the same architecture costs its weights only.
In memory and not on disk: at full size a graph takes 0.7 s to make and 17 MB to store."""

NOT_THE_MODELS = (MemoryError, OSError)
"""Errors that say something of this machine, and must not be kept as a verdict."""

LONG_ROPE = (
    "rope_parameters: longrope is wrong beyond the original context; "
    "use a model without it, like Phi-3-mini-4k"
)


@dataclass(frozen=True)
class Verdict:
    """What the comparison gave: cosines where there are any, and the refusal, which names a key."""

    prefill: float | None = None
    decode: float | None = None
    refusal: str | None = None


def check_graph(folder: Path) -> Agreement:
    """Compare the graph for the folder's config.json with PyTorch, once for each kind of model.

    Raises RungFailed with one sentence that names the key of config.json which is not honoured.
    """
    return check_config(read_config(folder), paths.shown(folder / "config.json"))


def check_config(config: Any, where: str) -> Agreement:
    """The same for transformers' configuration object; `where` is named in the refusal."""
    verdict = verdict_on(config)
    if verdict.refusal is not None or verdict.prefill is None or verdict.decode is None:
        raise RungFailed(f"{where}: {verdict.refusal}")
    return Agreement(verdict.prefill, verdict.decode)


def verdict_on(config: Any) -> Verdict:
    """The cached verdict, made where there is none."""
    try:
        small = _small(config)
    except RungFailed as error:
        return Verdict(refusal=str(error))
    plan = Plan(
        "graph",
        inputs={},
        settings=arithmetic(small),
        tools=tool_versions(*TOOLS),
        code=(__name__,),
    )
    done = run_stage(plan, lambda work: _produced(_kept_verdict(plan.key, small)))
    return Verdict(**done.manifest.facts)


def judge_config(config: Any) -> Verdict:
    """The verdict, made anew and kept nowhere."""
    try:
        return judge(_small(config))
    except RungFailed as error:
        return Verdict(refusal=str(error))


def _small(config: Any) -> Any:
    """The miniature; RungFailed where there is none, or no decoder of token ids."""
    if (task := graph_task(config)) != DECODER:
        raise RungFailed(
            f"model_type: {config.model_type!r} is built for {task}, not for {DECODER}"
        )
    try:
        return miniature(config)
    except Exception as error:  # a configuration that its own class cannot hold
        raise RungFailed(f"model_type: {config.model_type!r}: {first_line(error)}") from error


_kept: dict[str, Verdict] = {}
"""The verdicts of this process by the stage's key: tests have many roots."""


def _kept_verdict(key: str, small: Any) -> Verdict:
    if key not in _kept:
        _kept[key] = judge(small)
    return _kept[key]


def _produced(verdict: Verdict) -> Produced:
    how = "least cosine of logits with PyTorch in float32, over all positions of a miniature"
    found = {"prefill": verdict.prefill, "decode": verdict.decode}
    return Produced(
        {
            k: Measurement(value=v, unit="cosine", how=how)
            for k, v in found.items()
            if v is not None
        },
        dataclasses.asdict(verdict),
    )


def judge(small: Any) -> Verdict:
    """The verdict on a miniature, not cached; takes one to three seconds, a refusal up to thirty."""
    agreement, reason = _attempt(small)
    found = dataclasses.asdict(agreement) if agreement else {}
    if reason is None:
        return Verdict(**found)
    if agreement and agreement.least >= NEEDED:  # the graph is right, but not what ships
        return Verdict(**found, refusal=_sentence(small, [], reason))
    early = agreement is None or agreement.prefill < NEEDED
    keys = faults(small, lambda changed: _attempt(changed, prefill_alone=early)[1] is None)
    return Verdict(**found, refusal=_sentence(small, keys, reason))


def _sentence(small: Any, keys: list[str], reason: str) -> str:
    if not keys:
        return f"model_type: {small.model_type!r}: {reason}"
    if keys == ["head_dim"]:
        return f"head_dim: {head_size(small)} does not fit the runtime: {reason}"
    if keys == ["rope_parameters"] and "longrope" in str(small.rope_parameters):
        return LONG_ROPE
    if keys == ["rope_parameters"]:
        reason = f"{small.rope_parameters.get('rope_type')}: {reason}"
    return f"{listed(keys)}: not honoured for {small.model_type} models: {reason}"


def listed(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _attempt(small: Any, *, prefill_alone: bool = False) -> tuple[Agreement | None, str | None]:
    """Cosines, where it runs, and what is wrong; nothing where all is right."""
    agreement = None
    try:
        with sample(small) as made:
            agreement = compare(made, prefill_alone=prefill_alone)
            if agreement.least < NEEDED:
                return agreement, _shortfall(agreement)
            if not prefill_alone:
                _run_quantised(made)
    except NOT_THE_MODELS:
        raise
    except RungFailed as error:
        return agreement, str(error)
    except Exception as error:  # Mobius and PyTorch raise anything for what they do not know
        if of_this_machine(error):
            raise
        return agreement, f"no graph can be made ({first_line(error)})"
    return agreement, None


def _shortfall(agreement: Agreement) -> str:
    at = "at once" if agreement.prefill < NEEDED else "token by token"
    digits = 4 if agreement.least < 0.999 else 7
    return (
        f"the graph's logits have cosine {agreement.least:.{digits}f} with PyTorch's, {at}; "
        f"{NEEDED} is needed"
    )


def _run_quantised(made: Sample) -> None:
    """Load and run the graphs that ship, and look their operators up; RungFailed where they fail."""
    options = Int4Options(block_size=16)  # a miniature's rows are no multiple of more
    for dtype, kind in QUANTISED.items():
        file = made.folder / f"model_{dtype}.onnx"
        session = made.session(file.name, kind, options)
        opened = Opened(made.folder, dtype, onnx.load(str(file), load_external_data=False), {})
        for node, sentence in operator(opened):
            raise RungFailed(f"{node}: {sentence}")
        feed(session, [list(range(3, 3 + PROMPT)), [3]])


def default_config(model_type: str) -> Any:
    """What transformers takes for a model type where config.json says nothing else."""
    return AutoConfig.for_model(model_type)


def build_graph(folder: Path, dtype: str) -> BareGraph:
    """Build the WebGPU decoder graph for the model in `folder`; `dtype` is "f16" or "f32".

    Inputs: input_ids, attention_mask [batch, sequence] int64, past_key_values.N.{key,value}
    [batch, kv_heads, past, head_dim]; outputs: logits [batch, sequence, vocab], present.N.*.
    Raises RungFailed for an architecture Mobius does not know, and where the graph would compute
    something else than PyTorch.
    """
    hf_config = read_config(folder)
    key = sha256_json([hf_config.to_dict() | {"_name_or_path": ""}, dtype])
    if key not in _graphs:
        check_config(hf_config, paths.shown(folder / "config.json"))
        while len(_graphs) >= KEPT:
            _graphs.pop(next(iter(_graphs)))
        _graphs[key] = bare_graph(hf_config, dtype)
    kept = _graphs[key]
    proto = onnx.ModelProto()
    proto.CopyFrom(kept.proto)  # whoever fills it with weights changes it
    return dataclasses.replace(kept, proto=proto)
