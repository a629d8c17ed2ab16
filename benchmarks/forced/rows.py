"""What is measured, and its rows: kept one a line as they come, so that no interruption loses one.

>>> rows = Rows(paths.build() / "forced" / "rows.jsonl")
>>> rows.put("gold/legal", {"runs": 3440}); rows.get("gold/legal")
{'runs': 3440}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base.errors import UserError
from shared.base.parsing import read_json
from shared.domain.domain import Domain, load_domain
from shared.domain.grammar.schema import grammar
from shared.domain.records import Record, spread
from shared.evaluate.models.chat import Chat
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options

DTYPE = "q4"
"""What a CPU and a software adapter compute with."""


class Rows:
    """Rows by their key; a line that was torn by a kill is passed over."""

    def __init__(self, path: Path) -> None:
        self.path, self._found = path, dict[str, Any]()
        for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
            try:
                key, row = json.loads(line)
            except (ValueError, TypeError):
                continue
            self._found[key] = row

    def get(self, key: str) -> Any:
        """The row, or None."""
        return self._found.get(key)

    def put(self, key: str, row: Any) -> Any:
        """Append it; on the disk when this returns it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([key, row]))
            file.flush()
            os.fsync(file.fileno())
        self._found[key] = row
        return row

    def loads(self, case: str) -> list[float]:
        """The machine's least and greatest load while a case's rows were measured."""
        rows = [row for key, row in self._found.items() if f"/{case}/" in key]
        found = [row["load"] for row in rows if isinstance(row, dict) and "load" in row]
        return [min(found), max(found)] if found else []

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """The row, measured if it is not there."""
        found = self.get(key)
        return self.put(key, measure()) if found is None else found


@dataclass(frozen=True)
class Case:
    """One domain's questions to one package."""

    domain: Domain
    rung: str
    package: Path

    @property
    def key(self) -> str:
        """What its rows' keys begin with."""
        return f"{self.domain.name}/{self.rung}/{self.package.name}-{self.domain.key[:8]}"

    @property
    def limit(self) -> int:
        return self.domain.chain.check.max_new_tokens

    @property
    def grammar(self) -> str:
        return grammar(self.domain.schema)

    def records(self, count: int) -> list[Record]:
        """So many, evenly spread; fewer are the first of more."""
        return [self.domain.records[i] for i in spread(range(len(self.domain.records)))[:count]]

    @property
    def stop(self) -> list[int]:
        """The ids that end an answer."""
        found = read_json(self.package / "genai_config.json")["model"]["eos_token_id"]
        return found if isinstance(found, list) else [found]

    def prompt(self, chat: Chat, record: Record) -> list[int]:
        """A record's question as the check asks it."""
        return chat.prompt_ids(self.domain.prompt, record.input)


def made(domain: str, rung: str) -> Case | None:
    """The domain's rung, built and packaged where it is not; None where it has no weights."""
    loaded = load_domain(domain)
    found = run_chain(loaded, Options(rung=rung, until="package"))
    return Case(loaded, rung, found.package) if found.rung else None


def given(text: str) -> Case:
    """`DOMAIN/RUNG=FOLDER`, a packaged model; UserError where it is written otherwise or not there."""
    name, _, folder = text.partition("=")
    domain, _, rung = name.partition("/")
    if not (rung and (Path(folder) / "config.json").is_file()):
        raise UserError(
            f"--package: DOMAIN/RUNG=FOLDER of a packaged model is wanted, not {text!r}"
        )
    return Case(load_domain(domain), rung, Path(folder).resolve())
