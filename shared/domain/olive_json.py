"""olive.json against Olive's own pass schema: Olive ignores unknown keys, we do not.

Importing Olive takes seconds, so the valid keys of its passes are read once per Olive version and
kept in build/olive-schema. `python -m shared.domain.olive_json` writes domains/olive-passes.json, the
list of passes that Olive is run with, by us and by `olive run --package-config`.
"""

import copy
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_json, write_text
from shared.base.hashing import sha256_json
from shared.base.parsing import nearest, read_json

PassSchema = dict[str, dict[str, dict[str, Any]]]
"""Pass type → key → {"enum": [...]} or {"type": "..."}; lower-cased pass types as Olive has them."""

BUILDER = "StreamingModelBuilder"
OLIVE_BUILDER = "ModelBuilder"
ATTACHING = "AttachAdapter"

OWN_PASSES = {
    "CalibratedQuant": ("shared.olive.calibrated_pass.CalibratedQuant", "Rtn"),
    BUILDER: ("shared.olive.builder_pass.StreamingModelBuilder", OLIVE_BUILDER),
    ATTACHING: ("shared.olive.attach_pass.AttachAdapter", "ExtractAdapters"),
}
"""Passes of ours that a workflow may name beside Olive's: where each is, and the pass of Olive's whose
entry in the list (devices, bits) it gets."""

PASSES_FILE = paths.REPOSITORY / "domains" / "olive-passes.json"
"""Olive's own list of passes and ours, for `olive run --package-config`."""

CODE_KEYS = (
    *("model_script", "script_dir", "user_script", "module_path", "python_environment_path"),
    *("prepend_to_path", "dockerfile", "build_context_path", "requirements_file"),
)
"""Where Olive would take Python or a program from a place that the workflow names."""

TAKEN = (
    *(
        "input_model",
        "systems",
        "passes",
        "host",
        "target",
        "data_configs",
        "evaluators",
        "evaluator",
    ),
    *("output_dir", "cache_dir", "log_severity_level"),
)
"""Of a workflow's keys. Others say where Olive keeps and deletes things, or speak for these."""

PASS_WRAPPER_KEYS = ["type", "config", "host", "evaluator"]


def check_olive_config(config: Any, path: Path) -> dict[str, Any]:
    """The workflow, each pass's settings beside its type, if Olive reads every key of it; UserError
    naming the key."""
    where = paths.shown(path)
    if not isinstance(config, dict):
        raise UserError(f"{where}: must be one JSON object")
    schema = _olive_schema()
    _no_strangers(config, schema["top"], where, "")
    if refused := next((name for name in config if name not in TAKEN), None):
        raise UserError(f"{where}: {refused}: not taken here, only {', '.join(TAKEN)}")
    for key in ("input_model", "passes"):
        if not isinstance(config.get(key), dict) or not config[key]:
            raise UserError(f"{where}: {key}: required, but missing or empty")
    _no_code(config, where, "")
    config = config | {
        "input_model": _flat(config["input_model"], f"{where}: input_model"),
        "passes": {n: _flat(p, f"{where}: passes.{n}") for n, p in config["passes"].items()},
    }
    if config["input_model"].get("adapter_path"):
        raise UserError(
            f"{where}: input_model.adapter_path: an adapter is its rung's, in fallback.toml"
        )
    for name, settings in config["passes"].items():
        _check_pass(settings, schema["passes"], where, f"passes.{name}")
    return config


def _flat(settings: Any, where: str) -> Any:
    """Olive's other spelling, with the keys below `config`, in the one that overrides go into; in both
    places Olive would take the inner one."""
    if not isinstance(settings, dict) or "config" not in settings:
        return settings
    inner = settings["config"]
    if not isinstance(inner, dict):
        raise UserError(f"{where}.config: must be one JSON object")
    outer = {key: value for key, value in settings.items() if key != "config"}
    if twice := sorted(outer.keys() & inner.keys()):
        raise UserError(f"{where}.{twice[0]}: stands beside `config` and in it; write it once")
    return outer | inner


