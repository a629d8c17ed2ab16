"""Publish a folder as a transaction: staged in a pull request, verified there, merged, tagged.

>>> publish(Path("models/legal/webgpu"), "org/docintel-legal-smollm3-3b-webgpu",
...         key="0123456789abcdef", title="DocIntel legal")
Published(repo_id='org/docintel-legal-smollm3-3b-webgpu', url=..., version='v1', ...)

main is the old release or the new one. Every step can be done twice, and what to do next is read
from the Hub, so a run that died is finished by running it again, also on another machine.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub import HfApi

from shared.base.environment import without_password
from shared.base.errors import UserError
from shared.base.progress import say
from shared.hub import staging as staged
from shared.hub.client import single_tries
from shared.hub.files import LocalFile, Order, inspect_folder
from shared.hub.remote import (
    Difference,
    Remote,
    difference,
    foreign_commit,
    look,
    look_if_there,
    next_version,
    replaced_title,
    told,
    version_tags,
)
from shared.hub.retries import Hub, Sleep
from shared.hub.token import hub_token
from shared.hub.versions import named, need_free_version, new_name, version_of


@dataclass(frozen=True)
class Plan:
    """What publishing would do. `against` says in one sentence why it would not be done."""

    repo_id: str
    is_new: bool
    private: bool
    difference: Difference
    continues: int | None
    left_to_send: int
    version: str
    against: str | None


@dataclass(frozen=True)
class Published:
    """What the Hub holds now. `revision` is main's commit, `version` its tag.

    `bytes_sent` is the size of the files that were new or changed: the Hub's storage may have had
    parts of them. `unchanged` says that main was this release already, `tagged` that its tag is
    new. `pull_request` is the number of the one that was merged.
    """

    repo_id: str
    url: str
    revision: str
    version: str
    files: int
    bytes_sent: int
    unchanged: bool
    tagged: bool
    pull_request: int | None


def publish(
    order: Order, repo_id: str, *, endpoint: str | None = None, sleep: Sleep = time.sleep
) -> Published:
    """Make main equal to the folder, or leave it as it is; UserError says what stands against it.

    The same folder published again sends nothing. Files that the folder does not have are deleted.
    `endpoint` defaults to HF_ENDPOINT or the public Hub; `sleep` (seconds) is for tests.
    """
    with _opened(order, repo_id, endpoint, sleep) as (hub, files):
        account = _account(hub)
        before = _look_or_create(hub, files, order)
        _need_private(hub, order, before)
        number, sent, revision = None, 0, before.revision
        if difference(files, before):
            number, sent, revision = _replace(hub, account, files, before, order)
        else:
            _close(hub, account, order.key, "main holds this release already")
        version, tagged = named(hub, files, revision, order)
        return Published(
            repo_id,
            hub.url,
            revision,
            version,
            files=len(files),
            bytes_sent=sent,
            unchanged=number is None,
            tagged=tagged,
            pull_request=number,
        )


def plan(
    order: Order, repo_id: str, *, endpoint: str | None = None, sleep: Sleep = time.sleep
) -> Plan:
    """What `publish` would do, found out by reading alone."""
    with _opened(order, repo_id, endpoint, sleep) as (hub, files):
        account = _account(hub)
        before = hub.call(lambda: look_if_there(hub))
        if before is not None:
            return _plan_over(hub, account, files, before, order)
        todo = difference(files, None)
        first = f"v{order.version}" if order.version else next_version({})
        return Plan(
            repo_id,
            is_new=True,
            private=order.private,
            difference=todo,
            continues=None,
            left_to_send=todo.bytes_to_send,
            version=first,
            against=None,
        )


def _plan_over(
    hub: Hub, account: str, files: list[LocalFile], before: Remote, order: Order
) -> Plan:
    """The plan where there is something already: what an earlier run left is counted off."""
    todo = left = difference(files, before)
    pull = hub.call(lambda: staged.find(hub, account, order.key)) if todo else None
    if pull:
        left = difference(files, hub.call(lambda: look(hub, pull.revision)))
    has = None if todo else hub.call(lambda: version_of(hub, files, before.revision, order))
    return Plan(
        hub.repo_id,
        is_new=False,
        private=before.private,
        difference=todo,
        continues=pull.number if pull and pull.goes_out_from(before.revision) else None,
        left_to_send=left.bytes_to_send,
        version=has or hub.call(lambda: new_name(hub, order)),
        against=_against(hub, account, files, before, pull, order),
    )


@contextmanager
def _opened(
    order: Order, repo_id: str, endpoint: str | None, sleep: Sleep
) -> Iterator[tuple[Hub, list[LocalFile]]]:
    """The client and the folder's files; inside, each request is made once and told about."""
    api = HfApi(endpoint=endpoint, token=hub_token())
    files = inspect_folder(order, repo_id)
    with single_tries():
        yield Hub(api, repo_id, writing=True, sleep=sleep, repo_type=order.repo_type), files


def _account(hub: Hub) -> str:
    said = hub.call(lambda: hub.api.whoami())
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{hub.host} does not say whose token it is; check HF_ENDPOINT")
    if said.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(
            f"the token of {name} may only read; make one with the role 'write' at "
            f"{without_password(hub.api.endpoint)}/settings/tokens and run `hf auth login`"
        )
    return name


