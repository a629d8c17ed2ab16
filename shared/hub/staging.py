"""The pull request that a release is staged in: found again or opened, filled, checked, merged.

All there is to know about it stands on the Hub. Its title carries the release's key and the commit of
main that it goes out from, so a run that died is continued, also from another machine.
Only pull requests of the same account are continued or closed: on the Hub anyone may open one under
any title, and its author could go on writing to it after it was checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, Discussion
from huggingface_hub.community import DiscussionWithDetails

from shared.base.errors import UserError
from shared.base.progress import say
from shared.hub.files import LocalFile
from shared.hub.remote import RELEASE_MARK, Difference, Remote, difference, head, look
from shared.hub.retries import Hub, commit_of, transferring

BATCH_BYTES = 2_000_000_000
BATCH_FILES = 25
"""A commit onto the pull request ends at either: what a death can lose."""
LIVE = ("draft", "open")
DESCRIPTION = (
    "DocIntel stages a release here and merges it once every file has been read back with the right "
    "checksum. A run that died is continued here by the next one."
)

Change = CommitOperationAdd | CommitOperationDelete


@dataclass(frozen=True)
class Staging:
    """A pull request of ours: its number, and the beginning of the commit it goes out from."""

    number: int
    base: str

    def goes_out_from(self, commit: str | None) -> bool:
        return bool(commit and commit.startswith(self.base))

    @property
    def revision(self) -> str:
        return f"refs/pr/{self.number}"


def ours(hub: Hub, account: str, key: str | None = None) -> list[Discussion]:
    """This account's live pull requests for that release, or for any; oldest first."""
    found = []
    pulls = hub.api.get_repo_discussions(
        hub.repo_id, discussion_type="pull_request", repo_type=hub.repo_type
    )
    for pull in pulls:
        mark = RELEASE_MARK.search(pull.title)
        if mark and pull.status in LIVE and pull.author == account and key in (None, mark["key"]):
            found.append(pull)
    return sorted(found, key=lambda pull: pull.num)


def find(hub: Hub, account: str, key: str) -> Staging | None:
    """The pull request that an earlier run opened for this release, if it is still there."""
    for pull in ours(hub, account, key):
        mark = RELEASE_MARK.search(pull.title)
        if mark:
            return Staging(pull.num, mark["base"])
    return None


def find_or_open(hub: Hub, account: str, key: str, title: str, base: str) -> Staging:
    """The same, or a new one as a draft. Safe to do twice: it looks before it opens."""
    found = find(hub, account, key)
    if found:
        say(f"      continuing pull request #{found.number}")
        return found
    start = base[:12]
    opened = hub.api.create_pull_request(
        hub.repo_id,
        f"{title}, release {key} over {start}",
        description=DESCRIPTION,
        repo_type=hub.repo_type,
    )
    say(f"      opened pull request #{opened.num}: {hub.url}/discussions/{opened.num}")
    return Staging(opened.num, start)


def fill(hub: Hub, staging: Staging, files: list[LocalFile], title: str) -> tuple[Remote, int]:
    """Commit what is missing in batches until the pull request's tree is the folder; bytes sent.

    What is there already with the right checksum is not sent: not a file of an earlier batch, nor
    one that the Hub's large-file store holds under that SHA-256.
    """
    remote = hub.call(lambda: look(hub, staging.revision))
    sent = 0
    _tell_all(difference(files, remote), len(files))
    for batch in batches(difference(files, remote)):
        remote = hub.call(partial(_commit, hub, staging, files, batch, title))
        sent += sum(file.size for file in batch if isinstance(file, LocalFile))
        _need_arrived(hub, staging, files, remote, batch)
    return remote, sent


