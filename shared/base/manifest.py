"""What a stage leaves behind: its inputs, settings, tools, outputs and measurements, in one file.

Numbers live here and nowhere else: gates, card and tables read them from manifests.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

FILE_NAME = "manifest.json"

Value = bool | int | float | str | None


class Strict(BaseModel):
    """Unknown keys are errors, so that a manifest from another version is never half-understood."""

    model_config = ConfigDict(extra="forbid")


class Measurement(Strict):
    """A value with its unit and how it was come by; `value` is None only together with `reason`.

    `low` and `high`: the ends of its 95 % interval, in the same unit.
    """

    value: Value = None
    unit: str = ""
    how: str = ""
    where: str = ""
    n: int | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    samples: list[float] | None = None
    software_adapter: bool = False
    reason: str | None = None

    @classmethod
    def missing(cls, reason: str, unit: str = "") -> Measurement:
        """A number nobody measured, and why."""
        return cls(reason=reason, unit=unit)


class FileRecord(Strict):
    """One output file: SHA-256 in hex and size in bytes."""

    sha256: str
    bytes: int


class Manifest(Strict):
    """See the module's docstring. `key` is the hash of stage, code, inputs, settings and
    tools. `unfinished`: what the time did not allow; another run goes on with it.
    `resumed`: a run before it had done a part; seconds and memory are those of the last run."""

    version: int = 1
    stage: str
    key: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    tools: dict[str, str]
    outputs: dict[str, FileRecord]
    measurements: dict[str, Measurement]
    facts: dict[str, Any]
    wall_seconds: float
    peak_rss_bytes: int
    finished: str
    unfinished: str | None = None
    resumed: bool = False

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest in `folder`; pydantic.ValidationError or OSError where there is none."""
        return cls.model_validate_json((folder / FILE_NAME).read_bytes())


def tool_versions(*packages: str) -> dict[str, str]:
    """The installed versions of the packages a stage's result depends on."""
    return {name: metadata.version(name) for name in packages}
