"""Imports run one way: no module of shared/ reaches itself through others, at any depth of the code."""

from __future__ import annotations

from pathlib import Path

from shared.base import paths
from shared.base.code import imports, modules


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, in the order of its imports; empty where there is none."""
    done: set[str] = set()

    def through(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := through(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := through(name, []))), [])


def graph() -> dict[str, set[str]]:
    known = modules(paths.REPOSITORY)
    return {name: imports(path, known) - {name} for name, path in known.items()}


LAYERS = (
    *("base", "safety", "setup", "domain", "hub", "source", "prompt", "olive", "evaluate"),
    *("webgpu_bench", "release", "pipeline", "cli"),
)
"""The folders of shared/, each importing from itself and from those before it: the data's own way."""

UPWARDS: dict[tuple[str, str], str] = {}
"""Imports that run to a later layer all the same, (from, to) → why; five at the most."""


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[1]) if "." in module else -1


def test_every_folder_of_shared_has_its_layer() -> None:
    folders = {
        p.name for p in (paths.REPOSITORY / "shared").iterdir() if (p / "__init__.py").is_file()
    }
    assert folders == set(LAYERS)


def test_imports_run_from_a_layer_to_itself_or_to_one_before_it() -> None:
    upwards = {(a, b) for a, found in graph().items() for b in found if layer(b) > layer(a)}
    assert upwards == UPWARDS.keys()
    assert len(UPWARDS) <= 5


def test_no_module_imports_itself_through_others() -> None:
    assert circle(graph()) == []


def test_a_circle_is_found_wherever_it_is_closed(tmp_path: Path) -> None:
    def written(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return path

    known = {
        "shared.a": written("a", "def f():\n    from shared.b import g\n"),
        "shared.b": written("b", "if TYPE_CHECKING:\n    from shared import c\n"),
        "shared.c": written("c", "import shared.a\n"),
    }
    found = {name: imports(path, known) for name, path in known.items()}
    assert circle(found) == ["shared.a", "shared.b", "shared.c"]
    assert circle(found | {"shared.c": set()}) == []
