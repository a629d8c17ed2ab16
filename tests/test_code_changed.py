"""Changed code is another key, changed words are not; no stage runs code that its key leaves out."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base import paths
from shared.base.code import INFRASTRUCTURE, code_hash, covered, imports, is_infrastructure, modules
from shared.base.stage import Plan
from shared.evaluate.systems import RUNTIMES
from shared.olive.attach import PASS
from shared.olive.build import PASSES
from shared.release.model import CARD_CODE
from shared.webgpu_bench.server import PAGE_CODE
from tests.adapters import write_adapter
from tests.stand_ins import keep_first

BUILD = ("shared.olive.build", *PASSES)
TORCH = (RUNTIMES["torch"],)
NATIVE = ("shared.webgpu_bench.engines.native",)
BENCH = ("shared.webgpu_bench.stage", *PAGE_CODE)
Change = Callable[[str, str, str], None]


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """`change(file, old, new)` in a copy of shared/, which is the one that is hashed from then on."""
    copies: list[Path] = []

    def replace(file: str, old: str, new: str) -> None:
        copy = tmp_path / f"{len(copies)}"
        copies.append(copy)
        source = paths.REPOSITORY / "shared"
        made = shutil.ignore_patterns("node_modules", "__pycache__")
        shutil.copytree(source, copy / "shared", ignore=made)
        text = (copy / "shared" / file).read_text(encoding="utf-8")
        assert old in text
        (copy / "shared" / file).write_text(text.replace(old, new, 1), encoding="utf-8")
        monkeypatch.setattr(paths, "REPOSITORY", copy)

    return replace


class TestTheHash:
    @pytest.mark.parametrize(
        ("roots", "file", "old", "new"),
        [
            (BUILD, "olive/quantise/nearest.py", "extreme / -middle", "extreme / -7.0"),
            (BUILD, "olive/quantise/gptq.py", "DAMP = 0.01", "DAMP = 0.02"),
            (BENCH, "webgpu_bench/cpu_nodes.toml", "Shape", "Shapes"),
            (BENCH, "webgpu_bench/page/bench.js", "run", "ran"),
            (BENCH, "webgpu_bench/package-lock.json", "version", "versions"),
            (BENCH, "evaluate/models/onnx.py", "reset", "renew"),
            (NATIVE, "webgpu_bench/engines/native_child.py", "eos", "end"),
            (CARD_CODE, "base/formatting.py", "1e8", "1e9"),
            (CARD_CODE, "base/tables.py", "not measured", "unmeasured"),
            (CARD_CODE, "release/card/docintel.mjs", "512", "511"),
            (CARD_CODE, "webgpu_bench/page/grammar.js", "TRIED = 16", "TRIED = 17"),
            (TORCH, "evaluate/models/masks.py", "byte_level", "raw"),
            (TORCH, "evaluate/models/forced.py", "FORCING = True", "FORCING = False"),
            (BENCH, "webgpu_bench/page/forced.js", "FORCING = true", "FORCING = false"),
        ],
    )  # fmt: skip
    def test_changes_with_a_function_a_constant_a_table_or_a_script(
        self, change: Change, roots: tuple[str, ...], file: str, old: str, new: str
    ) -> None:
        before = code_hash(*roots), Plan("s", {}, code=roots).key
        change(file, old, new)
        assert code_hash(*roots) != before[0]
        assert Plan("s", {}, code=roots).key != before[1]

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("olive/build.py", '"""Stage 2, build:', '"""The second stage:'),
            ("olive/build.py", '"""Bytes of graph and external data', '"""Bytes of all'),
            ("olive/build.py", "# what stands", "# what is"),
            ("olive/quantise/gptq.py", '"""Share of H', '"""A share of H'),
            ("olive/quantise/gptq.py", "class Inputs:\n", "class Inputs:\n\n"),
            ("evaluate/reference.py", "CHUNK = 64", "CHUNK = 32"),
            ("cli/release.py", "import", "import os\nimport"),
            ("base/errors.py", "ufffd", "ufffe"),
            ("hub/retries.py", "ATTEMPTS = 4", "ATTEMPTS = 5"),
        ],
    )
    def test_of_a_build_stays_with_words_and_with_code_that_it_does_not_run(
        self, change: Change, file: str, old: str, new: str
    ) -> None:
        before = code_hash(*BUILD)
        change(file, old, new)
        assert code_hash(*BUILD) == before


def test_what_is_left_out_is_there_and_has_a_reason() -> None:
    known = modules(paths.REPOSITORY)
    assert all(name in known and reason for name, reason in INFRASTRUCTURE.items())


def test_a_package_itself_does_nothing() -> None:
    """So that whatever is imported from it need not count it."""
    for name, path in modules(paths.REPOSITORY).items():
        if path.name == "__init__.py":
            assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1, name


def test_every_plan_names_its_code() -> None:
    for path in modules(paths.REPOSITORY).values():
        text = path.read_text(encoding="utf-8")
        if "from shared.base.stage import" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Plan":
                assert "code" in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"


STARTED = {
    "shared.release.verify.load": "by verify, in a process of its own",
    "shared.olive.graph.shapes": "by benchmarks.preflight",
    "shared.domain.toml_schema": "by hand where settings.py has changed; test_toml_schema says when",
}
"""Modules that nothing in shared/ imports or names beside itself, besides the commands."""


def test_what_nothing_imports_is_a_program_or_named_where_it_is_run() -> None:
    known = modules(paths.REPOSITORY)
    used = {name for path in known.values() for name in imports(path, known)}
    used |= (
        covered(*BUILD, PASS).keys() | covered("shared.webgpu_bench.engines.side_by_side").keys()
    )
    left = {n for n in known.keys() - used if known[n].name != "__init__.py"}
    assert {name for name in left if not name.startswith("shared.cli.")} == STARTED.keys()


TRACED = """
import json, sys, threading
from types import SimpleNamespace
from pathlib import Path

