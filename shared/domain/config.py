"""A domain's settings: its fallback.toml over domains/defaults.toml, key by key.

A `[[gate]]` goes by its name: of one that the defaults have the given keys change, another is added.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.parsing import Key, Toml, validate
from shared.domain.settings import Chain, Defaults

DEFAULTS_FILE = "defaults.toml"
CHAIN_FILE = "fallback.toml"
BOUNDS = {"at_least", "at_most", "equals"}
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Config:
    """Both files and what they make together; `changed`: a gate's place in it → in fallback.toml."""

    defaults: Toml
    own: Toml
    merged: dict[str, Any]
    changed: dict[int, int]

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Of a domain's folder; UserError where the defaults are wrong by themselves."""
        defaults, own = Toml.read(defaults_file()), Toml.read(folder / CHAIN_FILE)
        validate(defaults.data, Defaults, defaults.place)
        merged, gates = _merged(defaults.data, own.data), own.data.get("gate", [])
        changed: dict[int, int] = {}
        if isinstance(gates, list):
            merged["gate"], changed = _merged_gates(defaults.data["gate"], gates)
        return cls(defaults, own, merged, changed)

    def chain(self) -> Chain:
        """UserError with file, line and key of the first mistake."""
        return validate(self.merged, Chain, self.place)

    def place(self, key: Key) -> str:
        """`file:line: key` where it is set; in fallback.toml where it is nowhere."""
        toml, key = self._origin(key)
        return toml.place(key)

    def _origin(self, key: Key) -> tuple[Toml, Key]:
        """Of the two files the one that has more of the key, and the key as it is there."""
        own = key
        if key[:1] == ("gate",) and len(key) > 1:
            own = ("gate", self.changed.get(int(key[1]), -1), *key[2:])
        if self.own.depth(own) >= self.defaults.depth(key):
            return self.own, own
        return self.defaults, key

    def shown(self, chain: Chain) -> str:
        """The effective settings as TOML; behind each value the line that sets it, or "built in"."""
        scoring = {
            name: how.model_dump(exclude_defaults=True) for name, how in chain.metrics.items()
        }
        tables = chain.model_dump(exclude_none=True, exclude={"version"}) | {"metrics": scoring}
        rows = self._rows((), {"version": chain.version})
        for name, value in tables.items():
            if isinstance(value, dict):
                rows += ["", f"[{name}]", *self._rows((name,), value)]
                continue
            for number, item in enumerate(value):
                rows += ["", f"[[{name}]]", *self._rows((name, number), item)]
        return "\n".join(rows)

    def _rows(self, table: Key, values: dict[str, Any]) -> list[str]:
        rows = []
        for name, value in values.items():
            toml, key = self._origin((*table, name))
            line = toml.lines.get(key)
            where = f"{paths.shown(toml.path)}:{line}" if line else "built in"
            rows.append(f"{f'{_name(name)} = {_toml(value)}':<44} # {where}")
        return rows


def defaults_file() -> Path:
    """domains/defaults.toml of the root, or the repository's own where the root has none."""
    own = paths.domains() / DEFAULTS_FILE
    return own if own.exists() else paths.REPOSITORY / "domains" / DEFAULTS_FILE


def _merged(under: Any, over: Any) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {key: _merged(under.get(key), value) for key, value in over.items()}
    return over


def _merged_gates(under: list[Any], over: list[Any]) -> tuple[list[Any], dict[int, int]]:
    gates, changed = list(under), {}
    names = [gate["name"] for gate in under]
    for place, gate in enumerate(over):
        name = gate.get("name") if isinstance(gate, dict) else None
        at = names.index(name) if name in names else len(gates)
        if at in changed:  # a name that stands twice, which Chain refuses
            at = len(gates)
        if at < len(names):
            dropped = BOUNDS if BOUNDS & gate.keys() else set()
            gates[at] = {k: v for k, v in gates[at].items() if k not in dropped} | gate
        else:
            gates.append(gate)
        changed[at] = place
    return gates, changed


def _name(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_name(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, ensure_ascii=False)
