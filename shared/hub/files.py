"""The local side of a publication: the order, the files with their hashes, and what must not leave."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import FORBIDDEN_FOLDERS, validate_repo_id
from huggingface_hub.utils.sha import git_hash

from shared.base.errors import UserError
from shared.base.hashing import sha256_file
from shared.base.progress import bar
from shared.safety.content import holds
from shared.safety.kinds import need_known
from shared.safety.secrets import secret_in


@dataclass(frozen=True)
class Order:
    """What is to be published: `key` names the release, `title` what it is called on the Hub.

    `version`: "1.2.0" is tagged v1.2.0; None takes the next number, v1, v2, … `overwrite` allows
    to replace what others changed on main. `repo_type`: "model", or "space" for a static Space.
    `public`: SHA-256 of files that may go as they are, since everybody has them: a page's runtime.
    """

    folder: Path
    key: str
    title: str
    private: bool = False
    version: str | None = None
    overwrite: bool = False
    repo_type: str = "model"
    public: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LocalFile:
    """A file to publish: `name` is its path in the repository, `size` in bytes."""

    name: str
    path: Path
    size: int
    sha256: str

    def is_same_as(self, remote: RepoFile) -> bool:
        """Whether the Hub's checksum for that file is this file's."""
        return is_the_hubs(self.path, remote, lambda _: self.sha256)

    def addition(self) -> CommitOperationAdd:
        """What a commit needs to add it; its SHA-256 is not computed once more."""
        added = CommitOperationAdd(path_in_repo=self.name, path_or_fileobj=self.path)
        added.upload_info.sha256 = bytes.fromhex(self.sha256)
        return added


def is_the_hubs(path: Path, remote: RepoFile, sha256: Callable[[Path], str]) -> bool:
    """Whether a file is the one that the Hub lists, by its checksum; sizes alone prove nothing.

    The Hub lists SHA-256 for what it stores as LFS, git's own hash of the content for everything else.
    """
    if remote.lfs is not None:
        return (path.stat().st_size, sha256(path)) == (remote.lfs.size, remote.lfs.sha256)
    return path.stat().st_size == remote.size and git_hash(path.read_bytes()) == remote.blob_id


def inspect_folder(order: Order, repo_id: str) -> list[LocalFile]:
    """The folder's files with their hashes; UserError where one of them must not leave the machine."""
    folder = order.folder
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(str(error)) from None
    if not folder.is_dir():
        raise UserError(f"{folder}: the folder is not there")
    paths = [path for path in sorted(folder.rglob("*")) if _may_go(path, order)]
    if not paths:
        raise UserError(f"{folder}: holds no files; publishing it would empty {repo_id}")
    files = []
    with bar("hash", total=len(paths), unit="files") as step:
        for path in paths:
            name = path.relative_to(folder).as_posix()
            files.append(LocalFile(name, path, path.stat().st_size, sha256_file(path)))
            step(name)
    return files


def _may_go(path: Path, order: Order) -> bool:
    """Whether it is a file to publish (False: a folder); UserError if it must not be."""
    folder = order.folder
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: a link that leads out of {folder}; put the file itself there")
    if path.name in FORBIDDEN_FOLDERS:
        raise UserError(f"{path}: the Hub takes no {path.name} folder; remove it")
    if path.is_dir() and not path.is_symlink():
        return False
    if not path.is_file():
        raise UserError(f"{path}: not a plain file; remove it")
    if order.public and sha256_file(path) in order.public:
        return True
    if found := secret_in(path):
        raise UserError(f"{path}: looks like a secret ({found}); remove it from the folder")
    if found := holds(path):
        raise UserError(f"{path}: holds {found}; remove it from the folder")
    need_known(path.parent, [path.name])
    return True
