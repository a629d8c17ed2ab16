"""An Olive pass of our own: GPTQ with a scale search in every block, for the tied head as well.

Olive 0.13's Gptq takes each block's scale from its largest value and leaves the embedding alone. This
one (`shared.olive.quantise.gptq`) searches the scale by what an error costs, and quantises the tied
table for its use as the head. It writes the folder that Olive's own passes write (`quant_method`
"olive"), so that the same builder, and Olive's own modules, read it.
"""

import fnmatch
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import HfModelHandler
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from shared.base.bfloat16 import is_bfloat16_fast
from shared.base.code import code_hash
from shared.base.errors import RungFailed
from shared.base.hashing import sha256_json
from shared.base.manifest import tool_versions
from shared.base.parsing import nearest, read_json
from shared.base.progress import bar, say
from shared.olive.calibration_text import texts_hash, token_ids
from shared.olive.graph.architecture import build_graph
from shared.olive.quantise.drift import OFF, MakeUp
from shared.olive.quantise.gptq import SHRINK, Format
from shared.olive.quantise.layer_files import LayerFiles
from shared.olive.quantise.layerwise import quantize_decoder
from shared.olive.workflow import in_olive, layer_folder, need_merged
from shared.source.merging import address
from shared.source.model import load_model, model_weights
from shared.source.source import weights_hash
from shared.source.weights import INDEX, JOINED

TABLE = "model.embed_tokens"
CHANGES = ("bits", "group_size", "sym")
"""What `overrides` can change of a module."""

KEPT_FILES = ("*.json", "*.jinja", "*.txt", "LICENSE", "*.model")


