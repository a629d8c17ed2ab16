"""What the Hub holds: a revision's files, how they differ from ours, its version tags, its history."""

from __future__ import annotations

import re
from dataclasses import dataclass

from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import GitCommitInfo, RepoFile

from shared.hub.calls import Hub
from shared.hub.files import LocalFile

KEPT_ON_THE_HUB = ".gitattributes"
"""The Hub writes it itself: which files it stores as LFS. It stays where the folder has none."""
VERSION_TAG = re.compile(r"v(\d+(?:\.\d+)*)")
RELEASE_MARK = re.compile(r"\brelease (?P<key>[0-9a-f]{8,64})(?: over (?P<base>[0-9a-f]{12}))?")
"""Ends the title of every pull request made here, and so of the commit that its merge makes on main:
the release's key, and the commit of main that it goes out from."""
INITIAL_COMMIT = "initial commit"


@dataclass(frozen=True)
class Remote:
    """A repository at one commit: `files` by name, with the Hub's checksums."""

    revision: str
    private: bool
    files: dict[str, RepoFile]

    @property
    def is_blank(self) -> bool:
        """Whether it holds nothing that anyone put there."""
        return not self.files.keys() - {KEPT_ON_THE_HUB}


@dataclass(frozen=True)
class Difference:
    """What must happen to a revision for it to equal the folder: all names in order."""

    added: list[LocalFile]
    changed: list[LocalFile]
    deleted: list[str]
    unchanged: list[LocalFile]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.deleted)

    @property
    def to_send(self) -> list[LocalFile]:
        return sorted([*self.added, *self.changed], key=lambda file: file.name)

    @property
    def bytes_to_send(self) -> int:
        return sum(file.size for file in self.to_send)

    @property
    def names(self) -> list[str]:
        return sorted([file.name for file in self.to_send] + self.deleted)


def look(hub: Hub, revision: str = "main") -> Remote:
    """The repository at `revision`, with every file's checksum: two requests, not retried here."""
    info = hub.api.model_info(hub.repo_id, revision=revision)
    assert info.sha is not None, "the Hub names a commit for every revision it knows"
    listing = hub.api.list_repo_tree(hub.repo_id, recursive=True, revision=info.sha)
    files = {item.path: item for item in listing if isinstance(item, RepoFile)}
    return Remote(info.sha, bool(info.private), files)


def look_if_there(hub: Hub) -> Remote | None:
    """The newest state of main, or None where there is no such repository for this token."""
    try:
        return look(hub)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:  # the token, not the repository
            raise
        return None


def head(hub: Hub, revision: str = "main") -> str | None:
    return hub.api.model_info(hub.repo_id, revision=revision).sha


def difference(files: list[LocalFile], remote: Remote | None) -> Difference:
    """The folder against a revision; against nothing, everything is new."""
    there = remote.files if remote else {}
    ours = {file.name for file in files} | {KEPT_ON_THE_HUB}
    same = {f.name for f in files if f.name in there and f.is_same_as(there[f.name])}
    return Difference(
        added=[f for f in files if f.name not in there],
        changed=[f for f in files if f.name in there and f.name not in same],
        deleted=sorted(there.keys() - ours),
        unchanged=[f for f in files if f.name in same],
    )


def version_tags(hub: Hub) -> dict[str, str]:
    """Version tag → commit, the highest version first."""
    tags = {tag.name: tag.target_commit for tag in hub.api.list_repo_refs(hub.repo_id).tags}
    ours = [name for name in tags if VERSION_TAG.fullmatch(name)]
    return {name: tags[name] for name in sorted(ours, key=_numbers, reverse=True)}


def next_version(tags: dict[str, str]) -> str:
    """v1, v2, …: one more than the first number of the highest version there is."""
    return f"v{max((_numbers(name)[0] for name in tags), default=0) + 1}"


def foreign_commit(hub: Hub, remote: Remote, tags: dict[str, str]) -> GitCommitInfo | None:
    """The commit on main that no release made and the newest release did not go out from, if any.

    Only the newest release has to be looked at: what lay beneath it was looked at, or overwritten
    with leave, when it was made.
    """
    if remote.is_blank or remote.revision in tags.values():
        return None
    newest, *older = hub.api.list_repo_commits(hub.repo_id, revision=remote.revision)
    mark = RELEASE_MARK.search(newest.title)
    if mark is None:
        return None if newest.title == INITIAL_COMMIT else newest
    for commit in older if mark["base"] else []:
        its = RELEASE_MARK.search(commit.title)
        if commit.commit_id.startswith(mark["base"]):
            return None
        if its is None or its[0] != mark[0]:
            return commit
    return None


def told(commit: GitCommitInfo) -> str:
    """`'Update README.md' by someone`, for a sentence."""
    return f"{commit.title[:80]!r} by {', '.join(commit.authors) or 'nobody named'}"


def _numbers(tag: str) -> tuple[int, ...]:
    return tuple(int(part) for part in tag.removeprefix("v").split("."))
