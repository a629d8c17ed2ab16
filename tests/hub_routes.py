"""The Hub double's routes: one short function for each request that huggingface_hub 2.4.0 makes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from tests.hub_store import Refusal, flip_a_bit, is_lfs

if TYPE_CHECKING:
    from tests.hub_double import HubDouble

FIRST_PAGE = {"README.md": b"---\nsdk: static\n---\n", "index.html": b"<p>", "style.css": b"p{}"}
"""What the Hub puts into a new static Space."""
WRITE_TOKEN, READ_TOKEN = "hf_" + "W" * 34, "hf_" + "R" * 34


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """A request taken apart: what the route matched, the query, the body, and who asks."""

    repo: str
    rest: dict[str, str]
    query: dict[str, str]
    body: bytes
    token: str
    ranged: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def api(self) -> str:
        """`models/org/name` or `spaces/org/name`, as below /api/."""
        return self.repo if self.repo.startswith("spaces/") else f"models/{self.repo}"

    @property
    def account(self) -> str:
        return "writer" if self.token == WRITE_TOKEN else "reader"

    def may_write(self) -> None:
        if not self.token:
            raise Refusal(401, "Invalid username or password.")
        if self.token != WRITE_TOKEN:
            raise Refusal(403, "You don't have the rights to write here")


NAME = r"(?P<repo>[^/]+/[^/]+)"
Route = Callable[["HubDouble", Ask], Answer]
ROUTES: list[tuple[list[str], re.Pattern[str], Route]] = []


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    def add(function: Route) -> Route:
        full = pattern.replace("/api/models/REPO", r"/api/(?P<kind>models|spaces)/NAME")
        full = full.replace("/REPO", r"/(?P<repo>(?:spaces/)?[^/]+/[^/]+?)").replace("NAME", NAME)
        full = full.replace("REV", r"(?P<rev>[^/]+)")
        ROUTES.append((methods.split(), re.compile(full), function))
        return function

    return add


def give(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    kind = {"Content-Type": "application/json"}
    return Answer(status, json.dumps(value).encode(), kind | (headers or {}))


@route("GET", "/api/whoami-v2")
def whoami(hub: HubDouble, ask: Ask) -> Answer:
    if not ask.token:
        raise Refusal(401, "Invalid username or password.")
    return give({"type": "user", "name": ask.account})


@route("POST", "/api/repos/create")
def create(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    space = ask.json.get("type") == "space"
    if space and ask.json.get("sdk") != "static":
        raise Refusal(400, "a Space of this double has the sdk static")
    plain = f"{ask.json['organization']}/{ask.json['name']}"
    name = f"spaces/{plain}" if space else plain
    url = {"url": f"{hub.url}/{name}", "name": plain}
    if name in hub.repos:
        return give({**url, "error": "You already created this repo"}, 409)
    hub.add(name, FIRST_PAGE if space else {}, private=ask.json.get("visibility") == "private")
    return give(url)


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: HubDouble, ask: Ask) -> Answer:
    _, _, head = ask.json["content"].partition("---\n")
    wanted = "sdk:" if ask.json["repoType"] == "space" else ""
    if ask.json["content"].startswith("---\n") and wanted in head.partition("\n---\n")[0]:
        return give({"errors": [], "warnings": []})
    message = f"{wanted} empty or missing yaml metadata".strip()
    return give({"errors": [{"message": message}], "warnings": []}, 400)


@route("GET", "/api/models/REPO")
@route("GET", "/api/models/REPO/revision/REV")
def model_info(hub: HubDouble, ask: Ask) -> Answer:
    repo = hub.readable(ask)
    commit, tree = repo.at(ask.rest.get("rev", "main"))
    siblings = [
        b.sibling(name) if "blobs" in ask.query else {"rfilename": name} for name, b in tree.items()
    ]
    info = {"id": ask.repo, "modelId": ask.repo, "sha": commit, "siblings": siblings}
    return give({**info, "private": repo.private, "gated": "manual" if repo.gated else False})


@route("GET", "/api/models/REPO/refs")
def refs(hub: HubDouble, ask: Ask) -> Answer:
    repo = hub.readable(ask)
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.refs["main"]}
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit}
        for name, commit in repo.tags.items()
    ]
    return give({"branches": [main], "tags": tags, "converts": []})


@route("POST", "/api/models/REPO/tag/REV")
def tag(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    repo = hub.readable(ask)
    if ask.json["tag"] in repo.tags:
        raise Refusal(409, "Reference already exists")
    repo.tags[ask.json["tag"]] = repo.at(ask.rest["rev"])[0]
    return Answer()


@route("GET", "/api/models/REPO/commits/REV")
def commits(hub: HubDouble, ask: Ask) -> Answer:
    date = "2026-11-23T12:00:00.000Z"
    told = [
        {"id": oid, "title": c.title, "message": "", "authors": [{"user": c.author}], "date": date}
        for oid, c in hub.readable(ask).history(ask.rest["rev"])
    ]
    return give(told)


@route("GET", "/api/models/REPO/tree/REV")
def tree(hub: HubDouble, ask: Ask) -> Answer:
    _, files = hub.readable(ask).at(ask.rest["rev"])
    folders = {name.rsplit("/", 1)[0] for name in files if "/" in name}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders
    ]
    entries += [blob.entry(name) for name, blob in files.items()]
    if ask.query.get("recursive") != "true":
        entries = [entry for entry in entries if "/" not in entry["path"]]
    start = int(ask.query.get("cursor", 0))
    end = start + hub.page
    page = f"{hub.url}/api/{ask.api}/tree/{ask.rest['rev']}"
    link = {"Link": f'<{page}?{urlencode({**ask.query, "cursor": end})}>; rel="next"'}
    return give(entries[start:end], 200, link if end < len(entries) else {})


@route("POST", "/api/models/REPO/paths-info/REV")
def paths_info(hub: HubDouble, ask: Ask) -> Answer:
    _, files = hub.readable(ask).at(ask.rest["rev"])
    wanted = parse_qs(ask.body.decode())["paths"]
    return give([files[name].entry(name) for name in wanted if name in files])


@route("POST", "/api/models/REPO/preupload/REV")
def preupload(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    _, files = hub.readable(ask).at(ask.rest["rev"])
    answers = []
    for file in ask.json["files"]:
        lfs = is_lfs(file["path"], file["size"], base64.b64decode(file["sample"]), files)
        answers.append({"path": file["path"], "uploadMode": "lfs" if lfs else "regular"})
        answers[-1]["shouldIgnore"] = False
    return give({"files": answers})


@route("POST", "/REPO.git/info/lfs/objects/batch")
def lfs_batch(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    hub.readable(ask)
    verify = {"href": f"{hub.url}/{ask.repo}.git/info/lfs/objects/verify"}
    answers = []
    for wanted in ask.json["objects"]:
        upload = {"href": f"{hub.url}/lfs/{wanted['oid']}"}
        actions = {"actions": {"upload": upload, "verify": verify}}
        answers.append({**wanted, **({} if wanted["oid"] in hub.objects else actions)})
    return give({"transfer": "basic", "objects": answers})


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_upload(hub: HubDouble, ask: Ask) -> Answer:
    content = flip_a_bit(ask.body) if "lfs" in hub.damaged else ask.body
    if hashlib.sha256(content).hexdigest() != ask.rest["oid"]:
        raise Refusal(400, "The content does not have the SHA-256 that was announced")
    hub.keeper.keep(ask.rest["oid"], content)
    return Answer()


@route("POST", "/REPO.git/info/lfs/objects/verify")
def lfs_verify(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    if len(hub.objects.get(ask.json["oid"], b"")) != ask.json["size"]:
        raise Refusal(404, "LFS object not found")
    return give({})


@route("POST", "/api/models/REPO/commit/REV")
def commit(hub: HubDouble, ask: Ask) -> Answer:
    ask.may_write()
    repo = hub.readable(ask)
    made = hub.keeper.apply_commit(repo, ask.rest["rev"], ask.body, ask.account)
    return give({"commitOid": made, "commitUrl": f"{hub.url}/{ask.repo}/commit/{made}"})


@route("GET HEAD", "/REPO/resolve/REV/(?P<path>.+)")
def resolve(hub: HubDouble, ask: Ask) -> Answer:
    """Small files come from here; LFS ones from a CDN, another host, which gets no token."""
    repo = hub.readable(ask)
    if repo.gated:
        raise Refusal(403, f"Access to model {ask.repo} is restricted", "GatedRepo")
    at, files = repo.at(ask.rest["rev"])
    blob = files.get(ask.rest["path"])
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    headers = {"X-Repo-Commit": at, "ETag": f'"{blob.oid}"'}
    if not blob.lfs and ask.ranged:  # the page asks for a byte, to see whether a file is there
        total = len(blob.content)
        return Answer(206, blob.content[:1], headers | {"Content-Range": f"bytes 0-0/{total}"})
    if not blob.lfs:
        return Answer(200, blob.content, headers)
    hub.objects[blob.sha256] = blob.content
    linked = {"X-Linked-Size": str(len(blob.content)), "X-Linked-ETag": f'"{blob.sha256}"'}
    return Answer(302, b"", {**headers, **linked, "Location": f"{hub.cdn}/{blob.sha256}"})


@route("GET HEAD", "/cdn/(?P<oid>[0-9a-f]{64})")
def cdn(hub: HubDouble, ask: Ask) -> Answer:
    return Answer(200, hub.objects[ask.rest["oid"]], {"ETag": f'"{ask.rest["oid"]}"'})
