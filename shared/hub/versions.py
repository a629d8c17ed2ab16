"""Version tags: which one a release has or gets. A tag that is given out keeps its content."""

from huggingface_hub.errors import HfHubHTTPError

from shared.base.errors import UserError
from shared.hub.files import LocalFile, Order
from shared.hub.remote import difference, look, next_version, version_tags
from shared.hub.retries import Hub


def need_free_version(hub: Hub, files: list[LocalFile], order: Order) -> None:
    """A version that was given out stands for its content, for good."""
    if order.version is None:
        return
    tags = hub.call(lambda: version_tags(hub))
    name = f"v{order.version}"
    if name in tags and difference(files, hub.call(lambda: look(hub, tags[name]))):
        raise UserError(
            f"{hub.repo_id}: {name} is published with other content; raise publish.version in "
            "fallback.toml"
        )


def version_of(hub: Hub, files: list[LocalFile], revision: str, order: Order) -> str | None:
    """The tag this content has by now; None where it has none."""
    tags = version_tags(hub)
    if at := [name for name, commit in tags.items() if commit == revision]:
        return at[0]
    newest = next(iter(tags), None)
    if order.version and f"v{order.version}" in tags:
        newest = f"v{order.version}"
    if newest and not difference(files, look(hub, tags[newest])):
        return newest
    return None


def named(hub: Hub, files: list[LocalFile], revision: str, order: Order) -> tuple[str, bool]:
    """The release's version tag, and whether it had to be made."""
    try:
        found = hub.call(lambda: version_of(hub, files, revision, order))
        return found or hub.call(lambda: _tag(hub, files, revision, order)), found is None
    except UserError as error:
        raise UserError(f"main holds the release, but has no version tag yet: {error}") from None


def new_name(hub: Hub, order: Order) -> str:
    """The tag that a new release gets: the stated version, or the next number."""
    return f"v{order.version}" if order.version else next_version(version_tags(hub))


def _tag(hub: Hub, files: list[LocalFile], revision: str, order: Order) -> str:
    """Give the release its version tag, unless it has one. Safe to do twice."""
    if found := version_of(hub, files, revision, order):
        return found
    name = new_name(hub, order)
    message = f"{order.title}, release {order.key}"
    try:
        hub.api.create_tag(
            hub.repo_id,
            tag=name,
            revision=revision,
            tag_message=message,
            repo_type=hub.repo_type,
        )
    except HfHubHTTPError as error:
        if error.response.status_code != 409 or order.version:
            raise
        return _tag(hub, files, revision, order)  # someone took that number a moment ago
    return name
