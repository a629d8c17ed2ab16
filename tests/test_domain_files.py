"""A domain's files as editors and people leave them: marks, line ends, what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.domain.domain import FILES, domain_names, load_domain
from shared.domain.records import read_records

Edit = Callable[[str, str, str], int]


def test_a_line_separator_within_a_text_ends_no_line(root: Path) -> None:
    """JSON lets U+2028, U+2029 and U+0085 stand in a string as they are."""
    domain = load_domain("legal")
    text = "one\u2028two\u2029three\x85four"
    record = domain.records[0].model_copy(update={"input": text})
    file = root / "some.jsonl"
    line = json.dumps(record.model_dump(exclude_none=True), ensure_ascii=False)
    file.write_text(f"{line}\r\n\n", encoding="utf-8", newline="")
    (found,) = read_records(file, domain.schema)
    assert found.input == text


def test_a_byte_order_mark_is_no_part_of_a_prompt(root: Path) -> None:
    """A page's `fetch` takes it away."""
    path = root / "domains" / "legal" / "prompt.md"
    before = load_domain("legal").prompt
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_domain("legal").prompt == before


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(root: Path, file: str) -> None:
    (root / "domains" / "legal" / file).unlink()
    with pytest.raises(UserError, match=f"domains/legal/{file}: the file is missing"):
        load_domain("legal")


def test_an_unknown_domain_is_answered_with_the_nearest(root: Path) -> None:
    with pytest.raises(UserError, match="no such domain; did you mean 'legal'"):
        load_domain("legl")


def test_a_root_without_a_domain_says_so(root: Path) -> None:
    shutil.rmtree(root / "domains")
    (root / "domains").mkdir()
    with pytest.raises(UserError, match="domains: holds no domain; copy one into it"):
        domain_names()
