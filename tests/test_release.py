"""End to end: a real model, a real browser, the whole path; then killed, repeated, refused."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from huggingface_hub import ModelCard

from shared.base import paths
from shared.domain.domain import load_domain
from shared.evaluate.models.genai import GenaiModel
from shared.release.model import read_release
from shared.setup.browser import find_browser
from tests.checked import make_world
from tests.events import each, held_at
from tests.hub_double import WRITE_TOKEN, HubDouble
from tests.readme import RELEASED
from tests.stand_ins import keep_first, read_little, share_embedded
from tests.test_commands import invoke

pytestmark = pytest.mark.slow
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+\S*")
Tiny = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def needs_a_browser() -> None:
    assert find_browser(), "no browser: run `./inv doctor`"


@pytest.fixture(scope="module")
def world(new_folder: Callable[[str], Path], embedded: Path) -> Path:
    """A root in which the embedded model was released once for `legal`; one record, one calibration
    text, a scale a block without a search, one row of text in the browser: none of it is what is
    asserted. Real browser."""
    root = new_folder("world")
    shutil.copytree(paths.REPOSITORY / "domains" / "legal", root / "domains" / "legal")
    legal = root / "domains" / "legal"
    read_little(legal)
    keep_first(legal / "calibration.jsonl", 1)
    one_row = (legal / "fallback.toml").read_text().replace(" = 64\n", " = 32\n")
    (legal / "fallback.toml").write_text(one_row)
    workflow = (legal / "olive.json").read_text()
    assert '"sym": true,' in workflow
    quick = workflow.replace('"sym": true,', '"sym": true, "search": false,', 1)
    (legal / "olive.json").write_text(quick)
    share_embedded(root)
    run = invoke("release", "--domain", "legal", "--records", "1", root=root)
    assert run.returncode == 0, run.stdout + run.stderr
    (root / "stdout.txt").write_text(run.stdout)
    return root


def processor_seconds() -> float:
    """What this process's children that have ended took of the processors, however busy these were."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def keys(root: Path) -> dict[str, float]:
    """Every finished stage's manifest and when it was written."""
    return {str(p): p.stat().st_mtime for p in root.glob("build/*/*/manifest.json")}


class TestTheEmbeddedRelease:
    def test_names_the_rung_and_why_the_six_before_it_were_skipped(self, world: Path) -> None:
        release = read_release(world / "models" / "legal" / "webgpu")
        assert release.rung == "embedded"
        assert [a.outcome for a in release.attempts] == ["skipped"] * 6 + ["taken"]
        assert all(a.reason and "\n" not in a.reason for a in release.attempts)

    def test_prints_rungs_gates_and_where_it_lies(self, world: Path) -> None:
        printed = (world / "stdout.txt").read_text()
        for words in ("smollm3", "skipped", "decode speed", "not measured", "models/legal/webgpu"):
            assert words in printed

    def test_agrees_token_for_token_between_browser_and_cpu(self, world: Path) -> None:
        measured = read_release(world / "models" / "legal" / "webgpu").measurements
        assert measured["bench.loads"].value is True
        assert measured["bench.greedy_agreement"].value == 1.0
        assert measured["bench.gpu_errors"].value == 0
        assert 5e7 < float(measured["bench.peak_gpu_bytes"].value or 0) < 1e9

    def test_is_found_to_stay_within_fp16_layer_by_layer(self, world: Path) -> None:
        release = read_release(world / "models" / "legal" / "webgpu")
        assert float(release.measurements["overflow.f16_headroom"].value or 0) > 1.25
        assert len(release.facts["overflow"]["peaks"]) == 32  # embedding, 30 layers, head

    def test_never_passes_a_speed_gate_on_a_software_adapter(self, world: Path) -> None:
        release = read_release(world / "models" / "legal" / "webgpu")
        gate = next(g for g in release.gates if g.name == "decode speed")
        if release.facts["bench"]["software_adapter"]:
            assert gate.outcome == "not measured"

    def test_answers_to_the_python_of_its_own_card(self, world: Path) -> None:
        """The snippet as a reader copies it; only the question is put in. It writes what the check's
        model does: whether that is Paris hangs on the calibrated bits, and these on the CPU."""
        folder = world / "models" / "legal" / "webgpu"
        card = (folder / "README.md").read_text(encoding="utf-8")
        snippet = card.split("```python\n")[1].split("```")[0]
        name = snippet.split('pathlib.Path("')[1].split('"')[0]
        snippet = snippet.replace(f'"{name}"', f'"{folder}"')
        snippet = snippet.replace(
            '(folder / "prompt.md").read_text("utf-8").strip()', '"Be brief."'
        )
        question = "What is the capital of France?"
        snippet = snippet.replace("…your document…", question)
        run = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        model = GenaiModel(folder)
        wanted = model.answer(model.chat.prompt_ids("Be brief.", question), 12).text.strip()
        assert wanted and run.stdout.strip().startswith(wanted)

    def test_has_a_card_that_the_hub_accepts(self, world: Path) -> None:
        card = ModelCard.load(world / "models" / "legal" / "webgpu" / "README.md")
        assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert card.data.base_model_relation == "quantized"
        assert card.data.library_name == "transformers.js"
        assert card.data.license == "apache-2.0"
        assert card.data.eval_results
        for words in ("software adapter", "embedded", "Not to be published", "huggingface/transf"):
            assert words in card.text

    def test_lists_every_file_with_its_hash(self, world: Path) -> None:
        folder = world / "models" / "legal" / "webgpu"
        release = read_release(folder)
        on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert on_disk == {*release.files, "release.json"}

    def test_says_nothing_of_this_machine(self, world: Path) -> None:
        folder = world / "models" / "legal" / "webgpu"
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert str(world).encode() not in content, path
                assert str(paths.REPOSITORY).encode() not in content, path

    def test_is_not_made_again(self, world: Path) -> None:
        before, began = keys(world), processor_seconds()
        run = invoke("release", "--domain", "legal", "--records", "1", root=world)
        assert run.returncode == 0
        assert processor_seconds() - began < 5
        assert keys(world) == before

    def test_must_not_be_published(self, world: Path) -> None:
        run = invoke("release", "--domain", "legal", "--records", "1", "--publish", root=world)
        assert run.returncode == 1
        assert "rung embedded: publishable is false" in run.stderr
        assert "Traceback" not in run.stderr

    def test_shows_in_status(self, world: Path) -> None:
        printed = invoke("status", root=world).stdout
        assert "done" in printed and "software adapter: it says nothing" in printed


