"""JSON Schemas of fallback.toml and defaults.toml, for editors: made from the models that read them.

`python -m shared.domain.toml_schema` writes them; the files' `#:schema` lines name them.
"""

import json
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.files import write_text
from shared.domain.settings import METRICS, Chain, Defaults


def toml_schemas() -> dict[Path, str]:
    """File → its text. A fallback.toml may leave out what the defaults say, of a gate all but its name,
    of a rung the licence that its base has."""
    defaults, chain = Defaults.model_json_schema(), Chain.model_json_schema()
    own = {"FieldScoring", "Rung"}
    for name, part in chain["$defs"].items():
        if name not in own:
            part.pop("required", None)
    chain["$defs"]["Gate"]["required"] = ["name"]
    chain["$defs"]["Rung"]["required"].remove("licence")
    chain["required"] = ["version", "metrics", "rung"]
    scoring = chain["$defs"]["FieldScoring"]
    chain["$defs"]["FieldScoring"] = {"anyOf": [{"enum": list(METRICS)}, scoring]}
    folder = paths.REPOSITORY / "domains"
    return {
        folder / "defaults.schema.json": _text(defaults),
        folder / "fallback.schema.json": _text(chain),
    }


def _text(schema: dict[str, Any]) -> str:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    for path, text in toml_schemas().items():
        print(paths.shown(write_text(path, text)))


if __name__ == "__main__":
    main()
