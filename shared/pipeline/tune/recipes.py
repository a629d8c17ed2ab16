"""The recipes that are tried, as data: recipes.json has chains of Olive passes by name.

A recipe's passes run before the domain's builder pass; settings under the builder's own name are put
into it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base.errors import UserError
from shared.base.parsing import nearest, read_json
from shared.domain.domain import Domain
from shared.domain.olive_json import builder_pass, check_olive_config

FILE = Path(__file__).with_name("recipes.json")


@dataclass(frozen=True)
class TuneRecipe:
    """A named chain of passes and one sentence on what it does."""

    name: str
    why: str
    passes: dict[str, Any]

    def workflow(self, domain: Domain) -> dict[str, Any]:
        """The domain's olive.json with this chain before its builder; unknown keys are a UserError."""
        workflow = copy.deepcopy(domain.olive)
        name, builder = builder_pass(workflow)
        before = {key: value for key, value in self.passes.items() if key != name}
        workflow["passes"] = before | {name: builder | self.passes.get(name, {})}
        return check_olive_config(workflow, Path(f"{FILE.name}: {self.name}"))


def load_recipes(only: str = "") -> list[TuneRecipe]:
    """All of recipes.json, or those that `only` names, separated by commas, in its order."""
    recipes = {
        name: TuneRecipe(name, entry["why"], entry["passes"])
        for name, entry in read_json(FILE).items()
    }
    if not only:
        return list(recipes.values())
    for name in only.split(","):
        if name not in recipes:
            raise UserError(f"--recipes: no recipe {name!r}; {nearest(name, list(recipes))}")
    return [recipes[name] for name in only.split(",")]
