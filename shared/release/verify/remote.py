"""A release on the Hub as a folder: one commit, every file compared with the Hub's checksums."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from shared.base import paths
from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.hashing import sha256_now
from shared.hub.client import single_tries
from shared.hub.download import REVISION
from shared.hub.files import is_the_hubs
from shared.hub.retries import Hub, Sleep, commit_of, transferring
from shared.release.verify.line import need

FORM = "org/name, org/name@<commit or tag>, or a folder"


@dataclass(frozen=True)
class Fetched:
    """One commit of a repository as a folder of plain files, and what the Hub says of each."""

    repo_id: str
    revision: str
    folder: Path
    files: dict[str, RepoFile]


def parse(target: str) -> tuple[str, str]:
    """(org/name, revision); the revision is `main` where none is given. UserError for other forms."""
    name, _, revision = target.partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(f"{target}: neither a folder nor a repository; write {FORM}") from None
    if name.count("/") != 1 or ("@" in target and not REVISION.fullmatch(revision)):
        raise UserError(f"{target}: neither a folder nor a repository; write {FORM}")
    return name, revision or "main"


def fetch(target: str, *, endpoint: str | None = None, sleep: Sleep = time.sleep) -> Fetched:
    """Download one commit into build/verify/; files that are there and whole are not sent again.

    UserError with one sentence where the Hub does not give it.
    """
    repo_id, revision = parse(target)
    hub = Hub(HfApi(endpoint=endpoint), repo_id, sleep=sleep)
    with single_tries():
        return _fetched(hub, revision)


def hashes_beside(
    fetched: Fetched,
    name: str,
    _owner: str = "",
    *,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> dict[str, set[str]] | None:
    """The SHA-256 that the Hub gives of the large files of `name`, beside what was fetched, on main or
    at a version's tag; None where there is no such repository. UserError where the Hub gives none."""
    repo_id = f"{fetched.repo_id.split('/')[0]}/{name}"
    validate_repo_id(repo_id)
    hub = Hub(HfApi(endpoint=endpoint), repo_id, sleep=sleep)
    found: dict[str, set[str]] = {}
    with single_tries():
        if not hub.call(lambda: hub.api.repo_exists(repo_id)):
            return None
        tags = hub.call(lambda: hub.api.list_repo_refs(repo_id)).tags
        for revision in ("main", *(tag.name for tag in tags)):
            for item in _tree(hub, revision):
                if item.lfs:
                    found.setdefault(item.path, set()).add(item.lfs.sha256)
    return found


def _tree(hub: Hub, revision: str) -> list[RepoFile]:
    def ask() -> list[Any]:
        return list(hub.api.list_repo_tree(hub.repo_id, recursive=True, revision=revision))

    return [item for item in hub.call(ask) if isinstance(item, RepoFile)]


def _fetched(hub: Hub, revision: str) -> Fetched:
    repo_id = hub.repo_id
    info = hub.call(lambda: hub.api.model_info(repo_id, revision=revision))
    commit = commit_of(hub, info.sha)
    files = {item.path: item for item in _tree(hub, commit)}
    for name in files:
        need(_stays_inside(name), f"{repo_id}: {name!r} would lead out of the folder")
        need(not _is_the_clients(name), f"{repo_id}: {name!r} would pass for the client's own")
    folder = paths.build() / "verify" / repo_id.replace("/", "--") / commit
    size = sum(file.size for file in files.values())
    _drop_damaged(folder, files)
    missing = (file.size for name, file in files.items() if not (folder / name).is_file())
    _need_room(folder, sum(missing))
    with transferring(f"fetch {repo_id}: {len(files)} files, {number(size, 'B')}"):
        hub.call(
            lambda: snapshot_download(
                repo_id, revision=commit, local_dir=folder, endpoint=hub.api.endpoint
            )
        )
    return Fetched(repo_id, commit, folder, files)


def as_the_hub_says(fetched: Fetched) -> str:
    """Each downloaded file has the size and checksum that the Hub's tree gives; and all are here."""
    for name, file in sorted(fetched.files.items()):
        path = fetched.folder / name
        need(path.is_file(), f"{fetched.repo_id}: {name}: was not downloaded")
        words = "what arrived is not what the Hub's tree lists"
        need(is_the_hubs(path, file, sha256_now), f"{fetched.repo_id}: {name}: {words}")
    return f"{fetched.repo_id} at {fetched.revision[:12]}: {len(fetched.files)} files as listed"


def _drop_damaged(folder: Path, files: dict[str, RepoFile]) -> None:
    """What lies there from an earlier run and is not whole is fetched anew."""
    for name, file in files.items():
        if (folder / name).is_file() and not is_the_hubs(folder / name, file, sha256_now):
            (folder / name).unlink()


def _stays_inside(name: str) -> bool:
    return not re.search(r"(^|/)\.\.(/|$)|^/|\\|\0|:", name)


def _is_the_clients(name: str) -> bool:
    """`.cache/huggingface/` is where the client notes what it has: a repository has no say there."""
    return name.casefold().split("/")[0] == ".cache"


def _need_room(folder: Path, size: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    text = f"{number(size, 'B')} would be downloaded, {number(free, 'B')} are free"
    need(size <= free, f"{paths.shown(folder.parent)}: {text}")