class CalibratedQuant(Pass):
    """4- and 8-bit weights by GPTQ and a scale search, calibrated on the domain's own text."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        def option(kind: Any, default: Any, words: str) -> PassConfigParam:
            return PassConfigParam(type_=kind, default_value=default, description=words)

        return {
            "bits": option(int, 4, "4 or 8"),
            "group_size": option(int, 32, "values per block"),
            "sym": option(bool, True, "no zero points: zero is the middle code"),
            "search": option(bool, True, "search each block's scale instead of taking its extreme"),
            "feedback": option(bool, True, "GPTQ: later columns make up for earlier ones' errors"),
            "calibration": option(
                str,
                None,
                "JSONL of texts (a domain's calibration.jsonl, or a chat a line: "
                '{"messages": [...]}), or JSON with lists of token ids',
            ),
            "texts": option(str, None, "filled in by the pass: the hash of what calibration names"),
            "make_up": option(
                float,
                OFF.share,
                "share, 0 to 1, of what the layers before have lost to make up for",
            ),
            "make_up_damp": option(float, OFF.damp, "damping of that, of the inputs' mean square"),
            "device": option(str, "cpu", "where PyTorch calibrates: cpu, cuda or mps"),
            "overrides": option(
                dict, None, "module name, * for any part → {bits, group_size, sym}; the last counts"
            ),
        }

    def __init__(
        self, accelerator_spec: AcceleratorSpec, config: Any, host_device: Any = None
    ) -> None:
        """Olive keeps a result under its pass's options: a changed text must be another of them."""
        texts = {"texts": texts_hash(config.calibration)}
        super().__init__(accelerator_spec, config.model_copy(update=texts), host_device)

    def _run_for_config(
        self, model: HfModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> HfModelHandler:
        with in_olive():
            return self._quantise(model, config, Path(output_model_path))

    def _quantise(self, model: HfModelHandler, config: Any, out: Path) -> HfModelHandler:
        need_merged(model)
        folder = Path(model.model_name_or_path)
        out.mkdir(parents=True, exist_ok=True)
        texts = token_ids(config.calibration, folder) if config.feedback else []
        make_up = _make_up(config)
        build_graph(folder, "f16")  # what has no graph should fail now, not after an hour's work
        loaded = load_model(folder, lazily=True)
        formats = _formats(loaded, partial(_format, config))
        _need_honoured(config.overrides or {}, [*formats, "lm_head"])
        _tell_rounded(loaded, formats)
        shrink = SHRINK if config.search else (1.0,)
        files = LayerFiles(
            (layer_folder.get() or out)
            / _key(folder, texts, formats, shrink, make_up, config.device)
        )
        left = _left(formats, files.finished)
        try:
            with bar("calibrate and quantise", left, "weights") as step:
                quantize_decoder(
                    loaded,
                    texts,
                    formats.__getitem__,
                    files,
                    step,
                    shrink=shrink,
                    feedback=bool(texts),
                    make_up=make_up,
                    device=config.device,
                )
        except ValueError as error:
            raise RungFailed(f"olive.json: {type(self).__name__}: {error}") from error
        _finish(folder, out, files, formats, config)
        if files.folder.parent == out:
            shutil.rmtree(files.folder)
        return HfModelHandler(str(out), task=model.task)


def _make_up(config: Any) -> MakeUp:
    made = MakeUp(float(config.make_up), float(config.make_up_damp))
    if not 0 <= made.share <= 1:
        raise RungFailed(f"olive.json: make_up: {made.share:g}: only 0 to 1")
    if not made.damp > 0:
        raise RungFailed(f"olive.json: make_up_damp: {made.damp:g}: only more than 0")
    return made


def _key(
    folder: Path,
    texts: list[list[int]],
    formats: dict[str, Format],
    shrink: tuple[float, ...],
    make_up: MakeUp,
    device: str,
) -> str:
    """16 hex digits of SHA-256 over all that the quantised weights depend on."""
    forms = {name: asdict(form) for name, form in formats.items()}
    tools = tool_versions("torch", "transformers", "numba")
    inputs = [
        weights_hash(folder),
        texts,
        forms,
        shrink,
        asdict(make_up),
        device,
        is_bfloat16_fast(),
        code_hash(__name__),
        tools,
    ]
    return sha256_json(inputs)[:16]


def _left(formats: dict[str, Format], finished: int) -> int:
    """How many modules are still to be quantised; tells where that goes on after a killed run."""
    part_of = {name: ".".join(name.split(".")[:3]) for name in formats}
    parts = list(dict.fromkeys(part_of.values()))
    layers = sum(part.startswith("model.layers.") for part in parts)
    if 0 < finished < layers:
        say(f"      calibration goes on at layer {finished + 1} of {layers}")
    elif finished:
        say("      calibration goes on behind the last layer")
    return sum(part in parts[finished:] for part in part_of.values())


def _formats(model: Any, form: Callable[..., Format]) -> dict[str, Format]:
    """Every module's format in the order of the work, a tied head under the embedding's name.

    RungFailed where the rows of one hold no whole blocks.
    """
    rows = {n: m.in_features for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    tied = address(model.lm_head.weight) == address(model.model.embed_tokens.weight)
    if tied:
        rows.pop("lm_head", None)
    head = ("lm_head",) if tied else ()
    formats = {name: form(name) for name in rows} | {TABLE: form(TABLE, *head)}
    for name, row in (rows | {TABLE: model.model.embed_tokens.weight.shape[1]}).items():
        if row % (size := formats[name].block_size):
            raise RungFailed(f"olive.json: {name}: row length {row} is not a multiple of {size}")
    return formats


def _tell_rounded(model: Any, formats: dict[str, Format]) -> None:
    """Experts are stacked matrices, no linear layers: the builder rounds them, whatever is set here."""
    matrices = [n for n, p in model.model.layers.named_parameters() if p.ndim > 1]
    others = [n for n in matrices if f"model.layers.{n.removesuffix('.weight')}" not in formats]
    if others:
        say(
            f"      {len(others)} of {len(matrices)} matrices are no linear layers ({others[0]}): "
            "rounded to nearest, not calibrated"
        )


def _need_honoured(overrides: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    """RungFailed where an override is for no module, or changes what none has."""
    for pattern, changes in overrides.items():
        where = f"olive.json: overrides: {pattern!r}"
        if not fnmatch.filter(names, pattern):
            hint = nearest(pattern, [TABLE, "lm_head", "*.v_proj", "*.mlp.*", "model.layers.0.*"])
            raise RungFailed(f"{where}: the model has no such module; {hint}")
        for key in sorted(set(changes) - set(CHANGES)):
            raise RungFailed(f"{where}: unknown key {key!r}; {nearest(key, list(CHANGES))}")


def _format(config: Any, name: str, *also: str) -> Format:
    """Of a module, or of one that has other names as well; of all patterns the last counts."""
    settings = {"bits": config.bits, "group_size": config.group_size, "sym": config.sym}
    for pattern, changes in (config.overrides or {}).items():
        if fnmatch.filter((name, *also), pattern):
            settings |= changes
    form = Format(int(settings["bits"]), int(settings["group_size"]), bool(settings["sym"]))
    if form.bits not in (4, 8) or form.block_size not in (16, 32, 64, 128, 256):
        raise RungFailed(
            f"olive.json: {name}: {form.bits} bits in blocks of {form.block_size}: only 4 and 8 bits "
            "in blocks of 16 to 256"
        )
    return form


def _finish(
    folder: Path,
    out: Path,
    files: LayerFiles,
    formats: dict[str, Format],
    config: Any,
) -> None:
    """What was not quantised, the index, config.json with its quantization_config, the tokenizer."""
    tied = "lm_head" not in formats
    quantised = {*formats, "lm_head"}
    weights = model_weights(folder).items()
    others = {name: t for name, t in weights if name.removesuffix(".weight") not in quantised}
    for pattern in KEPT_FILES:
        for path in folder.glob(pattern):
            if path.name not in ("config.json", INDEX, JOINED, "manifest.json"):
                shutil.copyfile(path, out / path.name)
    index = {"metadata": {}, "weight_map": files.link_into(out, others)}
    (out / INDEX).write_text(json.dumps(index))
    general = {"bits": config.bits, "group_size": config.group_size, "symmetric": config.sym}
    overrides = {}
    for name, form in formats.items():
        own = {"bits": form.bits, "group_size": form.block_size, "symmetric": form.symmetric}
        if own != general:
            overrides[name] = {k: v for k, v in own.items() if v != general[k]}
    quantization = general | {
        "quant_method": "olive",
        "embeds": True,
        "lm_head": True,
        "modules_to_not_convert": None,
        "overrides": overrides or None,
        "tie_word_embeddings": tied,
    }
    if tied and (head := overrides.get("model.embed_tokens")):
        overrides["lm_head"] = head
    settings = read_json(folder / "config.json") | {"quantization_config": quantization}
    settings["tie_word_embeddings"] = False  # as Olive has it: the quantised tensors are tied
    (out / "config.json").write_text(json.dumps(settings, indent=2))
