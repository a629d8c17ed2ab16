"""A domain's olive.json: what Olive reads of it, in either spelling, and what a rung may change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.base.errors import UserError
from shared.domain.domain import load_domain
from tests.test_domain import Edit


def test_an_override_of_a_key_that_olive_lacks_is_refused(root: Path, edit: Edit) -> None:
    from shared.domain.olive_json import with_overrides

    edit("fallback.toml", "passes.int4.int4_block_size", "passes.int5.int4_block_size")
    domain = load_domain("legal")
    with pytest.raises(UserError, match=r"no 'int5'; did you mean 'int4'"):
        with_overrides(domain.olive, domain.rung("phi3-mini").olive, "fallback.toml")


class TestOlivesOtherSpelling:
    """Keys below `config`: in both places Olive takes the inner ones."""

    def nested(self, root: Path, change: Callable[[dict[str, Any]], None]) -> None:
        file = root / "domains" / "legal" / "olive.json"
        workflow = json.loads(file.read_text())
        change(workflow)
        file.write_text(json.dumps(workflow))

    def test_is_read_as_ours_is_and_overrides_go_into_it(self, root: Path) -> None:
        before = load_domain("legal")

        def change(workflow: dict[str, Any]) -> None:
            given = workflow["input_model"]
            workflow["input_model"] = {"type": given.pop("type"), "config": given}
            given = workflow["passes"]["int4"]
            workflow["passes"]["int4"] = {"type": given.pop("type"), "config": given}

        self.nested(root, change)
        assert load_domain("legal").olive == before.olive

    def test_is_refused_where_a_key_stands_in_both(self, root: Path) -> None:
        self.nested(root, lambda w: w["passes"]["int4"].update(config={"precision": "int4"}))
        with pytest.raises(UserError, match=r"passes\.int4\.precision: stands beside `config`"):
            load_domain("legal")

    def test_names_no_adapter(self, root: Path) -> None:
        self.nested(root, lambda w: w["input_model"].update(adapter_path="mine"))
        with pytest.raises(UserError, match=r"input_model\.adapter_path: an adapter is its rung's"):
            load_domain("legal")
