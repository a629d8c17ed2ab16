"""A release under another name on the Hub than the one its card tells people to load.

`./inv publish --org acme` must not put up a card that says `docintel/…`. The card is a function of
release.json, so a copy of the folder in build/addressed/ gets a card, a release.json and a signature of
its own; weights are linked, not copied, and nothing is measured again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import link_or_copy, swap_in
from shared.base.hashing import sha256_file
from shared.base.manifest import FileRecord
from shared.base.parsing import read_text
from shared.base.progress import say
from shared.release.model import CARD_FILE, RELEASE_FILE, Release, read_release
from shared.release.signature import SIGNATURE_FILE
from shared.release.signing import sign_folder, signing_key


def addressed(folder: Path, release: Release, repository: str, key: str | None) -> Path:
    """`folder` where its card names `repository`, else a copy whose card does.

    The copy is kept, so that its signature, and with it what is published, stays the same the next
    time. `key`: publish.signing_key. UserError where a signed release would lose its signature.
    """
    if release.repository == repository:
        return folder
    if (folder / SIGNATURE_FILE).exists() and signing_key(key) is None:
        raise UserError(
            f"{paths.shown(folder)}: is signed as {release.repository}; to publish it as "
            f"{repository} its key is needed: set DOCINTEL_SIGNING_KEY"
        )
    copy = paths.build() / "addressed" / repository.replace("/", "--") / folder.name
    renamed = release.model_copy(update={"repository": repository})
    text = _render(folder, renamed)
    if not _is_there(copy, renamed, text):
        say(f"      the card names {release.repository}; made again for {repository}")
        _make(copy, folder, renamed, text)
    sign_folder(copy, key)
    if signing_key(key) is None:
        (copy / SIGNATURE_FILE).unlink(missing_ok=True)
    return copy


def _render(folder: Path, release: Release) -> str:
    """The card as `shared.release.folder` renders it: with every file listed but the card itself."""
    from shared.release.card.card import render_card

    without = {name: record for name, record in release.files.items() if name != CARD_FILE}
    prompt = read_text(folder / "prompt.md").strip()
    return render_card(release.model_copy(update={"files": without}), prompt)


def _make(copy: Path, folder: Path, release: Release, card: str) -> None:
    partial = copy.with_name(f".{copy.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in release.files:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        if name != CARD_FILE:
            link_or_copy(folder / name, partial / name)
    path = partial / CARD_FILE
    path.write_text(card, encoding="utf-8")
    listed = FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)
    release = release.model_copy(update={"files": release.files | {CARD_FILE: listed}})
    (partial / RELEASE_FILE).write_text(release.model_dump_json(indent=2) + "\n", encoding="utf-8")
    swap_in(partial, copy)


def _is_there(copy: Path, release: Release, card: str) -> bool:
    """Whether the copy is of this release, made by this code; publishing checks its files' hashes."""
    try:
        found = read_release(copy)
        listed = found.files | {CARD_FILE: release.files[CARD_FILE]}
        same = found.model_copy(update={"files": listed}) == release
        return same and (copy / CARD_FILE).read_bytes() == card.encode()
    except (UserError, OSError, KeyError):
        return False
