"""Fixtures: a root of its own for each test, the embedded model, tiny models."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.base import paths
from shared.base.cpu import cores, set_variables, use_cores
from tests.stand_ins import take_any_architecture

if TYPE_CHECKING:
    from tests.hub_double import HubDouble

set_variables()
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # or they wait for each other's threads
    use_cores(max(1, cores() // int(workers)))
pytest_plugins = ("tests.releases", "tests.checked")
"""Fixtures that several files share, made once a session: one that is imported is made once a file."""

LONG = (
    *("test_release.py", "test_package.py", "test_schedule.py", "test_schedule_cluster.py"),
    *("test_webgpu_faults.py", "test_webgpu_switch.py", "test_benchmarks.py", "test_exporters.py"),
    *("test_optimum.py", "test_family_measured.py", "test_webgpu_swap.py", "test_screenshots.py"),
    *("test_tune.py", "test_architectures.py"),
)
"""Files that take minutes: begun first, so that at the end no core waits for another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, then those with slow tests; all others in their order."""
    place = {name: index for index, name in enumerate(LONG)}
    slow = {item.path.name for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (place.get(item.path.name, len(LONG)), item.path.name not in slow))


FEW_MODULES = 50
"""So few that were imported since are looked through again and again."""


class Imported:
    """What stays is not looked through again: torch, transformers, Olive and pytest's own items are a
    million objects, and the code looks for garbage after each layer and each stage."""

    modules = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if len(sys.modules) > self.modules + FEW_MODULES:
            gc.collect()
            gc.freeze()
            self.modules = len(sys.modules)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Imported())


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The embedded model's folder, dequantised once into the repository's own build/."""
    from shared.source.embedded import PACKAGE, embedded_model

    return embedded_model(PACKAGE)


@pytest.fixture(scope="session", autouse=True)
def prompts_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What every runtime makes of a prompt, once a session for the same files and texts: a world of a
    test's own would ask node and three renderers anew. tests/test_prompt.py does so all the same."""
    from shared.base.hashing import sha256_files, sha256_json
    from shared.base.stage import Produced
    from shared.prompt import stage

    real, kept = stage._proven, tmp_path_factory.mktemp("prompts")
    made: dict[str, Produced] = {}

    @functools.wraps(real)
    def proven(folder: Path, system: str, texts: list[str], work: Path) -> Produced:
        names = [name for name in stage.ANSWERING_FILES if (folder / name).is_file()]
        key = sha256_json([sha256_files(folder, names), system, texts])
        if key in made:
            shutil.copytree(kept / key, work, dirs_exist_ok=True)
        else:
            made[key] = real(folder, system, texts, work)
            shutil.copytree(work, kept / key)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_proven", proven)
        yield


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """`new_folder(name)` makes one for the tests of a file; with its last test they are gone, so that
    the disk holds the models of a file or two and not of all."""
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(tmp_path_factory.mktemp(name))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty world with the domain `legal` in it; everything the code writes lands there."""
    shutil.copytree(paths.REPOSITORY / "domains" / "legal", tmp_path / "domains" / "legal")
    shutil.copy(paths.REPOSITORY / "domains" / "defaults.toml", tmp_path / "domains")
    take_any_architecture(tmp_path / "domains" / "legal")
    monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path))
    yield tmp_path


@pytest.fixture
def hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A Hub on this machine, a token that may write to it, and a world of its own."""
    from tests.hub_double import HubDouble, use_this_machine

    use_this_machine(monkeypatch)
    with HubDouble() as double:
        yield double


@pytest.fixture
def edit(root: Path) -> Callable[[str, str, str], int]:
    """`edit(file, old, new)` changes a file of the domain or ../defaults.toml; the changed line."""

    def change(file: str, old: str, new: str) -> int:
        path = root / "domains" / "legal" / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return text[: text.index(old)].count("\n") + 1

    return change


@pytest.fixture(scope="session")
def tiny(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny(architecture)` gives a saved tiny model, made once a session."""
    from tests.tiny import write_tiny

    folder = tmp_path_factory.mktemp("tiny")

    def make(architecture: str) -> Path:
        made = folder / architecture
        return made if made.exists() else write_tiny(made, architecture, embedded)

    return make


@pytest.fixture(scope="session")
def few(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same with few tokens, for what walks a whole chain or is read in a browser."""
    from tests.tiny import FEW_TOKENS, write_tiny

    folder = tmp_path_factory.mktemp("few")

    def make(kind: str) -> Path:
        made = folder / kind
        return made if made.exists() else write_tiny(made, kind, embedded, vocab_size=FEW_TOKENS)

    return make


@pytest.fixture(scope="session")
def package(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A packaged tiny Qwen2 of few tokens, made by the real stages once a session."""
    from shared.domain.domain import load_domain
    from shared.pipeline.chain import run_chain
    from shared.pipeline.stages import Options
    from tests.tiny import FEW_TOKENS, write_tiny

    root = tmp_path_factory.mktemp("package")
    shutil.copytree(paths.REPOSITORY / "domains" / "legal", root / "domains" / "legal")
    take_any_architecture(root / "domains" / "legal")
    merged = root / "models" / "legal" / "merged"
    write_tiny(merged, "qwen2", embedded, vocab_size=FEW_TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCINTEL_ROOT", str(root))
        made = run_chain(load_domain("legal"), Options(rung="smollm3", until="package")).package
    yield made
