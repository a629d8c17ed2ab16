"""Read one domain folder, strictly: what a domain is stands in domains/<name>/ and nowhere else.

>>> domain = load_domain("legal")
>>> domain.chain.rung[0].source
'models/legal/merged'
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import sha256_file, sha256_json
from shared.base.parsing import nearest, read_json, read_text
from shared.base.text import trimmed
from shared.domain.defaults import CHAIN_FILE, DEFAULTS_FILE, Config
from shared.domain.grammar.schema import grammar
from shared.domain.olive_json import check_olive_config
from shared.domain.records import Record, read_records
from shared.domain.settings import Chain, Rung, mistakes

CALIBRATION_FILE = "calibration.jsonl"
OPTIONAL_FILES = (CALIBRATION_FILE,)
GENERAL_FILE = "general.jsonl"
"""Beside defaults.toml: instructions that every domain calibrates with, beside its own records."""
FILES = ("olive.json", CHAIN_FILE, "card.md", "prompt.md", "schema.json", "eval.jsonl")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")


@dataclass(frozen=True)
class Domain:
    """A domain folder, read and checked. `hashes` has the SHA-256 of each file it is read from."""

    name: str
    folder: Path
    config: Config
    chain: Chain
    olive: dict[str, Any]
    prompt: str
    schema: dict[str, Any]
    records: tuple[Record, ...]
    hashes: dict[str, str]
    calibration: Path | None = None
    """A person's own file in place of calibration.jsonl, where one was given."""

    @property
    def calibration_file(self) -> Path:
        """What olive.json calls calibration.jsonl."""
        return self.calibration or self.folder / CALIBRATION_FILE

    @property
    def key(self) -> str:
        """Hash of all that holds: the files, but of the two TOML files what they make together."""
        files = {k: v for k, v in self.hashes.items() if k not in (CHAIN_FILE, DEFAULTS_FILE)}
        return sha256_json([files, self.chain.model_dump(exclude={"base", "family"})])

    def rung(self, name: str) -> Rung:
        """The rung of that name; UserError with the nearest one."""
        names = [rung.name for rung in self.chain.rung]
        if name not in names:
            where = paths.shown(self.folder / CHAIN_FILE)
            raise UserError(f"{where}: no rung is named {name!r}; {nearest(name, names)}")
        return self.chain.rung[names.index(name)]


def domain_names() -> list[str]:
    """Every folder in domains/ that is not hidden, sorted; UserError where there is none."""
    folder = paths.domains()
    if not folder.is_dir():
        root = os.environ.get("DOCINTEL_ROOT")
        whose = f" (DOCINTEL_ROOT={root})" if root else ""
        raise UserError(f"{paths.shown(folder)}: the folder is missing{whose}")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise UserError(f"{paths.shown(folder)}: holds no domain; copy one into it")
    return names


def load_domain(name: str, calibration: Path | None = None) -> Domain:
    """Read domains/<name>/; the first mistake in any of its files is a UserError. `calibration`: a file
    that stands in place of its calibration.jsonl."""
    if calibration:
        read_text(calibration)
    if name not in domain_names():
        raise UserError(f"domains/{name}: no such domain; {nearest(name, domain_names())}")
    if not NAME.fullmatch(name):
        raise UserError(f"domains/{name}: a domain's name has lower-case letters, digits and '-'")
    folder = paths.domains() / name
    for file in FILES:
        read_text(folder / file)
    config = Config.read(folder)
    chain = config.chain()
    schema = _read_schema(folder / "schema.json")
    for key, words in mistakes(chain.metrics, schema):
        raise UserError(f"{config.place(key)}: {words}")
    optional = [*(folder / file for file in OPTIONAL_FILES), paths.domains() / GENERAL_FILE]
    files = [*(folder / file for file in FILES), *filter(Path.is_file, optional)]
    return Domain(
        name=name,
        folder=folder,
        config=config,
        chain=_fill_in(chain, name),
        olive=check_olive_config(read_json(folder / "olive.json"), folder / "olive.json"),
        prompt=trimmed(read_text(folder / "prompt.md")).replace("{domain}", name),
        schema=schema,
        records=read_records(folder / "eval.jsonl", schema),
        hashes={file.name: sha256_file(file) for file in (*files, config.defaults.path)}
        | ({CALIBRATION_FILE: sha256_file(calibration)} if calibration else {}),
        calibration=calibration,
    )


def _read_schema(path: Path) -> dict[str, Any]:
    schema = read_json(path)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        key = ".".join(map(str, error.path)) or "(top)"
        raise UserError(f"{paths.shown(path)}: {key}: {error.message}") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise UserError(f"{paths.shown(path)}: type: the answer's schema must be of type object")
    if not schema.get("properties"):
        raise UserError(
            f"{paths.shown(path)}: properties: names no field, so no answer can be scored"
        )
    grammar(schema, paths.shown(path))  # what answers cannot be held to is refused here
    return schema


def _fill_in(chain: Chain, name: str) -> Chain:
    """Put the folder's name where a source says {domain}, so that a copied folder needs no edit."""

    def filled(rung: Rung) -> Rung:
        places = {key: getattr(rung, key) for key in ("source", "adapter", "base_source")}
        return rung.model_copy(
            update={key: text and text.replace("{domain}", name) for key, text in places.items()}
        )

    return chain.model_copy(update={"rung": [filled(rung) for rung in chain.rung]})
