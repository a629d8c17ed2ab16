"""The snippets of a card, and the template that they stand in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.base import paths
from shared.base.errors import UserError
from shared.release.card import usage
from shared.release.card.family import PYTHON
from shared.release.card.sandbox import fill_in
from shared.release.card.usage import usage_js, usage_python


def test_longer_answers_than_the_modules_own_are_asked_for_as_they_were_measured() -> None:
    for mode in ("free", "constrained"):
        for code in (usage_js("acme/x", mode, 1024)[0], usage_js("acme/x", mode, 1024)[2]):
            assert "max_new_tokens: 1024 }" in code
        assert usage_js("acme/x", mode, 512) == usage_js("acme/x", mode)
    assert "len(ids) + 1024" in usage_python("x", 1024) and "len(ids) + 256" in usage_python("x", 9)
    asked = (Path(usage.__file__).with_name("docintel.mjs")).read_text()
    assert f"max_new_tokens = {usage.MODULE_TOKENS}" in asked


def test_the_module_knows_a_software_adapter_as_the_page_does() -> None:
    (named,) = re.findall(r"^const SOFTWARE = (/.+/i);$", usage.module(), re.MULTILINE)
    page = paths.REPOSITORY / "shared/webgpu_bench/page/gpu_budget.js"
    assert f"SOFTWARE = {named};" in page.read_text()


def test_the_cards_python_reads_every_file_as_utf_8() -> None:
    """Windows would take its own encoding: tokenizer.json has bytes that this has not."""
    for code in (usage_python("x"), PYTHON):
        assert code.count("read_text(") == code.count('read_text("utf-8")') > 0


def test_a_template_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(UserError, match="the card would have over 5,000,000 characters"):
        fill_in("{{ prompt }} " * 20, {"prompt": "x" * 300_000}, "card.md")
