"""A killed calibration goes on behind its last whole layer, and ends with the same bytes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import files_below, sha256_files
from shared.base.progress import lines_to
from shared.domain.domain import load_domain
from shared.olive import build as build_module
from shared.olive.build import build_stage
from shared.olive.quantise import layerwise
from shared.olive.workflow import layer_folder
from shared.source.source import source_stage
from tests import test_gptq
from tests.events import wait_until
from tests.stand_ins import keep_first

Tiny = Callable[[str], Path]
LAYERS, PER_LAYER = 4, 7
"""Of the tiny Llama and Qwen2: layers, and matrices in each."""

IN_LAYER_3 = 2 * PER_LAYER + 3
IN_THE_HEAD = LAYERS * PER_LAYER + 1
IN_THE_EMBEDDING = LAYERS * PER_LAYER + 2
"""Matrices begun when the process ends there."""


class Killed(BaseException):
    """What no `except Exception` catches, as kill -9."""


@contextmanager
def ending_in(matrix: int, end: Callable[[], Any]) -> Iterator[list[Any]]:
    """`end()` where that many matrices are begun; the list has an entry for each."""
    begun: list[Any] = []
    gptq = layerwise.gptq

    def counted(*arguments: Any) -> Any:
        begun.append(arguments)
        if len(begun) == matrix:
            end()
        return gptq(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "gptq", counted)
        yield begun


def die() -> None:
    raise Killed


UNINTERRUPTED: dict[str, dict[str, str]] = {}


class World:
    """A tiny model, and a folder in which its calibrated layers outlive a run."""

    def __init__(self, parent: Path, folder: Path) -> None:
        self.parent, self.folder, self.layers = parent, folder, folder / "layers"
        self.settings: dict[str, Any] = {}

    def run(self, layers: Path | None = None, out: str = "out") -> dict[str, str]:
        """Calibrate it; SHA-256 by file of what comes out."""
        shutil.rmtree(self.folder / out, ignore_errors=True)
        token = layer_folder.set(layers or self.layers)
        try:
            made = test_gptq.calibrated(self.parent, self.folder / out, **self.settings)
        finally:
            layer_folder.reset(token)
        return sha256_files(made, files_below(made))

    def die_in(self, matrix: int) -> None:
        with ending_in(matrix, die), pytest.raises(Killed):
            self.run()

    def go_on(self) -> tuple[int, list[str]]:
        """(matrices quantised, what was said) by a run that must end like one that never stopped."""
        said: list[str] = []
        with lines_to(said.append), ending_in(0, die) as begun:
            found = self.run()
        assert found == self.uninterrupted()
        return len(begun), [line.strip() for line in said if "goes on" in line]

    def uninterrupted(self) -> dict[str, str]:
        """What comes out of a run that never stopped; it is made once for a model, recipe and text."""
        key = f"{self.parent} {self.settings} {test_gptq.TEXTS}"
        if key not in UNINTERRUPTED:
            UNINTERRUPTED[key] = self.run(self.folder / "fresh", "fresh-out")
        return UNINTERRUPTED[key]

    def newest(self, kind: str) -> Path:
        return max(self.layers.rglob(f"{kind}-*.safetensors"))


@pytest.fixture
def world(tiny: Tiny, tmp_path: Path) -> World:
    return World(tiny("llama"), tmp_path)


def hold(event: str) -> None:
    """Tell that it is there, and stay."""
    Path(event).touch()
    threading.Event().wait()


HELD = """
import sys
from pathlib import Path
from tests.test_calibration_resumed import IN_LAYER_3, World, ending_in, hold
with ending_in(IN_LAYER_3, lambda: hold(sys.argv[3])):
    World(Path(sys.argv[1]), Path(sys.argv[2])).run()
