"""What a chain and a release are, as data: an attempt, the chain's result, release.json.

Nothing here makes any of them: shared.pipeline.chain and shared.release.folder do.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.base import paths
from shared.base.errors import UserError
from shared.base.manifest import FileRecord, Manifest, Measurement, Strict
from shared.base.parsing import LARGEST_RELEASE, loads_strictly, read_json, validate
from shared.base.stage import StageResult
from shared.domain.domain import Domain
from shared.domain.settings import Exporter, Rung
from shared.olive.family_record import RECORD, FamilyRecord
from shared.release.gates import GateResult

Stage = Literal["source", "build", "package", "fidelity", "check", "bench", "gates"]
STAGES: tuple[Stage, ...] = ("source", "build", "package", "fidelity", "check", "bench", "gates")
STAGES_IN_ALL = 10
"""With card, release folder and publish, which come after the chain."""

RELEASE_FILE = "release.json"
GRAMMAR_FILE = "grammar.ebnf"
MODULE_FILE = "docintel.mjs"
PAGE_PARTS = tuple(
    f"shared/webgpu_bench/page/{name}.js"
    for name in ("prompt", "grammar", "half", "cache", "decode", "forced")
)
"""What the page asks with; docintel.mjs begins with it."""
CARD_CODE = ("shared.release.card.card", *PAGE_PARTS)
"""What renders a card and docintel.mjs, for `code_hash`."""

FAMILY_CARD_CODE = ("shared.release.card.family",)
"""The same of a family's card."""

CARD_FILE = "README.md"
RELEASE_FOLDER = "webgpu"


class Attempt(Strict):
    """One rung by one exporter: how far it got and why it ended. `keys` name its manifests.

    "skipped": its weights could not be had; "failed": it was tried; "not kept": another exporter
    of the same rung was better.
    """

    rung: str
    exporter: Exporter
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
    """All attempts of a chain, and the taken rung with its stages' results.

    `rung` is None, and `stages` and `gates` empty, where no rung was taken. `family`: what it
    shares with other domains (shared.pipeline.release_family).
    """

    domain: Domain
    attempts: list[Attempt] = field(default_factory=list)
    rung: Rung | None = None
    stages: dict[str, StageResult] = field(default_factory=dict)
    gates: list[GateResult] = field(default_factory=list)
    family: dict[str, Any] | None = None

    @property
    def manifests(self) -> dict[str, Manifest]:
        return {stage: done.manifest for stage, done in self.stages.items()}

    @property
    def package(self) -> Path:
        return self.stages["package"].folder


VERSION: Final = 4
"""Of release.json: goes up with every change that a reader of it must know of."""


class Listing(BaseModel):
    """What release.json of any version says of files and origin; whatever else it says is left out.

    `source_files`: SHA-256 of the weights' own files. `files`: all in the folder but release.json
    itself and the signature.
    """

    version: int
    key: str
    domain: str
    rung: str
    base: str
    licence: str
    licence_name: str | None = None
    git_commit: str | None
    git_clean: bool | None
    source_files: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileRecord]


class Release(Listing):
    """What a release folder says of itself. `key` changes with anything the release depends on.

    A measurement is named `<stage>.<name>`; `manifests` gives the key of each stage's manifest.
    `domain_files`: SHA-256 of what else it was made from. `card_template` and `card_code` (the hash
    of what renders it): with them the card can be made again. `release_version` is publish.version
    of fallback.toml; None lets the Hub's tags be counted on. `prompt_version` is fallback.toml's.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[4] = VERSION
    release_version: str | None = None
    prompt_version: int = 1
    exporter: str = ""
    repository: str = ""
    licence_link: str | None = None
    commercial_use: bool = True
    prompt_only: bool
    publishable: bool
    not_publishable_because: str | None
    why: str
    created: str
    manifests: dict[str, str]
    tools: dict[str, str]
    domain_files: dict[str, str] = Field(default_factory=dict)
    card_template: str = ""
    card_code: str = ""
    example: str | None = None
    measurements: dict[str, Measurement]
    facts: dict[str, dict[str, Any]]
    gates: list[GateResult]
    attempts: list[Attempt]

    @property
    def most_tokens(self) -> int:
        """Of an answer, as the check had them; 0 of a release that does not tell."""
        return int(self.facts.get("answers", {}).get("max_new_tokens", 0))


class FamilyMember(Strict):
    """A domain of a family: its repository's name without the organisation, the rung that was taken,
    the key of its release, and the most tokens of an answer there (0: it does not tell)."""

    model: str
    rung: str
    release: str
    max_new_tokens: int = 0


class FamilyRelease(FamilyRecord):
    """family.json of a folder that is published. `key` changes with anything it depends on; `others`:
    every file but what `shared` and `adapters` list, family.json itself and the signature."""

    model_config = ConfigDict(extra="forbid")

    key: str
    name: str
    repository: str
    licence: str
    licence_name: str | None = None
    licence_link: str | None = None
    commercial_use: bool = True
    created: str
    git_commit: str | None
    git_clean: bool | None
    card_code: str
    domains: dict[str, FamilyMember]
    others: dict[str, FileRecord]

    @property
    def files(self) -> dict[str, FileRecord]:
        """All of them, as a release.json lists them."""
        adapters = (adapter.files for adapter in self.adapters.values())
        return {**self.others, **self.shared, **{n: r for own in adapters for n, r in own.items()}}


class OtherVersion(UserError):
    """The release.json is of another version; `listing` has what is known of it all the same."""

    def __init__(self, path: Path, listing: Listing) -> None:
        self.listing = listing
        self.what = (
            "made by another version of this code (release.json version "
            f"{listing.version}, this one reads {VERSION})"
        )
        super().__init__(f"{paths.shown(path)}: {self.what}; run `./inv release` again")


def release_folder(domain: str) -> Path:
    return paths.models(domain) / RELEASE_FOLDER


def own_release(domain: str) -> Release:
    """The release in a domain's folder; UserError where there is none, or another domain's: a copied
    or renamed folder."""
    folder = release_folder(domain)
    release = read_release(folder)
    if release.domain != domain:
        raise UserError(
            f"{paths.shown(folder)}: is the release of {release.domain!r}; "
            f"run `./inv release --domain {domain}`"
        )
    return release


def family_folder(name: str) -> Path:
    return paths.models("families") / name


def read_family_release(folder: Path) -> FamilyRelease:
    """The family.json of a published folder; UserError where it is none."""
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{paths.shown(path)}: missing; run `./inv release-family` first")
    return validate(read_json(path), FamilyRelease, paths.shown(path))


def read_release(folder: Path) -> Release:
    """The release.json of a folder; UserError where there is none, OtherVersion for an older one."""
    path = folder / RELEASE_FILE
    try:
        if path.stat().st_size > LARGEST_RELEASE:
            raise UserError(
                f"{paths.shown(path)}: {path.stat().st_size} bytes; that is no manifest"
            )
        data = loads_strictly(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{paths.shown(path)}: missing; run `./inv release` first") from None
    except OSError as error:
        raise UserError(f"{paths.shown(path)}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{paths.shown(path)}: not valid JSON: {error}") from None
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise OtherVersion(path, validate(data, Listing, paths.shown(path)))
    return validate(data, Release, paths.shown(path))
