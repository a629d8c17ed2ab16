"""A family's folder, exactly what is published: models/families/<name>.

    family.json    what is shared, each adapter's files, of each domain the release that was measured
    README.md      the card, a function of family.json alone
    config.json …  the base's package; onnx/ and adapters/ as shared.olive.family lays them out
    domains/<d>/   prompt.md, schema.json, grammar.ebnf, example.txt: what whoever switches asks with

An adapter is in it only where its domain was released beside this base.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from shared.base import paths
from shared.base.code import code_hash
from shared.base.errors import UserError
from shared.base.files import link_or_copy, recover, swap_in, write_json
from shared.base.hashing import files_below, refuse_work, sha256_files, sha256_json
from shared.base.lock import alone
from shared.base.manifest import FILE_NAME
from shared.base.stage import StageResult
from shared.domain.settings import PublishSettings, Rung
from shared.hub.names import organisation
from shared.olive.family_record import RECORD, FamilyRecord, read_family
from shared.release.folder import LICENCE, file_record, git_state
from shared.release.model import (
    CARD_FILE,
    FAMILY_CARD_CODE,
    FamilyMember,
    FamilyRelease,
    Release,
    family_folder,
    read_family_release,
)
from shared.release.signing import sign_folder


def make_family(
    name: str,
    built: StageResult,
    rung: Rung,
    releases: Mapping[str, Release],
    settings: PublishSettings,
    *,
    anew: bool = False,
) -> FamilyRelease:
    """Write the folder of the domains that were released; it is swapped in whole. One that is there
    and would be the same stays as it is.

    UserError where another run has added a domain meanwhile; `anew`: whoever is in it now may go.
    """
    folder = family_folder(name)
    with alone(paths.build() / f".family-{name}.lock", paths.shown(folder)):
        if not anew and (joined := sorted(_domains_in(folder) - releases.keys())):
            raise UserError(
                f"{paths.shown(folder)}: {joined[0]} has joined it meanwhile; run this again: what is "
                "finished is not done again"
            )
        return _make(folder, built, _described(name, built, rung, releases, settings), settings)


def _make(
    folder: Path, built: StageResult, family: FamilyRelease, settings: PublishSettings
) -> FamilyRelease:
    recover(folder)
    if old := _unchanged(folder, family.key):
        sign_folder(folder, settings.signing_key)
        return old
    refuse_work(f"family {folder.name}")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    names = [n for n in built.manifest.outputs if n in family.files or not _is_listed(n)]
    for file in names:
        _link(built.folder / file, partial / file)
    family = write_family(partial, family)
    sign_folder(partial, settings.signing_key)
    swap_in(partial, folder)
    return family


def _domains_in(folder: Path) -> set[str]:
    recover(folder)
    with suppress(UserError):
        return set(read_family_release(folder).domains)
    return set()


def write_family(folder: Path, family: FamilyRelease) -> FamilyRelease:
    """Write card and family.json into a folder that has all other files."""
    from shared.release.card.family import render_family_card

    (folder / CARD_FILE).write_text(render_family_card(family), encoding="utf-8")
    listed = {*family.shared, *(n for a in family.adapters.values() for n in a.files)}
    others = [n for n in files_below(folder) if n not in (*listed, RECORD)]
    others = {n: file_record(folder / n) for n in others}  # type: ignore[assignment]
    family = family.model_copy(update={"others": others})
    write_json(folder / RECORD, family.model_dump())
    return family


def _described(
    name: str,
    built: StageResult,
    rung: Rung,
    releases: Mapping[str, Release],
    settings: PublishSettings,
) -> FamilyRelease:
    told, (commit, clean) = read_family(built.folder), git_state()
    domains = {
        domain: FamilyMember(
            model=release.repository.split("/")[1],
            rung=release.rung,
            release=release.key,
            max_new_tokens=release.most_tokens,
        )
        for domain, release in sorted(releases.items())
    }
    repository, card_code = f"{organisation(settings)}/{name}", code_hash(*FAMILY_CARD_CODE)
    licence = rung.model_dump(include=LICENCE)
    keys = [licence, {domain: member.model_dump() for domain, member in domains.items()}]
    own = {domain: told.adapters[domain] for domain in domains}
    return FamilyRelease(
        **{k: getattr(told, k) for k in FamilyRecord.model_fields if k != "adapters"},
        adapters=own,
        key=sha256_json([built.manifest.key, repository, keys, card_code])[:16],
        name=name,
        repository=repository,
        **licence,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=commit,
        git_clean=clean,
        card_code=card_code,
        domains=domains,
        others={},
    )


def _is_listed(name: str) -> bool:
    return name.startswith(("onnx/", "adapters/", "domains/")) or name in (RECORD, FILE_NAME)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    large = "_data" in source.name or target.parent.name in ("onnx", "adapters")
    (link_or_copy if large else shutil.copyfile)(source, target)


def _unchanged(folder: Path, key: str) -> FamilyRelease | None:
    try:
        family = read_family_release(folder)
        hashes = sha256_files(folder, list(family.files))
    except (UserError, OSError):
        return None
    intact = all(hashes[name] == record.sha256 for name, record in family.files.items())
    return family if intact and family.key == key else None
