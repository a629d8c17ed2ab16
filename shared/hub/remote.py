"""What the Hub holds: a revision's files, how they differ from ours, its version tags, its history."""

import re
from dataclasses import dataclass

from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import GitCommitInfo, RepoFile

from shared.base.errors import UserError
from shared.hub.files import LocalFile
from shared.hub.retries import Hub, commit_of

KEPT_ON_THE_HUB = ".gitattributes"
"""The Hub writes it itself: which files it stores as LFS. It stays where the folder has none."""
VERSION_TAG = re.compile(r"v(\d+(?:\.\d+)*)")
RELEASE_MARK = re.compile(
    r", release (?P<key>[0-9a-f]{16}) over (?P<base>[0-9a-f]{12})(?: \(#\d+\))?$"
)
"""Ends the title of every pull request made here, and so of the commit that its merge makes on main
(the Hub puts the pull request's number behind it): the release's key, and the commit of main that it
goes out from. A person's "Notes for release 20261123" is no such title."""
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
    info = hub.api.repo_info(hub.repo_id, revision=revision, repo_type=hub.repo_type)
    commit = commit_of(hub, info.sha)
    listing = hub.api.list_repo_tree(
        hub.repo_id, recursive=True, revision=commit, repo_type=hub.repo_type
    )
    files = {item.path: item for item in listing if isinstance(item, RepoFile)}
    return Remote(commit, bool(info.private), files)


def look_if_there(hub: Hub) -> Remote | None:
    """The newest state of main, or None where there is no such repository for this token."""
    try:
        return look(hub)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:  # the token, not the repository
            raise
        return None


def head(hub: Hub, revision: str = "main") -> str:
    info = hub.api.repo_info(hub.repo_id, revision=revision, repo_type=hub.repo_type)
    return commit_of(hub, info.sha)


def need_public(hub: Hub, revision: str) -> None:
    """UserError unless everybody can read the model at that commit; `hub` asks without a token."""

    def see() -> bool:
        try:
            return not hub.api.model_info(hub.repo_id, revision=revision).gated
        except RepositoryNotFoundError:
            return False

    if not hub.call(see):
        raise UserError(
            f"{hub.repo_id} cannot be read by everybody (it is private, gated or gone), and a page "
            "asks for it without a token; make it public first"
        )


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
    refs = hub.api.list_repo_refs(hub.repo_id, repo_type=hub.repo_type)
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    ours = [name for name in tags if VERSION_TAG.fullmatch(name)]
    return {name: tags[name] for name in sorted(ours, key=_numbers, reverse=True)}


def next_version(tags: dict[str, str]) -> str:
    """v1, v2, …: one more than the first number of the highest version there is."""
    return f"v{max((_numbers(name)[0] for name in tags), default=0) + 1}"


def foreign_commit(
    hub: Hub, account: str, remote: Remote, tags: dict[str, str]
) -> GitCommitInfo | None:
    """The commit on main that no release made and the newest release did not go out from, if any.

    A release's commit has its title and is by `account`, where the Hub says by whom it is. Only the
    newest release has to be looked at: what lay beneath it was looked at, or overwritten with leave,
    when it was made.
    """
    if remote.is_blank or remote.revision in tags.values():
        return None
    newest, *older = hub.api.list_repo_commits(
        hub.repo_id, revision=remote.revision, repo_type=hub.repo_type
    )
    mark = _mark(newest, account)
    if mark is None:
        return None if newest.title == INITIAL_COMMIT and not older else newest
    for commit in older:
        its = _mark(commit, account)
        if commit.commit_id.startswith(mark["base"]):
            return None
        if its is None or its.groupdict() != mark.groupdict():
            return commit
    return newest  # it claims to go out from a commit that main never had


def replaced_title(hub: Hub, title: str, remote: Remote) -> str | None:
    """What main's newest release is called, where that is not `title`: another domain's or rung's."""
    if remote.is_blank:
        return None
    commits = hub.api.list_repo_commits(
        hub.repo_id, revision=remote.revision, repo_type=hub.repo_type
    )
    marks = ((commit, RELEASE_MARK.search(commit.title)) for commit in commits)
    newest = next((commit.title[: mark.start()] for commit, mark in marks if mark), title)
    return newest if newest != title else None


def _mark(commit: GitCommitInfo, account: str) -> re.Match[str] | None:
    """What the title says of a release, where nothing says that someone else made it."""
    theirs = bool(commit.authors) and account not in commit.authors
    return None if theirs else RELEASE_MARK.search(commit.title)


def told(commit: GitCommitInfo) -> str:
    """`'Update README.md' by someone`, for a sentence."""
    return f"{commit.title[:80]!r} by {', '.join(commit.authors) or 'nobody named'}"


def _numbers(tag: str) -> tuple[int, ...]:
    return tuple(int(part) for part in tag.removeprefix("v").split("."))
