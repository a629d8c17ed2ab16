"""A domain's settings: its fallback.toml over domains/defaults.toml, key by key.

A `[[gate]]` goes by its name: of one that the defaults have the given keys change, another is added.
A `[[rung]]` has what `[base."org/name"]` says of its `base`, under what it says itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shared.base import paths
from shared.base.errors import UserError
from shared.base.parsing import MISSING, Key, Toml, nearest, validate
from shared.domain.settings import Chain, Defaults

DEFAULTS_FILE = "defaults.toml"
CHAIN_FILE = "fallback.toml"
BOUNDS = {"at_least", "at_most", "equals"}
TERMS = {"licence", "licence_name", "licence_link", "commercial_use"}
"""Of one licence: a rung that names its own has none of its base's."""


@dataclass(frozen=True)
class Config:
    """Both files and what they make together; `changed`: a gate's place in it → in fallback.toml."""

    defaults: Toml
    own: Toml
    merged: dict[str, Any]
    changed: dict[int, int]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of a domain's folder; UserError where the defaults are wrong by themselves."""
        defaults, own = read_defaults()[0], Toml.read(folder / CHAIN_FILE)
        merged, gates = _merged(defaults.data, own.data), own.data.get("gate", [])
        if isinstance(rungs := merged.get("rung"), list):
            merged["rung"] = [_with_base(rung, merged.get("base")) for rung in rungs]
        if not isinstance(gates, list):
            return cls(defaults, own, merged, {})
        merged["gate"], changed = _merged_gates(defaults.data["gate"], gates)
        return cls(defaults, own, merged, changed)

    def chain(self) -> Chain:
        """UserError with file, line and key of the first mistake."""
        try:
            return validate(self.merged, Chain, self.place)
        except UserError as error:
            mistake = str(error)
            raise UserError(mistake + self._base_hint(mistake)) from None

    def _base_hint(self, mistake: str) -> str:
        """Of a rung without a licence: the known base that its `base` may have been meant for."""
        rungs, known = self.merged.get("rung"), self.merged.get("base")
        for at, rung in enumerate(rungs if isinstance(rungs, list) else []):
            name = rung.get("base") if isinstance(rung, dict) else None
            if not isinstance(name, str) or not isinstance(known, dict):
                continue
            if mistake == f"{self.place(('rung', at, 'licence'))}: {MISSING}":
                return f", and no [base] is named {name!r}; {nearest(name, list(known))}"
        return ""

    def place(self, key: Key) -> str:
        """`file:line: key` where it is set; in fallback.toml where it is nowhere."""
        toml, key = self._origin(key)
        return toml.place(key)

    def _origin(self, key: Key) -> tuple[Toml, Key]:
        """Of the two files the one that has more of the key, and the key as it is there."""
        own = key
        if key[:1] == ("gate",) and len(key) > 1:
            own = ("gate", self.changed.get(int(key[1]), -1), *key[2:])
        if key[:1] == ("rung",) and len(key) > 2 and self.own.depth(key) == 2:
            of_base = ("base", str(self.merged["rung"][int(key[1])].get("base")), *key[2:])
            if max(toml.depth(of_base) for toml in (self.own, self.defaults)) > 2:
                own = key = of_base
        return max((self.own, own), (self.defaults, key), key=lambda at: at[0].depth(at[1]))

    def where(self, key: Key) -> str:
        """`file:line` of the key, or "built in" where no file sets it."""
        toml, key = self._origin(key)
        return f"{paths.shown(toml.path)}:{toml.lines[key]}" if key in toml.lines else "built in"


def read_defaults() -> tuple[Toml, Defaults]:
    """defaults.toml and what it says; UserError where it is wrong by itself."""
    file = paths.domains() / DEFAULTS_FILE
    if not file.exists():  # a root of domains alone
        file = paths.REPOSITORY / "domains" / DEFAULTS_FILE
    toml = Toml.read(file)
    return toml, validate(toml.data, Defaults, toml.place)


def _merged(under: Any, over: Any) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {key: _merged(under.get(key), value) for key, value in over.items()}
    return over


def _with_base(rung: Any, bases: Any) -> Any:
    name = rung.get("base") if isinstance(rung, dict) else None
    base = bases.get(name) if isinstance(name, str) and isinstance(bases, dict) else None
    if not isinstance(base, dict):  # Chain says what is wrong
        return rung
    dropped = TERMS if "licence" in rung else set()
    return {k: v for k, v in base.items() if k not in dropped} | rung


def _merged_gates(under: list[Any], over: list[Any]) -> tuple[list[Any], dict[int, int]]:
    gates, changed = list(under), dict[int, int]()
    names = [gate["name"] for gate in under]
    for place, gate in enumerate(over):
        name = gate.get("name") if isinstance(gate, dict) else None
        at = names.index(name) if name in names else len(gates)
        if at < len(names) and at not in changed:  # Chain refuses a name that stands twice
            dropped = BOUNDS if BOUNDS & gate.keys() else set()
            gates[at] = {k: v for k, v in gates[at].items() if k not in dropped} | gate
        else:
            at = len(gates)
            gates.append(gate)
        changed[at] = place
    return gates, changed
