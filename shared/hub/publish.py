"""Publish a folder to the Hub: one commit, only what changed, and the result read back.

>>> publish(Path("models/legal/webgpu"), "org/docintel-legal-smollm3-3b-webgpu", message="1.0")
Published(repo_id='org/docintel-legal-smollm3-3b-webgpu', url=..., unchanged=False)
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, OIDCError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import FORBIDDEN_FOLDERS, validate_repo_id

from shared.errors import UserError
from shared.hashing import sha256_file
from shared.hub.calls import Hub, Sleep, scrub, transferring
from shared.progress import bar, say

SECRETS = (".env", ".env.*", "token", ".netrc", "id_rsa", "id_ed25519", "*.pem", "*.key")
KEPT_ON_THE_HUB = ".gitattributes"
"""The Hub writes it itself: which files it stores as LFS. It stays where the folder has none."""

Change = CommitOperationAdd | CommitOperationDelete


@dataclass(frozen=True)
class Published:
    """What the Hub holds now. `revision` is a commit; `files` counts those of the folder.

    `bytes_sent` is the size of the files that were new or changed: the Hub's storage may have had
    parts of them. `unchanged` says that all was there and no commit was made.
    """

    repo_id: str
    url: str
    revision: str
    files: int
    bytes_sent: int
    unchanged: bool


@dataclass(frozen=True)
class LocalFile:
    """A file to publish: `name` is its path in the repository, `size` in bytes."""

    name: str
    path: Path
    size: int
    sha256: str

    def is_same_as(self, remote: RepoFile) -> bool:
        """Whether the Hub's checksum for that file is this file's; sizes alone prove nothing."""
        if remote.lfs is not None:
            return (remote.lfs.size, remote.lfs.sha256) == (self.size, self.sha256)
        return remote.size == self.size and remote.blob_id == _git_blob_id(self.path)


@dataclass(frozen=True)
class Remote:
    """A repository at one commit. A new one may have no commit yet."""

    revision: str | None
    private: bool
    files: dict[str, RepoFile]


def repo_id(pattern: str, org: str, domain: str, base: str) -> str:
    """`org/name`: `pattern` with {domain} and the model part of {base}, in lower case.

    >>> repo_id("docintel-{domain}-{base}-webgpu", "acme", "legal", "HuggingFaceTB/SmolLM3-3B")
    'acme/docintel-legal-smollm3-3b-webgpu'
    """
    try:
        name = pattern.format(domain=domain, base=base.split("/")[-1]).lower()
        validate_repo_id(f"{org}/{name}")
    except (KeyError, IndexError, AttributeError):
        raise UserError(f"{pattern!r}: only {{domain}} and {{base}} can stand in it") from None
    except ValueError as error:  # a lone brace; or HFValidationError, which is one too
        raise UserError(f"{pattern!r}: {error}") from None
    return f"{org}/{name}"


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    message: str,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> Published:
    """Make the repository equal to `folder`, as one commit; UserError says what stands against it.

    The same folder published again is a no-op. Files that the folder does not have are deleted.
    `endpoint` defaults to HF_ENDPOINT or the public Hub; `sleep` (seconds) is for tests.
    """
    hub = Hub(HfApi(endpoint=endpoint, token=_token()), repo_id, writing=True, sleep=sleep)
    files = _inspect(folder, repo_id)
    hub.call(lambda: hub.api.create_repo(repo_id, private=private, exist_ok=True))
    before = hub.call(lambda: _look(hub))
    if private and not before.private:
        raise UserError(f"{repo_id} is public already and should be private; change it there first")
    changes = _changes(files, before)
    revision = before.revision
    if changes or revision is None:
        revision = hub.call(lambda: _commit(hub, files, before, changes, message))
        _verify(hub, files, revision)
    sent = sum(c.upload_info.size for c in changes if isinstance(c, CommitOperationAdd))
    url = f"{hub.api.endpoint}/{repo_id}"
    return Published(repo_id, url, revision, len(files), sent, unchanged=not changes)


def _token() -> str:
    try:
        token = get_token()
    except OIDCError as error:
        raise UserError(f"no Hub token: HF_OIDC_RESOURCE: {scrub(str(error))}") from None
    if not token:
        raise UserError("no Hub token: run `hf auth login` or set HF_TOKEN")
    return token


def _inspect(folder: Path, repo_id: str) -> list[LocalFile]:
    """The folder's files with their hashes; UserError where one of them must not leave the machine."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(str(error)) from None
    if not folder.is_dir():
        raise UserError(f"{folder}: the folder is not there")
    paths = [path for path in sorted(folder.rglob("*")) if _may_go(path, folder)]
    if not paths:
        raise UserError(f"{folder}: holds no files; publishing it would empty {repo_id}")
    files = []
    with bar("hash", total=len(paths), unit="files") as step:
        for path in paths:
            name = path.relative_to(folder).as_posix()
            files.append(LocalFile(name, path, path.stat().st_size, sha256_file(path)))
            step(name)
    return files


