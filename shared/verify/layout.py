"""Would it load? First what can be known without loading; then a tokenizer, a prompt, two sessions.

The second part runs in a process of its own, offline and within a time: a file made to crash or to
hang a runtime ends that process, not this one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import paths
from shared.olive.build import DTYPES
from shared.olive.lint import lint, require_clean
from shared.strict import read_json
from shared.verify.line import Line, need

SECONDS = 300.0
SECRET_VARIABLE = re.compile("TOKEN|KEY|PASSWORD|PASSWD|SECRET|CREDENTIAL|AUTH", re.I)
CODE_KEY = re.compile(
    r"auto_map|custom_pipelines|custom_generate|custom_op|library_path|trust_remote", re.I
)
LIBRARY = re.compile(r"\.(so|dll|dylib)(\.\d+)*$", re.I)
"""onnxruntime-genai loads the shared library that `custom_ops_library` names; providers, others."""
NO_CODE = ("config.json", "tokenizer_config.json", "generation_config.json", "genai_config.json")


def configured(folder: Path) -> str:
    """JSON objects, none of which names code to be run; a chat template, twice the same."""
    found = {name: read_json(folder / name) for name in NO_CODE if (folder / name).is_file()}
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        need((folder / name).is_file(), f"{paths.shown(folder / name)}: missing")
    for name, value in found.items():
        need(isinstance(value, dict), f"{paths.shown(folder / name)}: must be one JSON object")
        key = next(_code_named_in(value), None)
        need(key is None, f"{paths.shown(folder / name)}: {key}: names code to run")
    template = found["tokenizer_config.json"].get("chat_template")
    need(isinstance(template, str), "tokenizer_config.json: chat_template: missing")
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        same = beside.read_text(encoding="utf-8") == template
        need(same, "chat_template.jinja is not the template of tokenizer_config.json")
    return "JSON objects that name no code; the chat template is inside"


def _code_named_in(value: Any, key: str = "") -> Iterator[str]:
    """Each place, at any depth, where a runtime would take Python (auto_map) or a library from."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            where = f"{key}.{name}" if key else str(name)
            if CODE_KEY.search(str(name)) or (isinstance(item, str) and LIBRARY.search(item)):
                yield where
            yield from _code_named_in(item, where)


def graph(folder: Path, dtype: str) -> str:
    """The graph's data files are there, named and counted as Transformers.js wants them."""
    report = lint(folder, dtype)
    require_clean(report)
    chunks = report.facts["chunks"]
    return f"{len(chunks)} data file{'s' * (len(chunks) != 1)}, as config.json says; graph clean"


def loads(folder: Path, seconds: float = SECONDS) -> Iterator[Line]:
    """What the process of its own reports; a ✗ where it died or did not end."""
    command = [sys.executable, "-m", "shared.verify.load", str(folder.resolve()), *DTYPES]
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": _python_path()}
    kept = {k: v for k, v in os.environ.items() if not SECRET_VARIABLE.search(k)}
    try:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=paths.REPOSITORY,
            env=kept | offline,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Line("loads", False, f"had not loaded after {seconds:.0f} s")
        return
    lines = [Line(**json.loads(text)) for text in run.stdout.splitlines() if text[:1] == "{"]
    yield from lines
    if run.returncode != 0 or len(lines) < 2 + len(DTYPES):
        how = f"signal {-run.returncode}" if run.returncode < 0 else f"status {run.returncode}"
        yield Line("loads", False, f"the process that loads it ended with {how}")


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(paths.REPOSITORY), os.environ.get("PYTHONPATH"))))