ARCHITECTURES = {
    "tax": "smollm3",
    "untied": "qwen2-untied",
    "fused": "phi3",
    "plain": "llama",
}


@pytest.mark.parametrize("words", RELEASED)
def test_every_command_of_the_readme_on_a_release_ends_as_it_says(world: Path, words: str) -> None:
    """As it stands there, but with few records; a page that is served is asked for, and ended."""
    record = load_domain("legal").records[0].id
    few = words.replace("--records all", "--records 1").replace("contracts", "legal")
    given = few.replace("<record>", record).split()[1:]
    given[1:] = [str(world / "site") if word == "site" else word for word in given[1:]]
    if given[0] == "serve":
        page = served(world, *given)
        assert "<!doctype html>" in page.lower()
        return
    done = invoke(*given, root=world)
    assert done.returncode == RELEASED[words], done.stderr
    if RELEASED[words]:
        assert "publishable is false" in done.stderr


def served(world: Path, *words: str) -> str:
    """The page that `serve` gives under the address that it prints."""
    command = [sys.executable, "-m", "invoke", *words]
    there = os.environ | {"DOCINTEL_ROOT": str(world), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=paths.REPOSITORY, env=there, stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout
        try:
            lines = iter(serving.stdout.readline, "")
            address = next(found[0] for line in lines if (found := ADDRESS.search(line)))
            with urllib.request.urlopen(address) as answer:
                text: str = answer.read().decode("utf-8")
        finally:
            serving.send_signal(signal.SIGINT)
    return text


@pytest.fixture(scope="module")
def released(new_folder: Callable[[str], Path], embedded: Path) -> Path:
    """A root in which one command released a copy of `legal` for each architecture."""
    root = make_world(new_folder("released"), embedded, ARCHITECTURES)
    run = invoke("release-all", "--records", "1", "--jobs", "1", root=root)
    (root / "said.txt").write_text(run.stdout + run.stderr)
    return root


@pytest.mark.parametrize("domain", ARCHITECTURES, ids=ARCHITECTURES.values())
def test_a_merged_model_is_released_through_the_browser_by_the_first_rung(
    released: Path, domain: str
) -> None:
    folder = released / "models" / domain / "webgpu"
    assert folder.is_dir(), (released / "said.txt").read_text()
    release = read_release(folder)
    assert release.rung == "smollm3"
    assert release.measurements["bench.greedy_agreement"].value == 1.0


def test_a_copied_folder_is_a_new_domain(released: Path) -> None:
    plain, tax = (contents(released / "domains" / name) for name in ("plain", "tax"))
    assert tax == plain
    assert "tax" in (released / "models" / "tax" / "webgpu" / "README.md").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below it, by its name in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_publishable_release_goes_up_as_one_change_of_main_and_comes_down_the_same(
    released: Path,
) -> None:
    """Of what `tax` was measured to be, under gates that let it out."""
    for kind in ("domains/{}", "models/{}/merged"):
        shutil.copytree(released / kind.format("tax"), released / kind.format("public"))
    defaults = released / "domains" / "defaults.toml"
    defaults.write_text(defaults.read_text().replace('blocks = "publish"', 'blocks = "nothing"'))
    with HubDouble() as hub:
        there = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE_TOKEN, "HF_HUB_DISABLE_XET": "1"}
        words = ("release", "--domain", "public", "--records", "1", "--publish")
        unproven = invoke(*words, root=released, HF_HUB_OFFLINE="0", **there)
        assert unproven.returncode == 1 and "or say --without-gpu" in unproven.stderr
        words += ("--without-gpu",)
        run = invoke(*words, root=released, HF_HUB_OFFLINE="0", **there)
        assert run.returncode == 0, run.stdout + run.stderr
        name = "docintel/docintel-public-smollm3-3b-webgpu"
        remote = {k: v for k, v in hub.files(name).items() if k != ".gitattributes"}
        assert remote == contents(released / "models" / "public" / "webgpu")
        again = invoke(*words, root=released, HF_HUB_OFFLINE="0", **there)
        assert again.returncode == 0 and "unchanged on the Hub" in again.stderr
        assert WRITE_TOKEN not in run.stdout + run.stderr
    assert "uploaded" in invoke("status", root=released).stdout


