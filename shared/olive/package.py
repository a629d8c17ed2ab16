"""Stage 3, package: one folder that Transformers.js and onnxruntime-genai both load.

    config.json             + transformers.js_config: the number of data files, and LOADED_AS
    tokenizer.json …        as the prompt stage proved them (shared.prompt.stage)
    generation_config.json  the stop tokens that the check uses, and no default that it does not
    genai_config.json       pointing at onnx/model_q4f16.onnx, no provider forced; the same stop tokens
    onnx/model_<dtype>.onnx, .onnx_data, .onnx_data_1 …

The layout is Transformers.js 4's (src/utils/model-loader.js); large files are hard-linked from the
build, never copied.
"""

import shutil
from pathlib import Path
from typing import Any

from shared.base.files import link_or_copy, write_json
from shared.base.hashing import sha256_files
from shared.base.parsing import loads_strictly, read_text
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.olive.build import DTYPES
from shared.prompt.stage import public
from shared.safety.code import without_taken_in
from shared.source.contract import is_untied
from shared.source.source import ANSWERING_FILES, Source
from shared.source.tokenizer import Tokenizer

COPIED = ("LICENSE",)
LOADED_AS = {"device": "webgpu", "dtype": "q4f16"}
"""What Transformers.js takes where it is told no other. The Hub's own button tells none:
`pipeline("text-generation", "org/name")` would look for files that a release has not."""
READ = ("config.json", *ANSWERING_FILES, *COPIED)
DEFAULT_DTYPE = "q4f16"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
KEPT = {*TOKEN_IDS, "decoder_start_token_id", "use_cache", "transformers_version"}
"""Keys of a generation configuration that config.json may have of its own right."""

NEUTRAL = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "min_length": 0}
"""How the check asks: greedily, with no penalty."""


def package_stage(
    source: Source, prompt: StageResult, build: StageResult, *, force: bool = False
) -> StageResult:
    """Lay out the release's model files; measurements are the bytes of each dtype."""
    names = [n for n in READ if _has(source, n)]
    proven = {f"prompt/{name}": file.sha256 for name, file in prompt.manifest.outputs.items()}
    inputs = {"build": build.manifest.key, **proven, **sha256_files(source.folder, names)}
    plan = Plan("package", inputs=inputs, settings={"dtypes": list(DTYPES)}, code=(__name__,))
    return run_stage(plan, lambda work: _package(source.folder, prompt, build, work), force=force)


def _has(source: Source, name: str) -> bool:
    return (source.folder / name).is_file()


def _package(folder: Path, prompt: StageResult, build: StageResult, work: Path) -> Produced:
    (work / "onnx").mkdir()
    chunks: dict[str, int] = {}
    for dtype in DTYPES:
        files = sorted(build.folder.glob(f"model_{dtype}.onnx*"))
        for path in files:
            link_or_copy(path, work / "onnx" / path.name)
        chunks[f"model_{dtype}.onnx"] = len(files) - 1
    for name in prompt.manifest.outputs:
        shutil.copyfile(prompt.folder / name, work / name)
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, work / name)
    write_json(work / "config.json", _config(folder, chunks))
    stop = Tokenizer(folder).stop
    write_json(work / "generation_config.json", _generation_config(folder, stop))
    if (build.folder / "genai_config.json").is_file():
        write_json(work / "genai_config.json", _genai_config(build.folder, folder, stop))
    return Produced(dict(build.manifest.measurements), facts={"lint": _lint(work)})


def _lint(work: Path) -> dict[str, Any]:
    """Lint of every dtype's graph: what both runtimes need, before anything is run."""
    from shared.olive.lint.rules import lint, require_clean

    outcome = {}
    for dtype in DTYPES:
        report = lint(work, dtype)
        require_clean(report)
        warnings = [f"{finding.rule}: {finding.sentence}" for finding in report.findings]
        outcome[dtype] = {"warnings": warnings, **report.facts}
    return outcome


def _config(folder: Path, chunks: dict[str, int]) -> dict[str, Any]:
    """config.json without the sampling defaults that older transformers kept there, which
    Transformers.js takes for the model's, and without a word of code."""
    from transformers import GenerationConfig

    sampling = GenerationConfig().to_dict().keys() - KEPT
    found = without_taken_in(public(folder / "config.json"))
    dropped = {*sampling, "_attn_implementation", "attn_implementation"}
    config = {key: value for key, value in found.items() if key not in dropped}
    if config.get("tie_word_embeddings") and is_untied(folder):
        config["tie_word_embeddings"] = False  # as it was built: two weights, whatever was written
    config["transformers.js_config"] = {"use_external_data_format": chunks, **LOADED_AS}
    return config


def _generation_config(folder: Path, stop: list[int]) -> dict[str, Any]:
    """Token ids alone: every other default would be one that no answer was measured with."""
    found: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            data = public(folder / name)
            found |= {key: data[key] for key in TOKEN_IDS if data.get(key) is not None}
    return found | {"eos_token_id": stop, "do_sample": False}


def _genai_config(build: Path, folder: Path, stop: list[int]) -> dict[str, Any]:
    """The builder's genai_config for any provider, with the check's stop tokens and as long a context
    as the graph has rotations for: the builder writes 4,096 at least."""
    config: dict[str, Any] = loads_strictly(read_text(build / "genai_config.json"))
    model = config["model"]
    model["decoder"]["filename"] = f"onnx/model_{DEFAULT_DTYPE}.onnx"
    model["decoder"]["session_options"] = {}
    model["eos_token_id"] = stop
    known = public(folder / "config.json").get("max_position_embeddings", model["context_length"])
    model["context_length"] = min(int(known), int(model["context_length"]))
    config["search"] |= NEUTRAL | {"max_length": model["context_length"]}
    return config
