"""Many domains at once: the same results as one after the other, whoever fails or is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shared.base import paths
from shared.base.errors import UserError
from shared.base.formatting import parse_bytes
from shared.evaluate.models.genai import genai_options
from shared.evaluate.models.onnx import session_options
from shared.pipeline.all_domains import run_units
from shared.pipeline.schedule.cluster import cores_each, run_local
from shared.pipeline.schedule.units import Unit, memory_of, run_unit, units_of
from shared.pipeline.stages import Options
from shared.release.model import STAGES
from tests.checked import CHECK, DOMAINS, make_world
from tests.events import CEILING_SECONDS, die, each, held_at, wait_until
from tests.tiny import write_tiny

World = Callable[..., Path]


@pytest.fixture
def world(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """`world(name, count)` makes a root with so many domains and points DOCINTEL_ROOT at it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(name: str, count: int = len(DOMAINS)) -> Path:
        root = make_world(tmp_path / name, embedded, dict(list(DOMAINS.items())[:count]))
        monkeypatch.setenv("DOCINTEL_ROOT", str(root))
        return root

    yield make


def packages(root: Path) -> dict[str, str]:
    """Every packaged file's hash, by `key/name`; all that is independent of the clock."""
    return {
        f"{manifest.parent.name}/{name}": record["sha256"]
        for manifest in root.glob("build/package/*/manifest.json")
        for name, record in json.loads(manifest.read_bytes())["outputs"].items()
    }


def finished(root: Path) -> dict[str, int]:
    """Every finished stage and when its manifest was written, in nanoseconds."""
    return {str(p): p.stat().st_mtime_ns for p in root.glob("build/*/*/manifest.json")}


def answers(root: Path) -> dict[str, list[int]]:
    """What each domain's model answered, by the check's key."""
    return {
        path.parent.name: [i for ln in path.read_text().splitlines() for i in _ids(ln)]
        for path in root.glob("build/check/*/answers.jsonl")
    }


def _ids(line: str) -> list[int]:
    return list(json.loads(line)["output_ids"])


