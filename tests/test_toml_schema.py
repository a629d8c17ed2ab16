"""The schemas that editors read: current, true to the files, and strict."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import tomli

from shared.base import paths
from shared.domain.toml_schema import toml_schemas

DOMAINS = paths.REPOSITORY / "domains"
FILES = [DOMAINS / "defaults.toml", *sorted(DOMAINS.glob("*/fallback.toml"))]


@pytest.mark.parametrize("name", ["defaults", "fallback"])
def test_is_made_from_the_models(name: str) -> None:
    path = DOMAINS / f"{name}.schema.json"
    assert path.read_text("utf-8") == toml_schemas()[path], "python -m shared.domain.toml_schema"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_holds_for_every_file_that_names_it(path: Any) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    schema = (path.parent / first.removeprefix("#:schema ")).resolve()
    assert schema == DOMAINS / f"{path.stem}.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text("utf-8")))
    data = tomli.loads(path.read_text("utf-8"))
    assert list(validator.iter_errors(data)) == []
    assert not validator.is_valid(data | {"bensh": {}})
    assert not validator.is_valid(data | {"gate": [{"nam": "decode speed"}]})
