"""The card, made again from release.json and compared line by line; and release.json with itself.

A card made by another version of the code may have other words around the same figures. Its words
cannot be compared with anything here, so that it never passes; other figures, or the same ones in
another order, with another sign or unit, fail it.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from shared.base.code import code_hash
from shared.base.errors import UserError
from shared.base.front_matter import read_front_matter
from shared.base.parsing import read_text
from shared.base.tables import shown
from shared.base.text import trimmed
from shared.olive.family_record import RECORD
from shared.release.card.card import render_card
from shared.release.card.front_matter import problems
from shared.release.card.usage import module
from shared.release.gates import failed, judge
from shared.release.model import (
    CARD_CODE,
    CARD_FILE,
    MODULE_FILE,
    RELEASE_FILE,
    FamilyRelease,
    Listing,
    Release,
)
from shared.release.verify.line import NotChecked, need

FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
STATED = re.compile(
    r"not measured|(?:(?<![\w.)–-])[-+−])?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?"
    r"(?:\s?(?:%|points|[kMGT]?B\b|tokens/s|ms\b|s\b))?"
)
"""A figure with its sign and unit, or the words that stand where there is none."""
LICENCE_KEYS = {"license": "licence", "base_model": "base", "license_name": "licence_name"}


def figures(folder: Path, release: Release) -> str:
    """Every line of README.md is the one that the measurements lead to.

    NotChecked where other code made it from the same figures: its words remain to be compared.
    """
    card = read_text(folder / CARD_FILE)
    again = render_card(release, trimmed(read_text(folder / "prompt.md")))
    count = len(FIGURE.findall(card))
    beside = folder / MODULE_FILE
    same_module = beside.is_file() and read_text(beside) == module()
    if card == again and same_module:
        return f"README.md made again from release.json: the same, with all {count} figures"
    if release.card_code == code_hash(*CARD_CODE):
        need(same_module, f"{MODULE_FILE}: not the one that this version of the code writes")
        raise UserError(_difference(card, again))
    pairs = zip_longest(STATED.findall(card), STATED.findall(again), fillvalue="nothing")
    found, wanted = next((p for p in pairs if p[0] != p[1]), ("", ""))
    need(found == wanted, f"README.md: states {found!r} where release.json leads to {wanted!r}")
    commit = (release.git_commit or "unknown")[:12]
    raise NotChecked(
        "README.md was made by another version of the card's code: the figures are those of "
        f"release.json, in order; check out commit {commit} to compare the words"
    )


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
    for sentence in (*_sizes(release), *contradictions(release), *_attempts(release)):
        raise UserError(f"release.json: {sentence}")
    return f"{len(release.measurements)} measurements from {len(release.manifests)} manifests"


def _sizes(release: Release) -> Iterator[str]:
    """The bytes of a dtype are those of its files, which lie here and are hashed."""
    for dtype in ("q4f16", "q4"):
        name = f"package.{dtype}_bytes"
        stated = release.measurements.get(name)
        start = f"onnx/model_{dtype}.onnx"
        size = sum(r.bytes for n, r in release.files.items() if n.startswith(start))
        if stated is None or stated.value != size:
            yield f"{name}: says {shown(stated)}, the files have {size:,} bytes"


def contradictions(release: Release) -> Iterator[str]:
    """A sentence for each gate that, judged again, comes to another verdict than is stated."""
    for stated in release.gates:
        m = release.measurements.get(stated.gate.measurement)
        if m is None:
            yield f"gate {stated.name!r}: {stated.gate.measurement} was not measured"
            continue
        again = judge(stated.gate, m)
        if again.outcome != stated.outcome:
            yield (
                f"gate {stated.name!r}: says {stated.outcome!r}, but {shown(m)} against "
                f"{again.bound} is {again.outcome!r}"
            )
        elif again != stated:
            yield f"gate {stated.name!r}: says {stated.reason!r}, measured was {shown(m)}"
    stops = failed(release.gates, "publish")
    if release.publishable and stops:
        yield f"publishable: says true, but the gate {stops[0].name!r} failed"


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


def origin(folder: Path, release: Listing | FamilyRelease) -> str:
    """Licence and base model are stated, as its manifest has them, in a form the Hub takes."""
    manifest = RECORD if isinstance(release, FamilyRelease) else RELEASE_FILE
    try:
        data = read_front_matter(read_text(folder / CARD_FILE))
    except ValueError as error:
        raise UserError(f"README.md: {error}") from None
    for sentence in problems(data):
        raise UserError(f"README.md: {sentence}")
    for key, ours in LICENCE_KEYS.items():
        said, meant = data.get(key), getattr(release, ours)
        need(said == meant, f"README.md: {key}: says {said!r}, {manifest} has {meant!r}")
    return f"{release.base}, {release.licence_name or release.licence}"
