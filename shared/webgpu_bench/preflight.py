"""Before any browser is started: will this model load on that class of device, and in which type?

The profiles and their sources stand in profiles.toml. Nothing here is measured on a device: shapes
and types of the graph are compared with limits.

>>> for row in preflight({"q4f16": footprint_f16, "q4": footprint_f32}):
...     print(row.profile, row.verdict)
discrete GPU, 8 GB q4f16
WebGPU's guaranteed minimum does not fit: model.embed_tokens.weight_q4
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.manifest import Strict
from shared.base.parsing import read_toml
from shared.base.paths import shown
from shared.base.tables import table
from shared.webgpu_bench.footprint import Footprint, read_footprint
from shared.webgpu_bench.memory import CACHE_COPIES

PROFILES = Path(__file__).with_name("profiles.toml")
WANTED_CONTEXT = 512
"""A model that cannot read this many tokens does not count as fitting."""


class Profile(Strict):
    """One class of device; see profiles.toml."""

    name: str
    shader_f16: bool
    max_buffer_bytes: int = Field(gt=0)
    max_binding_bytes: int = Field(gt=0)
    memory_bytes: int | None = Field(default=None, gt=0)
    source: str = Field(min_length=1)


class Profiles(Strict):
    version: Literal[1]
    profile: list[Profile] = Field(min_length=1)


@dataclass(frozen=True)
class Row:
    """One profile's answer. `verdict`: the type that fits, or why none does; `notes`: what
    onnxruntime-web must do for it. `context`: the longest text within the memory, if that is known;
    `prompt`: the most tokens whose logits fit one binding, read in one pass."""

    profile: str
    fits: bool
    dtype: str
    verdict: str
    notes: str
    weight_bytes: int
    context: int | None
    prompt: int


def read_profiles() -> list[Profile]:
    """The device classes; UserError where the file is wrong."""
    return read_toml(PROFILES, Profiles).profile


def package_footprints(folder: Path) -> dict[str, Footprint]:
    """dtype → footprint of each graph in a package or release folder."""
    graphs = sorted((folder / "onnx").glob("model_*.onnx"))
    if not graphs:
        raise UserError(f"{shown(folder)}: holds no onnx/model_*.onnx; build the domain first")
    return {found.dtype: found for found in map(read_footprint, graphs)}


def preflight(footprints: Mapping[str, Footprint]) -> list[Row]:
    """A row a profile. `footprints` by dtype: q4f16 goes where shader-f16 is, q4 where it is not, and
    where a package has no q4f16."""
    return [_row(profile, footprints) for profile in read_profiles()]


COLUMNS = ("device class", "loads", "weights", "longest text", "longest single pass", "notes")


def preflight_table(rows: list[Row], style: str = "github") -> str:
    """The rows as a table, for a terminal, a card or docs."""
    return table(COLUMNS, [cells(row) for row in rows], style)


def cells(row: Row) -> tuple[str, ...]:
    """A row's words, in the order of COLUMNS."""
    return (
        row.profile,
        row.verdict,
        number(row.weight_bytes, "B") if row.weight_bytes else "–",
        "unknown" if row.context is None else f"{row.context:,}",
        f"{row.prompt:,}",
        row.notes,
    )


def _row(profile: Profile, footprints: Mapping[str, Footprint]) -> Row:
    dtype = "q4f16" if profile.shader_f16 and "q4f16" in footprints else "q4"
    found = footprints.get(dtype)
    if found is None:
        why = f"does not fit: the package has no {dtype} file"
        return Row(profile.name, False, dtype, why, "", 0, None, 0)
    context = _context(profile, found)
    problem = _problem(profile, found, context)
    return Row(
        profile=profile.name,
        fits=problem is None,
        dtype=dtype,
        verdict=problem or dtype,
        notes=_notes(profile, found, context),
        weight_bytes=found.weight_bytes,
        context=context,
        prompt=min(profile.max_buffer_bytes, profile.max_binding_bytes)
        // found.logits_bytes_per_token,
    )


def _problem(profile: Profile, found: Footprint, context: int | None) -> str | None:
    name, size = found.largest
    if size > profile.max_buffer_bytes:
        limit = number(profile.max_buffer_bytes, "B")
        return f"does not fit: {name} ({number(size, 'B')}) is over maxBufferSize ({limit})"
    if profile.memory_bytes and context is not None and context < WANTED_CONTEXT:
        return (
            f"does not fit: {number(found.weight_bytes, 'B')} of weights and {WANTED_CONTEXT} tokens "
            f"of text are over {number(profile.memory_bytes, 'B')} of memory"
        )
    return None


def _context(profile: Profile, found: Footprint) -> int | None:
    """The text whose cache, twice, has room beside the weights, or what the model was made for."""
    if profile.memory_bytes is None:
        return found.made_for
    left = profile.memory_bytes - found.weight_bytes
    fits = max(0, left // (CACHE_COPIES * found.cache_bytes_per_token))
    return min(fits, found.made_for) if found.made_for else fits


def _notes(profile: Profile, found: Footprint, context: int | None) -> str:
    """Which tensors are over the binding limit, and into how many parts each must go."""
    notes = []
    for name, size in found.weights.items():
        if size > profile.max_buffer_bytes:
            parts = -(-size // profile.max_buffer_bytes)
            notes.append(f"{name} would have to be split by rows into {parts} in the graph")
        elif size > profile.max_binding_bytes:
            parts = -(-size // profile.max_binding_bytes)
            notes.append(f"{name} ({number(size, 'B')}) is bound in {parts} segments")
    return "; ".join(notes)
