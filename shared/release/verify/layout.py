"""Configuration and graphs, checked without loading; then a tokenizer, a prompt, two sessions.

The second part runs in a process of its own, offline and within a time: a file made to crash or to
hang a runtime ends that process, not this one.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.base import paths
from shared.base.parsing import read_json, read_text
from shared.olive.build import DTYPES
from shared.olive.lint.rules import lint, require_clean
from shared.release.verify.limits import LARGEST_GRAPH, LARGEST_OUTPUT
from shared.release.verify.line import Line, need
from shared.safety.code import ELSEWHERE, code_named_in

GRAPHS = tuple(f"model_{dtype}" for dtype in DTYPES)
SECONDS = 300.0
BASE_MEMORY = 4_000_000_000
THREAD_MEMORY = 256_000_000
"""Address space, not memory: each core's threads reserve stacks and arenas that they never touch."""
SECRET_VARIABLE = re.compile("TOKEN|KEY|PASSWORD|PASSWD|SECRET|CREDENTIAL|AUTH", re.I)
NO_CODE = ("config.json", "tokenizer_config.json", "generation_config.json", "genai_config.json")


def configured(folder: Path) -> str:
    """JSON objects, none of which names code to be run; a chat template, twice the same."""
    found = {name: read_json(folder / name) for name in NO_CODE if (folder / name).is_file()}
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        need((folder / name).is_file(), f"{paths.shown(folder / name)}: missing")
    for name, value in found.items():
        need(isinstance(value, dict), f"{paths.shown(folder / name)}: must be one JSON object")
        other = next((key for key in ELSEWHERE if key in value), None)
        where = paths.shown(folder / name)
        need(other is None, f"{where}: {other}: has another file read in its place")
        key = next(code_named_in(value), None)
        need(key is None, f"{paths.shown(folder / name)}: {key}: names code to run")
    template = found["tokenizer_config.json"].get("chat_template")
    need(isinstance(template, str), "tokenizer_config.json: chat_template: missing")
    beside = folder / "chat_template.jinja"
    same = not beside.is_file() or read_text(beside) == template
    need(same, "chat_template.jinja is not the template of tokenizer_config.json")
    return "JSON objects that name no code; the chat template is inside"


def graph(folder: Path, dtype: str) -> str:
    """The graph's data files are there, named and counted as Transformers.js wants them."""
    size = (folder / "onnx" / f"model_{dtype}.onnx").stat().st_size
    need(size <= LARGEST_GRAPH, f"onnx/model_{dtype}.onnx: {size:,} bytes without its data")
    report = lint(folder, dtype)
    require_clean(report)
    chunks = report.facts["chunks"]
    return f"{len(chunks)} data file{'s' * (len(chunks) != 1)}, as config.json says; graph clean"


def loads(folder: Path, seconds: float = SECONDS, graphs: Sequence[str] = GRAPHS) -> Iterator[Line]:
    """What the process of its own reports; a ✗ where it died or did not end."""
    where = [str(memory_for(folder)), str(folder.resolve())]
    command = [sys.executable, "-m", "shared.release.verify.load", *where, *graphs]
    python = filter(None, (str(paths.REPOSITORY), os.environ.get("PYTHONPATH")))
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(python)}
    kept = {k: v for k, v in os.environ.items() if not SECRET_VARIABLE.search(k)}
    with tempfile.TemporaryFile() as output:
        try:
            run = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                cwd=paths.REPOSITORY,
                env=kept | offline,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield Line("loads", False, f"had not loaded after {seconds:.0f} s")
            return
        output.seek(0)
        lines = list(reported(output.read(LARGEST_OUTPUT)))
    yield from lines
    if run.returncode != 0 or len(lines) < 2 + len(graphs):
        how = f"signal {-run.returncode}" if run.returncode < 0 else f"status {run.returncode}"
        yield Line("loads", False, f"the process that loads it ended with {how}")


def reported(output: bytes) -> Iterator[Line]:
    """The lines that the process reported; whatever else it, or a runtime in it, wrote is no line."""
    for text in output.decode(errors="replace").splitlines():
        try:
            found = json.loads(text) if text[:1] == "{" else None
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.keys() == {"name", "ok", "words"}:
            yield Line(str(found["name"]), found["ok"] is True, str(found["words"]))


def memory_for(folder: Path) -> int:
    """Bytes of address space that loading these files may take: generous, and not the machine's all."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 3 * size + BASE_MEMORY + THREAD_MEMORY * (os.cpu_count() or 1)