def _may_go(path: Path, folder: Path) -> bool:
    """Whether it is a file to publish (False: a folder); UserError if it must not be."""
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: a link that leads out of {folder}; put the file itself there")
    if any(fnmatchcase(path.name.lower(), secret) for secret in SECRETS):
        raise UserError(f"{path}: looks like a secret; remove it from the folder")
    if path.name in FORBIDDEN_FOLDERS:
        raise UserError(f"{path}: the Hub takes no {path.name} folder; remove it")
    if path.is_dir() and not path.is_symlink():
        return False
    if not path.is_file():
        raise UserError(f"{path}: not a plain file; remove it")
    return True


def _look(hub: Hub, revision: str | None = None) -> Remote:
    """The repository at `revision` (default: its newest commit), with every file's checksum."""
    info = hub.api.model_info(hub.repo_id, revision=revision)
    if info.sha is None:
        return Remote(None, bool(info.private), {})
    listing = hub.api.list_repo_tree(hub.repo_id, recursive=True, revision=info.sha)
    files = {item.path: item for item in listing if isinstance(item, RepoFile)}
    return Remote(info.sha, bool(info.private), files)


def _changes(files: list[LocalFile], remote: Remote) -> list[Change]:
    """What a commit must do to make the repository equal to the folder; empty if it is."""
    names = {file.name for file in files} | {KEPT_ON_THE_HUB}
    changes: list[Change] = [
        CommitOperationDelete(path_in_repo=name, is_folder=False)
        for name in sorted(remote.files.keys() - names)
    ]
    for file in files:
        there = remote.files.get(file.name)
        if there is None or not file.is_same_as(there):
            added = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path)
            added.upload_info.sha256 = bytes.fromhex(file.sha256)  # or it would be read once more
            changes.append(added)
    return changes


def _commit(
    hub: Hub, files: list[LocalFile], before: Remote, changes: list[Change], message: str
) -> str:
    """Commit `changes` on top of `before`; the new commit's hash. Safe to do twice.

    Where an earlier attempt arrived and only its answer was lost, the repository is equal to the
    folder by now. Where someone else committed meanwhile, the Hub refuses (412).
    """
    now = hub.api.model_info(hub.repo_id).sha
    if now is not None and now != before.revision and not _changes(files, _look(hub, now)):
        return now
    sizes = [c.upload_info.size for c in changes if isinstance(c, CommitOperationAdd)]
    label = f"upload {len(sizes)} of {len(files)} files, {sum(sizes) / 1e6:,.1f} MB"
    gone = len(changes) - len(sizes)
    say(f"      {label}" + (f"; delete {gone}" if gone else ""))
    with transferring(label):
        made = hub.api.create_commit(
            hub.repo_id, changes, commit_message=message, parent_commit=before.revision
        )
    return made.oid


def _verify(hub: Hub, files: list[LocalFile], revision: str) -> None:
    """Read the commit back: each file's size and checksum must be ours, and nothing else there."""
    remote = hub.call(lambda: _look(hub, revision))
    wrong = [change.path_in_repo for change in _changes(files, remote)]
    if wrong:
        raise UserError(
            f"{hub.repo_id} at {revision}: {wrong[0]} is not what was sent"
            + (f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else "")
            + "; run it again"
        )


def _git_blob_id(path: Path) -> str:
    """What git calls a file's content, and the Hub every file of its that is not LFS (≤ 10 MB)."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
