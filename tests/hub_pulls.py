"""The Hub double's pull requests and collections; imported by tests/hub_double.py for its routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hub_routes import Answer, Ask, give, route
from tests.hub_store import Pull, Refusal

if TYPE_CHECKING:
    from tests.hub_double import HubDouble

DATE = "2026-11-23T12:00:00.000Z"


def told(ask: Ask, pull: Pull) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": DATE,
        "status": pull.status,
        "repo": {"name": ask.repo.removeprefix("spaces/"), "type": ask.api.split("/")[0][:-1]},
        "isPullRequest": True,
    }


@route("GET", "/api/models/REPO/discussions")
def discussions(hub: HubDouble, ask: Ask) -> Answer:
    """A page at a time, the newest first, as the Hub does."""
    pulls = hub.readable(ask).pulls[::-1]
    start = int(ask.query["p"]) * hub.page
    page = [told(ask, pull) for pull in pulls[start : start + hub.page]]
    return give({"count": len(pulls), "start": start, "discussions": page})


@route("POST", "/api/models/REPO/discussions")
def open_discussion(hub: HubDouble, ask: Ask) -> Answer:
    """Anyone who is logged in may open one; it begins as a draft."""
    if not ask.token:
        raise Refusal(401, "Invalid username or password.")
    repo = hub.readable(ask)
    if not 3 <= len(ask.json["title"]) <= 200:
        raise Refusal(400, "title: must have 3 to 200 characters")
    pull = Pull(len(repo.pulls) + 1, ask.json["title"], ask.account, repo.refs["main"])
    repo.pulls.append(pull)
    repo.refs[pull.ref] = pull.fork
    return give({"num": pull.number})


@route("GET", "/api/models/REPO/discussions/(?P<number>[0-9]+)")
def discussion(hub: HubDouble, ask: Ask) -> Answer:
    repo = hub.readable(ask)
    pull = repo.pull(ask.rest["number"])
    conflicts = repo.conflicts(pull) if pull.status != "merged" else []
    changes = {"base": "refs/heads/main", "mergeCommitId": pull.merged_as}
    more = {"changes": changes, "filesWithConflicts": conflicts, "events": [], "diff": ""}
    return give(told(ask, pull) | more)


@route("POST", "/api/models/REPO/discussions/(?P<number>[0-9]+)/status")
def status(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    pull = hub.readable(ask).pull(ask.rest["number"])
    if pull.status == "merged":
        raise Refusal(400, "This pull request is merged")
    pull.status = ask.json["status"]
    event = {"id": "0" * 24, "type": "status-change", "createdAt": DATE}
    return give({"newStatus": event | {"data": {"status": pull.status}}})


@route("POST", "/api/models/REPO/discussions/(?P<number>[0-9]+)/merge")
def merge(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    repo = hub.readable(ask)
    pull = repo.pull(ask.rest["number"])
    if pull.status == "draft":
        raise Refusal(400, "This branch is in draft mode, publish it to be able to merge")
    if pull.status != "open":
        raise Refusal(400, f"This pull request is {pull.status}")
    if repo.conflicts(pull):
        raise Refusal(409, "This pull request has conflicts")
    repo.merge(pull)
    return give({})


def collection(hub: HubDouble, slug: str) -> dict[str, Any]:
    if slug not in hub.collections:
        raise Refusal(404, "Collection not found")
    return hub.collections[slug]


@route("POST", "/api/collections")
def create_collection(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    title, owner = ask.json["title"], ask.json["namespace"]
    slug = f"{owner}/{'-'.join(title.lower().split())}-{'0' * 24}"
    if slug in hub.collections:
        return give({"slug": slug, "error": "Collection already exists"}, 409)
    rest = {"lastUpdated": DATE, "position": 0, "theme": "blue", "upvotes": 0}
    made = {"slug": slug, "title": title, "owner": owner, "items": [], **rest}
    made["private"] = ask.json["private"]
    hub.collections[slug] = made
    return give(made)


@route("GET", "/api/collections/(?P<slug>[^/]+/[^/]+)")
def get_collection(hub: HubDouble, ask: Ask) -> Answer:
    return give(collection(hub, ask.rest["slug"]))


@route("POST", "/api/collections/(?P<slug>[^/]+/[^/]+)/items")
def add_item(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    items = collection(hub, ask.rest["slug"])["items"]
    wanted = ask.json["item"]
    if wanted["id"] not in hub.repos:
        raise Refusal(404, f"{wanted['id']}: not found")
    if wanted["id"] in [item["id"] for item in items]:
        raise Refusal(409, "The item is in the collection")
    note = {"text": ask.json["note"]} if "note" in ask.json else None
    items.append({**wanted, "_id": f"{len(items):024x}", "position": len(items), "note": note})
    return give(collection(hub, ask.rest["slug"]))


@route("PATCH", "/api/collections/(?P<slug>[^/]+/[^/]+)/items/(?P<item>[0-9a-f]+)")
def change_item(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    items = collection(hub, ask.rest["slug"])["items"]
    item = next(item for item in items if item["_id"] == ask.rest["item"])
    item["note"] = {"text": ask.json["note"]}
    return give({})