import olive.workflows, onnxruntime, onnxruntime_genai, playwright.sync_api, torch, transformers

from shared.base import paths
from shared.base.code import covered, modules
from shared.domain.domain import load_domain
from shared.evaluate.overflow import overflow_stage
from shared.pipeline.chain import run_chain
from shared.pipeline.choose import measure_speeds
from shared.pipeline.family import Member, build_family
from shared.pipeline.stages import Options
from shared.webgpu_bench.engines.questions import Benched
from shared.webgpu_bench.engines.side_by_side import side_by_side
from shared.webgpu_bench.stage import Switches, bench_stage
from shared.webgpu_bench.swapped import swapped_stage

known = modules(paths.REPOSITORY)
names = {str(p): n for n, p in known.items() if p.name != "__init__.py"}  # those do nothing
running, ran, allowed = [], {}, {}

def look(frame, event, argument):
    name = names.get(frame.f_code.co_filename)
    if name == "shared.base.stage" and frame.f_code.co_name == "_measured":
        running.append(frame.f_locals["plan"])
        return leave
    if name:
        for plan in running:
            ran.setdefault(plan.stage, set()).add(name)
            allowed[plan.stage] = set(covered(*plan.code))

def leave(frame, event, argument):
    if event == "return":
        running.pop()
    return leave

sys.settrace(look), threading.settrace(look)
domain = load_domain("legal")
made = run_chain(domain, Options(rung="smollm3", records="1", until="check", on_the_way=True))
package = made.stages["package"]
overflow_stage(domain, package)
measure_speeds({"olive": SimpleNamespace(domain=domain, text=domain.records, stages=made.stages)})
rung = domain.rung("smollm3").model_copy(update={"adapter": "models/legal/adapter"})
family = build_family([Member(domain, rung)])
swapped_stage(domain, family.folder, family.packages["legal"], Switches())
bench = bench_stage(domain, package)
side_by_side(Benched(domain, domain.rung("smollm3"), package, bench), ["native"])
sys.settrace(None)
print(json.dumps({stage: [sorted(found), sorted(allowed[stage])] for stage, found in ran.items()}))
"""


@pytest.mark.slow
def test_no_stage_runs_a_module_that_its_key_leaves_out(
    root: Path, few: Callable[[str], Path]
) -> None:
    """All stages of a tiny model, every function that runs in them looked at."""
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged", copy_function=os.link)
    write_adapter(root / "models" / "legal" / "adapter", few("qwen2"))
    legal = root / "domains" / "legal"
    keep_first(legal / "calibration.jsonl", 1)
    keep_first(legal / "eval.jsonl", 4)
    toml = legal / "fallback.toml"
    text = toml.read_text().replace("\ntokens = 256", "\ntokens = 64")
    toml.write_text(text.replace("max_new_tokens = 40", "max_new_tokens = 4"))
    done = subprocess.run(
        [sys.executable, "-c", TRACED], cwd=paths.REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    stages = json.loads(done.stdout.splitlines()[-1])
    assert stages.keys() == {
        *("source", "calibration", "build", "package", "fidelity", "reference", "check", "bench"),
        *("overflow", "speed", "engines", "contract", "graph", "prompt"),
        *("joined", "attached", "swap", "adapter", "family", "swapped"),
    }
    for stage, (ran, allowed) in stages.items():
        assert [m for m in ran if m not in allowed and not is_infrastructure(m)] == [], stage
    without_the_passes = covered("shared.olive.build")
    assert set(PASSES) <= set(stages["build"][0]) - without_the_passes.keys()