def batches(missing: Difference) -> Iterator[list[LocalFile | str]]:
    """Files (and, as names, deletions) a commit at a time; the large ones first, the card last."""
    batch: list[LocalFile | str] = []
    size = 0
    for file in sorted(missing.to_send, key=lambda file: (-file.size, file.name)):
        if batch and (size + file.size > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch or missing.deleted:
        yield [*batch, *missing.deleted]


def merge(hub: Hub, staging: Staging, verified: str) -> str:
    """Merge the pull request at the commit that was verified; the commit main is at then.

    Safe to do twice. The Hub cannot be told "only if main is still there", so main is looked at
    right before, and once more, by the caller, after.
    """
    pull = _details(hub, staging.number)
    if pull.status != "merged":
        _need_mergeable(hub, staging, verified, pull)
        if pull.status == "draft":
            _set_status(hub, staging.number, "open")
        hub.api.merge_pull_request(hub.repo_id, staging.number, repo_type=hub.repo_type)
        pull = _details(hub, staging.number)
    return commit_of(hub, pull.merge_commit_oid or head(hub))


def close(hub: Hub, pulls: list[Discussion], comment: str) -> None:
    """Close those pull requests with a word why. Safe to do twice."""
    for pull in pulls:
        if _details(hub, pull.num).status in LIVE:
            _set_status(hub, pull.num, "closed", comment)
            say(f"      closed pull request #{pull.num}: {comment}")


def _details(hub: Hub, number: int) -> DiscussionWithDetails:
    return hub.api.get_discussion_details(hub.repo_id, number, repo_type=hub.repo_type)


def _set_status(
    hub: Hub, number: int, status: Literal["open", "closed"], comment: str | None = None
) -> None:
    hub.api.change_discussion_status(
        hub.repo_id, number, status, comment=comment, repo_type=hub.repo_type
    )


def _commit(
    hub: Hub, staging: Staging, files: list[LocalFile], batch: list[LocalFile | str], title: str
) -> Remote:
    """One batch on top of the pull request's newest commit, and what it holds then.

    Safe to do twice: where only the answer was lost, the files are there and are not sent again.
    Where another run writes to the same pull request, the Hub refuses (412).
    """
    before = look(hub, staging.revision)
    missing = set(difference(files, before).names)
    wanted = [item for item in batch if _name(item) in missing]
    if not wanted:
        return before
    changes: list[Change] = [
        item.addition()
        if isinstance(item, LocalFile)
        else CommitOperationDelete(path_in_repo=item, is_folder=False)
        for item in wanted
    ]
    with transferring(f"upload {_sizes(wanted)}"):
        made = hub.api.create_commit(
            hub.repo_id,
            changes,
            commit_message=title,
            revision=staging.revision,
            parent_commit=before.revision,
            repo_type=hub.repo_type,
        )
    return look(hub, commit_of(hub, made.oid))


def _need_arrived(
    hub: Hub,
    staging: Staging,
    files: list[LocalFile],
    remote: Remote,
    batch: list[LocalFile | str],
) -> None:
    """UserError unless each file of the batch reads back, with its checksum, from the Hub."""
    missing = set(difference(files, remote).names)
    wrong = sorted(_name(item) for item in batch if _name(item) in missing)
    if wrong:
        more = f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{hub.repo_id} at {staging.revision}: {wrong[0]} is not what was sent{more}; "
            "main is untouched; run it again"
        )


def _need_mergeable(hub: Hub, staging: Staging, verified: str, pull: DiscussionWithDetails) -> None:
    """UserError unless pull request and main are both what they were when they were checked."""
    where = f"{hub.repo_id}: pull request #{staging.number}"
    if pull.status not in LIVE:
        raise UserError(f"{where} was closed by someone meanwhile; run it again for a new one")
    if head(hub, staging.revision) != verified:
        raise UserError(f"{where} was changed by someone after it was checked; run it again")
    if not staging.goes_out_from(now := head(hub)):
        raise moved(hub, staging, now)


def moved(hub: Hub, staging: Staging, now: str) -> UserError:
    """What is said where main is no longer what the pull request goes out from."""
    return UserError(
        f"{hub.repo_id}: main was changed by someone else since pull request #{staging.number} was "
        f"opened (it was at {staging.base[:8]}, it is at {now[:8]}); nothing was overwritten; look "
        "at the change, then publish with --overwrite to replace it"
    )


def _tell_all(missing: Difference, total: int) -> None:
    if missing:
        gone = f"; delete {len(missing.deleted)}" if missing.deleted else ""
        size = missing.bytes_to_send / 1e6
        say(f"      upload {len(missing.to_send)} of {total} files, {size:,.1f} MB{gone}")


def _sizes(batch: list[LocalFile | str]) -> str:
    sizes = [item.size for item in batch if isinstance(item, LocalFile)]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB"


def _name(item: LocalFile | str) -> str:
    return item if isinstance(item, str) else item.name
