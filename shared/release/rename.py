"""A release under another repository's name than the one on its card.

`./inv publish --org acme` must not put up a card that says `docintel/…`. The card is a function of
release.json, so a copy of the folder in build/renamed/ gets a card, a release.json and a signature of
its own; weights are linked, not copied, and nothing is measured again.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from shared.base import paths
from shared.base.code import code_hash
from shared.base.errors import UserError
from shared.base.files import link_or_copy, swap_in
from shared.base.parsing import read_text
from shared.base.progress import say
from shared.base.text import trimmed
from shared.release.family import write_family
from shared.release.folder import write_described
from shared.release.model import (
    CARD_CODE,
    CARD_FILE,
    FAMILY_CARD_CODE,
    FamilyRelease,
    Release,
    read_family_release,
    read_release,
)
from shared.release.signature import SIGNATURE_FILE
from shared.release.signing import sign_folder, signing_key


def renamed(folder: Path, release: Release, repository: str, key: str | None) -> Path:
    """`folder` where its card names `repository`, else a copy whose card does.

    The copy is kept, so that its signature, and with it what is published, stays the same the next
    time. `key`: publish.signing_key. UserError where a signed release would lose its signature.
    """
    if release.repository == repository:
        return folder
    _need_this_code(folder, release.card_code, CARD_CODE)
    copy = _place(folder, release.repository, repository, key)
    others = {name: record for name, record in release.files.items() if name != CARD_FILE}
    wanted = release.model_copy(update={"repository": repository, "files": others})
    prompt = trimmed(read_text(folder / "prompt.md"))
    if not _is_there(copy, wanted, prompt):
        say(f"      the card names {release.repository}; made again for {repository}")
        _make(copy, folder, wanted.files, lambda partial: write_described(partial, wanted, prompt))
    return _signed(copy, key)


def renamed_family(folder: Path, family: FamilyRelease, repository: str, key: str | None) -> Path:
    """The same of a family's folder. Its domains are in the same organisation as the family."""
    if family.repository == repository:
        return folder
    _need_this_code(folder, family.card_code, FAMILY_CARD_CODE)
    copy = _place(folder, family.repository, repository, key)
    others = {name: record for name, record in family.others.items() if name != CARD_FILE}
    wanted = family.model_copy(update={"repository": repository, "others": others})
    if not _is_the_family(copy, wanted):
        say(f"      the card names {family.repository}; made again for {repository}")
        _make(copy, folder, wanted.files, lambda partial: write_family(partial, wanted))
    return _signed(copy, key)


def _need_this_code(folder: Path, made_by: str, code: tuple[str, ...]) -> None:
    """A card made anew by other code would not fit what lies beside it."""
    if made_by != code_hash(*code):
        raise UserError(
            f"{paths.shown(folder)}: its card was made by another version of this code; run "
            "`./inv release` (or release-family) again first; what is unchanged is not done again"
        )


def _place(folder: Path, was: str, repository: str, key: str | None) -> Path:
    if (folder / SIGNATURE_FILE).exists() and signing_key(key) is None:
        raise UserError(
            f"{paths.shown(folder)}: is signed as {was}; to publish it as "
            f"{repository} its key is needed: set DOCINTEL_SIGNING_KEY"
        )
    return paths.build() / "renamed" / repository.replace("/", "--") / folder.name


def _make(
    copy: Path, folder: Path, names: Iterable[str], describe: Callable[[Path], object]
) -> None:
    partial = copy.with_name(f".{copy.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in names:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(folder / name, partial / name)
    describe(partial)
    swap_in(partial, copy)


def _signed(copy: Path, key: str | None) -> Path:
    sign_folder(copy, key)
    if signing_key(key) is None:
        (copy / SIGNATURE_FILE).unlink(missing_ok=True)
    return copy


def _is_the_family(copy: Path, family: FamilyRelease) -> bool:
    from shared.release.card.family import render_family_card

    try:
        found = read_family_release(copy)
        card = (copy / CARD_FILE).read_bytes()
    except (UserError, OSError):
        return False
    others = {name: record for name, record in found.others.items() if name != CARD_FILE}
    same = found.model_copy(update={"others": others}) == family
    return same and card == render_family_card(family).encode()


def _is_there(copy: Path, release: Release, prompt: str) -> bool:
    """Whether the copy is of this release, made by this code; publishing checks its files' hashes."""
    from shared.release.card.card import render_card

    try:
        found = read_release(copy)
        card = (copy / CARD_FILE).read_bytes()
    except (UserError, OSError):
        return False
    others = {name: record for name, record in found.files.items() if name != CARD_FILE}
    same = found.model_copy(update={"files": others}) == release
    return same and card == render_card(release, prompt).encode()
