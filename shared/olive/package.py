"""Stage 3, package: one folder that Transformers.js and onnxruntime-genai both load.

    config.json            + transformers.js_config.use_external_data_format (number of data files)
    tokenizer_config.json  + chat_template inlined: Transformers.js reads it nowhere else
    genai_config.json      pointing at onnx/model_q4f16.onnx, no provider forced
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
from shared.source.source import Source, chat_template

COPIED = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "LICENSE")
TRANSFORMED = ("config.json", "tokenizer_config.json", "generation_config.json")
DEFAULT_DTYPE = "q4f16"
PRIVATE_KEYS = ("_name_or_path", "_model_name_or_path", "is_local", "local_files_only", "backend")


def package_stage(source: Source, build: StageResult, *, force: bool = False) -> StageResult:
    """Lay out the release's model files; measurements are the bytes of each dtype."""
    names = [n for n in (*COPIED, *TRANSFORMED, "chat_template.jinja") if _has(source, n)]
    inputs = {"build": build.manifest.key, **sha256_files(source.folder, names)}
    plan = Plan("package", inputs=inputs, settings={"dtypes": list(DTYPES)}, code=(__name__,))
    return run_stage(plan, lambda work: _package(source.folder, build, work), force=force)


def _has(source: Source, name: str) -> bool:
    return (source.folder / name).is_file()


def _package(folder: Path, build: StageResult, work: Path) -> Produced:
    (work / "onnx").mkdir()
    chunks: dict[str, int] = {}
    for dtype in DTYPES:
        files = sorted(build.folder.glob(f"model_{dtype}.onnx*"))
        for path in files:
            link_or_copy(path, work / "onnx" / path.name)
        chunks[f"model_{dtype}.onnx"] = len(files) - 1
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, work / name)
    write_json(work / "config.json", _config(folder, chunks))
    write_json(work / "tokenizer_config.json", _tokenizer_config(folder))
    write_json(work / "generation_config.json", _generation_config(folder))
    if (build.folder / "genai_config.json").is_file():
        write_json(work / "genai_config.json", _genai_config(build.folder, folder))
    (work / "chat_template.jinja").write_text(chat_template(folder), encoding="utf-8")
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
    config = _public(folder / "config.json")
    config["transformers.js_config"] = {"use_external_data_format": chunks}
    return config


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    config = _public(folder / "tokenizer_config.json")
    config["chat_template"] = chat_template(folder)
    if config.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5's name; older transformers and Transformers.js know this one.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return config


def _generation_config(folder: Path) -> dict[str, Any]:
    """generation_config.json, or the token ids of config.json where a model has none."""
    path = folder / "generation_config.json"
    if path.is_file():
        return _public(path)
    config = _public(folder / "config.json")
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: config[key] for key in ids if config.get(key) is not None}


def _genai_config(build: Path, folder: Path) -> dict[str, Any]:
    """The builder's genai_config, for any provider, with the stop tokens of the generation config."""
    config: dict[str, Any] = loads_strictly(read_text(build / "genai_config.json"))
    config["model"]["decoder"]["filename"] = f"onnx/model_{DEFAULT_DTYPE}.onnx"
    config["model"]["decoder"]["session_options"] = {}
    eos = _generation_config(folder).get("eos_token_id")
    if eos is not None:
        config["model"]["eos_token_id"] = eos
    config["search"] |= {"do_sample": False, "max_length": config["model"]["context_length"]}
    return config


def _public(path: Path) -> dict[str, Any]:
    """A JSON object without PRIVATE_KEYS, which name the machine it was written on."""
    data: dict[str, Any] = loads_strictly(read_text(path))
    return {key: value for key, value in data.items() if key not in PRIVATE_KEYS}