def _need_valid_card(hub: Hub, files: list[LocalFile]) -> None:
    """The client asks this of the Hub as well, but with the last commit, behind gigabytes."""
    card = next((file.path for file in files if file.name == "README.md"), None)
    if card:
        text = card.read_text(encoding="utf-8")
        hub.call(lambda: hub.api._validate_yaml(text, repo_type=hub.repo_type))


def _look_or_create(hub: Hub, files: list[LocalFile], order: Order) -> Remote:
    """main as it is; a new repository has the Hub's own first commit. Safe to do twice.

    Before anything is made or sent the Hub is asked whether it takes the card.
    """
    found = hub.call(lambda: look_if_there(hub))
    if found is not None:
        _need_private(hub, order, found)
    if found is None or difference(files, found):
        _need_valid_card(hub, files)
    return found or hub.call(lambda: _create(hub, order.private))


def _create(hub: Hub, private: bool) -> Remote:
    sdk = "static" if hub.repo_type == "space" else None
    hub.api.create_repo(
        hub.repo_id, private=private, exist_ok=True, repo_type=hub.repo_type, space_sdk=sdk
    )
    return look(hub)


def _need_private(hub: Hub, order: Order, before: Remote) -> None:
    if order.private and not before.private:
        raise UserError(
            f"{hub.repo_id} is public already and should be private; change it there first"
        )


def _against(
    hub: Hub,
    account: str,
    files: list[LocalFile],
    before: Remote,
    pull: staged.Staging | None,
    order: Order,
) -> str | None:
    """The sentence that `publish` would end with, as far as reading can tell."""
    try:
        _need_private(hub, order, before)
        if difference(files, before):
            need_free_version(hub, files, order)
            _need_no_loss(hub, account, before, order, pull)
    except UserError as error:
        return str(error)
    return None


def _replace(
    hub: Hub, account: str, files: list[LocalFile], before: Remote, order: Order
) -> tuple[int, int, str]:
    """Stage, verify, merge, verify: the pull request, the bytes sent, main's new commit."""
    need_free_version(hub, files, order)
    pull = hub.call(lambda: staged.find(hub, account, order.key))
    _need_no_loss(hub, account, before, order, pull)
    if pull and not pull.goes_out_from(before.revision):
        _close(hub, account, order.key, "main has moved on; staged anew from there")
    opened = hub.call(
        lambda: staged.find_or_open(hub, account, order.key, order.title, before.revision)
    )
    _close(hub, account, None, f"overtaken by #{opened.number}", but=opened.number)
    verified, sent = staged.fill(hub, opened, files, f"{order.title}, release {order.key}")
    _need_equal(hub, files, verified, opened.revision)
    say(f"      verified {len(files)} files on {opened.revision}; merging")
    merged = hub.call(lambda: staged.merge(hub, opened, verified.revision))
    _need_unmixed(hub, files, hub.call(lambda: look(hub, merged)))
    return opened.number, sent, merged


def _close(hub: Hub, account: str, key: str | None, why: str, *, but: int | None = None) -> None:
    """Close this account's open pull requests for that release (None: for any), except `but`."""

    def step() -> None:
        pulls = [p for p in staged.ours(hub, account, key) if p.num != but]
        staged.close(hub, pulls, why)

    hub.call(step)


def _need_no_loss(
    hub: Hub, account: str, before: Remote, order: Order, pull: staged.Staging | None
) -> None:
    """UserError where publishing would replace what others put on main, unless that is wanted."""
    if order.overwrite:
        return
    if pull and not pull.goes_out_from(before.revision):
        raise staged.moved(hub, pull, before.revision)
    other = hub.call(lambda: foreign_commit(hub, account, before, version_tags(hub)))
    if other:
        raise UserError(
            f"{hub.repo_id}: main holds a change that no release made ({told(other)}); nothing was "
            "overwritten; look at it, then publish with --overwrite to replace it"
        )
    was = hub.call(lambda: replaced_title(hub, order.title, before))
    if was:
        raise UserError(
            f"{hub.repo_id}: main holds {was!r}, and this is {order.title!r}; nothing was overwritten; "
            "give it a name of its own ([publish] name), or publish with --overwrite to replace it"
        )


def _need_equal(hub: Hub, files: list[LocalFile], remote: Remote, where: str) -> None:
    """UserError unless the revision holds the folder's files, all of them and no others."""
    wrong = difference(files, remote).names
    if wrong:
        more = f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{hub.repo_id} at {where}: {wrong[0]} is not what was sent{more}")


def _need_unmixed(hub: Hub, files: list[LocalFile], remote: Remote) -> None:
    """UserError where a commit of someone else came between the last look at main and the merge."""
    wrong = difference(files, remote).names
    if wrong:
        raise UserError(
            f"{hub.repo_id}: main was changed by someone else in the moment of the merge "
            f"({', '.join(wrong[:3])}); it is not tagged; look at the change, then publish with "
            "--overwrite to replace it"
        )