def with_overrides(config: dict[str, Any], overrides: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy of the workflow with a rung's `passes.<name>.<key>` overrides put in and checked."""
    changed = copy.deepcopy(config)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        target = changed
        for part in parents:
            if not isinstance(target.get(part), dict):
                valid = [k for k, v in target.items() if isinstance(v, dict)]
                raise UserError(f"{where}: olive.{dotted}: no {part!r}; {nearest(part, valid)}")
            target = target[part]
        target[last] = value
    return check_olive_config(changed, Path(where))


def place_of(folder: Path, rung: str) -> str:
    """Where a domain's rung is written down, for the sentences of `with_overrides`."""
    return f"{paths.shown(folder / 'fallback.toml')}: rung {rung}"


def builder_pass(workflow: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and settings of the pass that writes the ONNX file, the last of its type."""
    found = [(k, v) for k, v in workflow["passes"].items() if v["type"].lower() == BUILDER.lower()]
    if not found:
        raise UserError(f"olive.json: passes: no pass of type {BUILDER}")
    return found[-1]


def _check_pass(settings: Any, passes: PassSchema, where: str, key: str) -> None:
    if not isinstance(settings, dict) or not isinstance(settings.get("type"), str):
        raise UserError(f"{where}: {key}.type: required, but missing")
    kind = settings["type"].lower()
    if kind == OLIVE_BUILDER.lower():
        raise UserError(
            f"{where}: {key}.type: {OLIVE_BUILDER} is Olive's own, which holds the whole model in "
            f"memory; the one that streams it is {BUILDER!r}"
        )
    if kind == ATTACHING.lower():
        raise UserError(
            f"{where}: {key}.type: {ATTACHING} puts adapters beside a graph that is built; a domain's "
            "adapter is its rung's, in fallback.toml"
        )
    if kind not in passes:
        others = (OLIVE_BUILDER.lower(), ATTACHING.lower())
        hint = nearest(kind, [name for name in passes if name not in others])
        raise UserError(f"{where}: {key}.type: Olive has no pass {settings['type']!r}; {hint}")
    _no_strangers(settings, [*passes[kind], *PASS_WRAPPER_KEYS], where, f"{key}.")
    for name, value in settings.items():
        allowed = passes[kind].get(name, {}).get("enum")
        if allowed and value not in allowed:
            shown = ", ".join(map(str, allowed))
            raise UserError(f"{where}: {key}.{name}: {value!r} is not one of {shown}")


def _no_code(value: Any, where: str, key: str) -> None:
    """No code from the weights (trust_remote_code) or from beside them: a domain is a copied folder."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            _no_code(item, where, f"{key}{number}.")
    elif isinstance(value, dict):
        for name, item in value.items():
            if name.startswith("trust_remote") and item:
                raise UserError(f"{where}: {key}{name}: cannot be switched on")
            if name in CODE_KEYS and item is not None:
                raise UserError(f"{where}: {key}{name}: names code, which a domain cannot run")
            _no_code(item, where, f"{key}{name}.")


def _no_strangers(found: dict[str, Any], valid: list[str], where: str, prefix: str) -> None:
    for name in found:
        if name not in valid:
            raise UserError(f"{where}: {prefix}{name}: unknown key; {nearest(name, valid)}")


def _olive_schema() -> dict[str, Any]:
    """{"top": [keys of a workflow], "passes": PassSchema}, cached per installed Olive."""
    version = metadata.version("olive-ai")
    name = f"{sha256_json(['v5', version])[:8]}-{version}.json"
    cache = paths.REPOSITORY / "build" / "olive-schema" / name
    if not cache.exists():
        write_json(cache, _read_from_olive())
    return dict(json.loads(cache.read_text()))


def _read_from_olive() -> dict[str, Any]:
    from olive.package_config import OlivePackageConfig
    from olive.workflows.run.config import RunConfig, RunEngineConfig

    package = OlivePackageConfig.model_validate(read_json(PASSES_FILE))
    top = [*RunConfig.model_fields, *RunEngineConfig.model_fields]
    wanted = sorted(package.passes)
    return {"top": sorted(set(top)), "passes": {name: _keys_of(package, name) for name in wanted}}


def passes_text() -> str:
    """PASSES_FILE as it must read with the installed Olive; each pass on one line."""
    from olive.package_config import OlivePackageConfig

    config = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text())
    passes = config["passes"]
    for name, (module_path, like) in OWN_PASSES.items():
        passes[name] = passes[like] | {"module_path": module_path}
    lines = (f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in passes.items())
    others = json.dumps(config | {"passes": None}, indent=2)
    return others.replace('"passes": null', '"passes": {\n' + ",\n".join(lines) + "\n  }") + "\n"


def _keys_of(package: Any, name: str) -> dict[str, dict[str, Any]]:
    """The keys of one pass; a pass whose own dependencies are not installed has none to offer."""
    from enum import EnumType

    from olive.hardware.accelerator import AcceleratorSpec, Device

    try:
        accelerator = AcceleratorSpec(Device.GPU, "WebGpuExecutionProvider")
        parameters = package.import_pass_module(name).default_config(accelerator)
    except Exception:
        return {}
    kinds: dict[str, Any] = {key: parameter.type_ for key, parameter in parameters.items()}
    enums: dict[str, Any] = {key: kind for key, kind in kinds.items() if isinstance(kind, EnumType)}
    return {key: {"enum": [m.value for m in enums[key]]} if key in enums else {} for key in kinds}


if __name__ == "__main__":
    print(paths.shown(write_text(PASSES_FILE, passes_text())))