class TestKilled:
    """kill -9 in the middle of a stage; the next run finishes, and finished stages stay."""

    def test_in_one_stage_after_the_other_it_goes_on_where_it_stopped(
        self, root: Path, few: Tiny
    ) -> None:
        shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
        self._kill_in(root, "build")
        self._kill_in(root, "check")
        self._asks_only_what_was_not_answered(root)
        self._kill_in(root, "bench")
        finished = keys(root)
        run = invoke("release", "--domain", "legal", "--records", "1", root=root)
        assert run.returncode == 0, run.stdout + run.stderr
        assert {k: v for k, v in keys(root).items() if k in finished} == finished
        release = read_release(root / "models" / "legal" / "webgpu")
        assert release.rung == "smollm3"
        assert release.measurements["bench.greedy_agreement"].value == 1.0

    def _asks_only_what_was_not_answered(self, root: Path) -> None:
        """The check of 30 records that was killed, run again to its end."""
        (file,) = root.glob("build/answers/*.jsonl")
        before = file.read_text()
        kept = before[: before.rfind("\n") + 1]
        run = invoke(*self._command(root, "check"), root=root)
        assert run.returncode == 0, run.stderr
        after = file.read_text()
        assert kept and after.startswith(kept)
        asked = [json.loads(line)["record"] for line in after[len(before) :].splitlines()]
        had = {json.loads(line)["record"] for line in kept.splitlines()}
        assert not had & set(asked), "what was answered is not asked again"
        assert len(had) + len(asked) == len(set(asked) | had) == 30

    def _command(self, root: Path, stage: str) -> list[str]:
        """For the check 30 records, so that it is at work for a while."""
        if stage != "check":
            return ["release", "--domain", "legal", "--records", "1"]
        own = (root / "domains" / "legal" / "eval.jsonl").read_text().splitlines()
        lines = [json.dumps(json.loads(own[i % len(own)]) | {"id": f"n{i}"}) for i in range(30)]
        file = root / "thirty.jsonl"
        file.write_text("\n".join(lines) + "\n")
        words = f"check --domain legal --records all --records-file {file}"
        return [*words.split(), "--systems", "release", "--constrained", "free"]

    def _kill_in(self, root: Path, stage: str) -> None:
        """Start it and kill it, and its children, while the stage is at work; nothing of it shows."""
        finished = keys(root)
        process = subprocess.Popen(
            [sys.executable, "-m", "invoke", *self._command(root, stage)],
            cwd=paths.REPOSITORY,
            env=os.environ | {"DOCINTEL_ROOT": str(root), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        family = held_at(process, partial(at_work, root / "build", stage))
        os.killpg(process.pid, signal.SIGKILL)
        each(family, psutil.Process.resume)  # a browser has a group of its own, and ends by itself
        process.wait()
        assert not list((root / "build" / stage).glob("[!.]*")), "half-written, yet visible"
        assert not (root / "models" / "legal" / "webgpu").exists()
        assert finished.items() <= keys(root).items()


def at_work(build: Path, stage: str) -> bool:
    """Whether the stage has begun to write and is not done; of the check, the first answer is there."""
    if stage == "check":
        begun = any(b"\n" in file.read_bytes() for file in build.glob("answers/*.jsonl"))
        return begun and any(build.glob("check/.*.partial"))
    return any(build.glob(f"{stage}/.*.partial" + ("/*" if stage == "build" else "")))
