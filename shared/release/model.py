"""What a chain and a release are, as data: an attempt, the chain's result, release.json.

Nothing here makes any of them: shared.pipeline.chain walks, shared.release.folder writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from shared.base import paths
from shared.base.errors import UserError
from shared.base.manifest import FileRecord, Manifest, Measurement, Strict
from shared.base.parsing import LARGEST_RELEASE, loads_strictly, sentence
from shared.base.stage import Done
from shared.domain.domain import Domain
from shared.domain.settings import Recipe, Rung
from shared.release.gates import GateResult

Stage = Literal["source", "build", "package", "fidelity", "check", "bench", "gates"]
STAGES: tuple[Stage, ...] = ("source", "build", "package", "fidelity", "check", "bench", "gates")
STAGES_IN_ALL = 10
"""With card, release folder and publish, which come after the chain."""

RELEASE_FILE = "release.json"
CARD_FILE = "README.md"
RELEASE_FOLDER = "webgpu"


class Attempt(Strict):
    """One rung with one recipe: how far it got and why it ended. `keys` name its manifests.

    "skipped": its weights could not be had; "failed": it was tried; "not kept": another recipe of
    the same rung was better.
    """

    rung: str
    recipe: Recipe
    source: str
    base: str
    outcome: Literal["taken", "skipped", "failed", "not kept"]
    stage: Stage
    reason: str
    seconds: float = 0.0
    keys: dict[str, str] = Field(default_factory=dict)
    measured: dict[str, Measurement] = Field(default_factory=dict)


@dataclass
class ChainResult:
    """What walking the chain left: all attempts, and the taken rung with its stages' results.

    `rung` is None, and `stages` and `gates` empty, where no rung was taken.
    """

    domain: Domain
    attempts: list[Attempt] = field(default_factory=list)
    rung: Rung | None = None
    stages: dict[str, Done] = field(default_factory=dict)
    gates: list[GateResult] = field(default_factory=list)

    @property
    def manifests(self) -> dict[str, Manifest]:
        return {stage: done.manifest for stage, done in self.stages.items()}

    @property
    def package(self) -> Path:
        return self.stages["package"].folder


class Release(Strict):
    """What a release folder says of itself. `key` changes with anything the release depends on.

    A measurement is named `<stage>.<name>`; `manifests` gives the key of each stage's manifest.
    `source_files` and `domain_files`: SHA-256 of what it was made from. `card_template` and
    `card_code` (the hash of what renders it): with them the card can be made again. `files`: all
    but release.json itself and the signature. `release_version` is publish.version of
    fallback.toml; None lets the Hub's tags be counted on.
    """

    version: Literal[2] = 2
    key: str
    release_version: str | None = None
    domain: str
    rung: str
    recipe: str = ""
    repository: str = ""
    base: str
    licence: str
    licence_name: str | None = None
    licence_link: str | None = None
    commercial_use: bool = True
    prompt_only: bool
    publishable: bool
    not_publishable_because: str | None
    why: str
    created: str
    git_commit: str | None
    git_clean: bool | None
    manifests: dict[str, str]
    tools: dict[str, str]
    source_files: dict[str, str] = Field(default_factory=dict)
    domain_files: dict[str, str] = Field(default_factory=dict)
    card_template: str = ""
    card_code: str = ""
    example: str | None = None
    measurements: dict[str, Measurement]
    facts: dict[str, dict[str, Any]]
    gates: list[GateResult]
    attempts: list[Attempt]
    files: dict[str, FileRecord]


def release_folder(domain: str) -> Path:
    return paths.models(domain) / RELEASE_FOLDER


def read_release(folder: Path) -> Release:
    """The release.json of a release folder; UserError where there is none or it is not ours."""
    path = folder / RELEASE_FILE
    try:
        if path.stat().st_size > LARGEST_RELEASE:
            raise UserError(
                f"{paths.shown(path)}: {path.stat().st_size} bytes; that is no manifest"
            )
        content = path.read_bytes()
        loads_strictly(content.decode())
        return Release.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{paths.shown(path)}: missing; run `./inv release` first") from None
    except OSError as error:
        raise UserError(f"{paths.shown(path)}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise UserError(sentence(error, Release, paths.shown(path))) from None
    except ValueError as error:
        raise UserError(f"{paths.shown(path)}: not valid JSON: {error}") from None