class TestUnits:
    def test_are_a_domains_stages_from_the_package_on(self, root: Path) -> None:
        expected = list(STAGES[STAGES.index("package") :])
        assert [unit.until for unit in units_of("legal", Options())] == expected

    def test_end_where_the_command_ends(self, root: Path) -> None:
        assert [u.until for u in units_of("legal", Options(until="build"))] == ["build"]
        assert units_of("legal", CHECK)[-1].until == "check"
        assert not any(unit.release for unit in units_of("legal", CHECK))

    def test_are_one_where_everything_is_forced(self, root: Path) -> None:
        (unit,) = units_of("legal", Options(force=True))
        assert unit.release and unit.browser

    def test_claim_memory_by_the_size_of_the_weights(self, root: Path, embedded: Path) -> None:
        write_tiny(root / "models" / "legal" / "merged", "llama", embedded)
        size = (root / "models" / "legal" / "merged" / "model.safetensors").stat().st_size
        assert units_of("legal", CHECK)[-1].memory == memory_of("check", size)
        assert memory_of("check", 6_150_000_000) > 3_100_000_000, "what it was measured to take"

    @pytest.mark.parametrize(("record", "size"), [("example", 269e6), ("full-size", 6.15e9)])
    def test_claim_no_less_than_a_release_took(self, record: str, size: float) -> None:
        file = paths.REPOSITORY / "benchmarks" / "records" / f"{record}.json"
        stages = json.loads(file.read_text())["stages"]
        for name in ("build", "package", "fidelity", "check", "bench"):
            claimed = memory_of("package" if name == "build" else name, int(size), calibrated=True)
            assert claimed > stages[name]["peak_bytes"], name

    def test_claim_more_for_a_build_that_calibrates(self, root: Path, embedded: Path) -> None:
        write_tiny(root / "models" / "legal" / "merged", "llama", embedded)
        first = units_of("legal", CHECK)[0]
        size = (root / "models" / "legal" / "merged" / "model.safetensors").stat().st_size
        assert first.until == "package"
        assert first.memory == memory_of("package", size, calibrated=True)
        assert memory_of("package", 6_150_000_000, calibrated=True) > 3_000_000_000
        path = root / "domains" / "legal" / "olive.json"
        workflow = json.loads(path.read_text())
        del workflow["passes"]["calibrated"]
        path.write_text(json.dumps(workflow))
        assert units_of("legal", CHECK)[0].memory == memory_of("package", size) < first.memory

    @pytest.mark.parametrize(
        ("text", "size"), [("16GB", 16e9), ("800 MB", 8e8), ("1.5g", 1.5e9), ("2GiB", 2**31)]
    )
    def test_budgets_are_read_as_people_write_them(self, text: str, size: float) -> None:
        assert parse_bytes(text, "--memory-budget") == size

    def test_a_budget_that_is_no_size_is_refused(self) -> None:
        with pytest.raises(UserError, match="--memory-budget: a size like 16GB is wanted"):
            parse_bytes("a lot", "--memory-budget")

    def test_a_defect_of_ours_ends_one_domain_and_keeps_its_traceback(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.pipeline.schedule.units.run_until", lambda *_: 1 / 0)
        result = run_unit(Unit("legal", CHECK, release=False, memory=0, browser=False))
        assert "ZeroDivisionError" in (result.error or "")
        assert "Traceback" in (root / "build" / "failures" / "legal.txt").read_text()


class TestCores:
    def test_are_shared_out_among_the_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shared.pipeline.schedule.cluster.cores", lambda: 8)
        assert [cores_each(jobs) for jobs in (1, 2, 3, 20)] == [8, 4, 2, 1]

    def test_of_a_worker_bind_torch_onnxruntime_and_our_own_threads(self) -> None:
        script = (
            "from shared.base.cpu import use_cores, cores; use_cores(1)\n"
            "import torch\n"
            "from pathlib import Path\n"
            "from shared.evaluate.models.genai import genai_options\n"
            "from shared.evaluate.models.onnx import SPINNING, session_options\n"
            "options = session_options(Path('.'))\n"
            "assert options.get_session_config_entry(SPINNING) == '0'\n"
            "told = genai_options()['intra_op_num_threads']\n"
            "print(torch.get_num_threads(), options.intra_op_num_threads, told, cores())"
        )
        clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=paths.REPOSITORY,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["1"] * 4, done.stderr

    def test_of_a_process_that_has_the_machine_to_itself_are_all_that_are_cores_of_their_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr("psutil.cpu_count", lambda logical: 2)
        monkeypatch.setattr("shared.base.cpu.cores", lambda: 4)
        assert genai_options() == {"intra_op_num_threads": 2}
        monkeypatch.setattr("psutil.cpu_count", lambda logical: None)
        assert genai_options() == {"intra_op_num_threads": 4}
        assert session_options(Path()).intra_op_num_threads == 0


class TestTwoAtOnce:
    @pytest.mark.slow
    def test_give_what_one_after_the_other_gives_and_one_failing_domain_stops_no_other(
        self, alone: Path, world: World
    ) -> None:
        both = world("both")
        broken = both / "models" / "gamma" / "merged" / "config.json"
        broken.write_text(broken.read_text().replace('"phi3"', '"fnet"'))
        results = run_units(list(DOMAINS), CHECK, jobs=2)
        assert [r.domain for r in results] == list(DOMAINS)
        assert [r.ok for r in results] == [True, True, False]
        assert results[0].chain and results[0].chain.stages["check"].folder.is_relative_to(both)
        attempt = json.loads((both / "build" / "attempts" / "gamma.json").read_text())[0]
        assert "'fnet' is no causal language model" in attempt["reason"]
        assert len({name.split("/")[0] for name in packages(both)}) == 2
        assert packages(both).items() <= packages(alone).items()
        assert len(answers(both)) == 2 and answers(both).items() <= answers(alone).items()

        before = finished(both)
        broken.write_text(broken.read_text().replace('"fnet"', '"phi3"'))
        assert all(r.ok for r in run_units(list(DOMAINS), CHECK, jobs=2)), "mended, it goes on"
        assert packages(both) == packages(alone)
        assert {k: v for k, v in finished(both).items() if k in before} == before

    @pytest.mark.slow
    def test_a_killed_worker_loses_only_time(self, world: World) -> None:
        root = world("killed", 2)
        killed: list[int] = []
        hunter = threading.Thread(target=_kill_a_worker, args=(root, killed), daemon=True)
        hunter.start()
        options = Options(rung="smollm3", until="package")
        results = run_units(list(DOMAINS)[:2], options, jobs=2)
        assert killed, "nobody was killed: the test shows nothing"
        assert all(r.ok for r in results), [r.error for r in results]

    def test_a_unit_that_kills_every_worker_is_given_up(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.pipeline.schedule.cluster.run_on_worker", die)
        (result,) = run_local([units_of("legal", CHECK)], jobs=1, budget=1)
        assert result.error == "legal·package: 3 worker processes died on it"


def _kill_a_worker(root: Path, killed: list[int]) -> None:
    """SIGKILL one child of this process as soon as a build is half done."""
    wait_until(lambda: list(root.glob("build/build/.*.partial/olive/*")))
    workers = [p for p in psutil.Process().children() if "spawn_main" in _line(p)]
    killed.append(workers[0].pid)
    workers[0].kill()


def _line(process: psutil.Process) -> str:
    with_words = process.as_dict(["cmdline"])["cmdline"] or []
    return " ".join(with_words)


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_too(world: World) -> None:
    root = world("interrupted", 2)
    words = ["release-all", "--rung", "smollm3", "--records", "1", "--jobs", "2"]
    run = subprocess.Popen(
        [sys.executable, "-m", "invoke", *words], cwd=paths.REPOSITORY, stderr=subprocess.PIPE
    )
    parent, *family = held_at(run, lambda: list(root.glob("build/build/.*.partial")))
    assert len(family) >= 2
    run.send_signal(signal.SIGINT)
    each([parent, *family], psutil.Process.resume)
    _, said = run.communicate(timeout=CEILING_SECONDS)
    assert run.returncode == 130 and b"interrupted" in said, said
    _, alive = psutil.wait_procs(family, timeout=CEILING_SECONDS)
    assert not alive


class TestAnUnchangedRelease:
    """Two domains released, then asked again."""

    SCRIPT = """
import sys
from unittest.mock import patch
from shared.pipeline.stages import Options
from shared.pipeline.all_domains import release_all
until, jobs = sys.argv[1], int(sys.argv[2])
with patch("shared.pipeline.one_domain.need_inputs"):  # which asks for a browser
    results = release_all(Options(rung="smollm3", records="1", until=until), jobs=jobs)
assert all(result.ok for result in results), [result.error for result in results]
heavy = ("torch", "olive", "onnxruntime", "onnxruntime_genai", "onnx", "transformers", "playwright")
heavy += ("distributed",)
print([name for name in heavy if name in sys.modules])
"""

    def release(self, root: Path, jobs: int, tools: Path, until: str = "gates") -> str:
        """In a process of its own, on a machine without a browser."""
        run = subprocess.run(
            [sys.executable, "-c", self.SCRIPT, until, str(jobs)],
            cwd=paths.REPOSITORY,
            env=os.environ | {"DOCINTEL_ROOT": str(root), "PATH": str(tools)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout.strip().splitlines()[-1] + run.stderr

    @pytest.mark.slow
    def test_loads_no_library_that_takes_long_and_starts_no_worker(
        self, alone: Path, world: World, tmp_path: Path
    ) -> None:
        root = world("unchanged", 2)
        shutil.copytree(alone / "build", root / "build", symlinks=True)
        tools = tmp_path / "tools"  # no browser in it: the bench says "not measured", at once
        tools.mkdir()
        said = self.release(root, 2, tools, until="check")
        assert "alpha        │ [2/10] alpha" in said, "lines say whose they are"
        self.release(root, 1, tools)
        before = finished(root)
        for jobs in (1, 2):
            assert self.release(root, jobs, tools).startswith("[]")
        assert finished(root) == before