"""


def test_kill_9_in_a_layer_costs_that_layer_alone(world: World) -> None:
    event = world.folder / "in-layer-3"
    words = [str(world.parent), str(world.folder), str(event)]
    process = subprocess.Popen([sys.executable, "-c", HELD, *words], cwd=paths.REPOSITORY)
    wait_until(event.exists, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    matrices, said = world.go_on()
    assert matrices == 2 * PER_LAYER + 1
    assert said == ["calibration goes on at layer 3 of 4"]


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize(("matrix", "left"), [(IN_THE_HEAD, 2), (IN_THE_EMBEDDING, 1)])
def test_behind_the_layers_head_and_embedding_are_steps_of_their_own(
    world: World, tiny: Tiny, matrix: int, left: int, feedback: bool
) -> None:
    world.parent, world.settings = tiny("qwen2-untied"), {"feedback": feedback}
    world.die_in(matrix)
    assert world.go_on() == (left, ["calibration goes on behind the last layer"])


def test_a_finished_calibration_whose_build_was_killed_is_not_done_again(world: World) -> None:
    world.run()
    assert world.go_on()[0] == 0


class TestWhatIsNotTakenUp:
    ALL = LAYERS * PER_LAYER + 1

    def test_other_weights(self, world: World) -> None:
        world.die_in(IN_LAYER_3)
        changed = world.folder / "changed"
        shutil.copytree(world.parent, changed)
        weights = load_file(changed / "model.safetensors")
        weights["model.layers.3.mlp.down_proj.weight"][0, 0] += 0.5
        save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
        world.parent = changed
        assert world.go_on() == (self.ALL, [])

    def test_another_text(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.die_in(IN_LAYER_3)
        monkeypatch.setattr(test_gptq, "TEXTS", [*test_gptq.TEXTS, [7, 8, 9]])
        assert world.go_on() == (self.ALL, [])

    @pytest.mark.parametrize(
        "settings",
        [
            {"group_size": 16},
            {"search": False},
            {"overrides": {"model.layers.3.mlp.*": {"bits": 8}}},
        ],
    )
    def test_another_recipe(self, world: World, settings: dict[str, Any]) -> None:
        world.die_in(IN_LAYER_3)
        world.settings = settings
        assert world.go_on() == (self.ALL, [])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


class TestWhatIsDamaged:
    @pytest.mark.parametrize("kind", ["model", "hidden"])
    @pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
    def test_a_damaged_layer_is_done_again(
        self, world: World, kind: str, damage: Callable[[Path], None]
    ) -> None:
        world.die_in(IN_LAYER_3)
        damage(world.newest(kind))
        matrices, said = world.go_on()
        assert matrices == 3 * PER_LAYER + 1
        assert said == ["calibration goes on at layer 2 of 4"]

    @pytest.mark.parametrize("content", [b"", b"[1]", b'{"model-00001.saf', b"\xff"])
    def test_without_the_record_everything_is(self, world: World, content: bytes) -> None:
        world.die_in(IN_LAYER_3)
        next(world.layers.rglob("layers.json")).write_bytes(content)
        assert world.go_on() == (LAYERS * PER_LAYER + 1, [])

    def test_half_of_a_file_is_no_file(self, world: World) -> None:
        """Killed while it wrote a layer: the two before it count."""
        world.die_in(IN_LAYER_3)
        half = world.newest("model").with_name("model-00003.safetensors")
        half.write_bytes(b"half")
        assert world.go_on()[1] == ["calibration goes on at layer 3 of 4"]


def test_a_full_disk_is_one_sentence_and_costs_one_layer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) == 6:  # the hidden states of the third layer
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device; run it again: finished"):
            world.run()
    assert world.go_on()[1] == ["calibration goes on at layer 3 of 4"]


def test_hidden_states_do_not_pile_up(world: World) -> None:
    world.run()
    assert len(list(world.layers.rglob("hidden-*"))) == 2


class TestTheBuild:
    def build(self) -> Any:
        rung = load_domain("legal").rung("smollm3")
        return build_stage(load_domain("legal"), rung, source_stage(rung))

    def test_goes_on_and_leaves_no_layers_behind(self, root: Path, tiny: Tiny) -> None:
        shutil.copytree(tiny("llama"), root / "models" / "legal" / "merged")
        keep_first(root / "domains" / "legal" / "calibration.jsonl", 2)
        builds, said = root / "build" / "build", list[str]()
        with ending_in(IN_LAYER_3, die), pytest.raises(Killed):
            self.build()
        (kept,) = builds.glob(".*.layers")
        for name, age in (("new", 0), ("old", build_module.LAYERS_KEPT_SECONDS + 60)):
            (builds / f".{name}.layers").mkdir()
            then = kept.stat().st_mtime - age
            os.utime(builds / f".{name}.layers", (then, then))
        with lines_to(said.append):
            self.build()
        assert "calibration goes on at layer 3 of 4" in map(str.strip, said)
        assert [path.name for path in builds.glob(".*.layers")] == [".new.layers"]
