"""Does the card say what was measured? It is made again from release.json and compared, line by line.

A card made by another version of the code may have other words around the same figures; then every
figure in it must still be one that release.json leads to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from shared.card.card import render_card
from shared.card.code import code_hash
from shared.card.front_matter import problems, read_front_matter
from shared.card.tables import shown
from shared.errors import UserError
from shared.gates import GateResult
from shared.release import CARD_FILE, Release
from shared.strict import read_text
from shared.units import number
from shared.verify.line import need

FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
LICENCE_KEYS = {"license": "licence", "base_model": "base", "license_name": "licence_name"}


def figures(folder: Path, release: Release) -> str:
    """Every line of README.md is the one that the measurements lead to."""
    card = read_text(folder / CARD_FILE)
    again = render_card(release, read_text(folder / "prompt.md").strip())
    count = len(FIGURE.findall(card))
    if card == again:
        return f"README.md made again from release.json: the same, with all {count} figures"
    if release.card_code == code_hash():
        raise UserError(_difference(card, again))
    measured = " ".join(map(shown, release.measurements.values()))
    known = {*FIGURE.findall(again), *FIGURE.findall(measured)}
    strange = next((f for f in FIGURE.findall(card) if f not in known), None)
    need(strange is None, f"README.md: {strange} is no figure of release.json")
    commit = (release.git_commit or "unknown")[:12]
    return f"all {count} figures stand in release.json; its words are those of commit {commit}"


def _difference(card: str, again: str) -> str:
    pairs = zip_longest(card.splitlines(), again.splitlines(), fillvalue="")
    where, (found, wanted) = next((n, p) for n, p in enumerate(pairs, 1) if p[0] != p[1])
    at = next((i for i, (a, b) in enumerate(zip_longest(found, wanted)) if a != b), 0)
    start = max(0, at - 20)
    return (
        f"README.md:{where}: says {found[start : start + 60].strip()!r}, "
        f"but release.json leads to {wanted[start : start + 60].strip()!r}"
    )


def measurements(release: Release) -> str:
    """Each measurement has its manifest; gates, attempts and sizes do not contradict them."""
    for name in release.measurements:
        stage = name.split(".")[0]
        need(stage in release.manifests, f"{name}: no manifest of the stage {stage!r} is named")
    for sentence in (*_sizes(release), *_gates(release), *_attempts(release)):
        raise UserError(f"release.json: {sentence}")
    return f"{len(release.measurements)} measurements from {len(release.manifests)} manifests"


def _gates(release: Release) -> Iterator[str]:
    """A gate repeats its measurement; it must be the same value, in the same words."""
    for gate in release.gates:
        m = release.measurements.get(gate.measurement)
        if m is None:
            yield f"gate {gate.name!r}: {gate.measurement} was not measured"
        elif m.value != gate.value or not _says(gate, number(m.value, m.unit)):
            yield f"gate {gate.name!r}: says {gate.reason!r}, measured was {shown(m)}"


def _says(gate: GateResult, text: str) -> bool:
    if gate.outcome != "pass":
        return True
    return gate.reason in (text, f"{text} (software adapter)")


def _sizes(release: Release) -> Iterator[str]:
    """The bytes of a dtype are those of its files, which lie here and are hashed."""
    for dtype in ("q4f16", "q4"):
        name = f"package.{dtype}_bytes"
        stated = release.measurements.get(name)
        start = f"onnx/model_{dtype}.onnx"
        size = sum(r.bytes for n, r in release.files.items() if n.startswith(start))
        if stated is None or stated.value != size:
            yield f"{name}: says {shown(stated)}, the files have {size:,} bytes"


def _attempts(release: Release) -> Iterator[str]:
    """What the taken attempt measured is what the release shows."""
    taken = [a for a in release.attempts if a.outcome == "taken"]
    for attempt in taken:
        for name, m in attempt.measured.items():
            ours = release.measurements.get(f"package.{name}", m)
            if ours.value != m.value:
                yield f"attempts: {name}: says {shown(m)}, measured was {shown(ours)}"
    if [a.rung for a in taken] != [release.rung]:
        yield f"attempts: {release.rung!r} is not the one rung that was taken"


def origin(folder: Path, release: Release) -> str:
    """Licence and base model are stated, as release.json has them, in a form the Hub takes."""
    try:
        data = read_front_matter(read_text(folder / CARD_FILE))
    except ValueError as error:
        raise UserError(f"README.md: {error}") from None
    for sentence in problems(data):
        raise UserError(f"README.md: {sentence}")
    for key, ours in LICENCE_KEYS.items():
        said, meant = data.get(key), getattr(release, ours)
        need(said == meant, f"README.md: {key}: says {said!r}, release.json has {meant!r}")
    return f"{release.base}, {release.licence_name or release.licence}"
