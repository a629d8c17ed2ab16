"""What the Hub double keeps: files, commits, and the Hub's own rules about them; no HTTP here."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

LFS_FROM_BYTES = 10 << 20
GITATTRIBUTES = b"".join(
    b"%s filter=lfs diff=lfs merge=lfs -text\n" % kind
    for kind in (b"*.bin", b"*.onnx", b"*.safetensors", b"*.onnx_data*", b"*.pt")
)


class Refusal(Exception):
    """The Hub says no: a status, a sentence and, for some, a code that the client knows."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message, "X-Error-Code": code}


@dataclass(frozen=True)
class Blob:
    """A file's content; git holds only a pointer to it where it is LFS."""

    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def in_git(self) -> bytes:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
        return pointer.format(self.sha256, len(self.content)).encode() if self.lfs else self.content

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.in_git) + self.in_git).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """The file as the Hub lists it."""
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.in_git)}
        found = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        return {**found, "lfs": lfs} if self.lfs else found

    def sibling(self, path: str) -> dict[str, Any]:
        """The file as the model's own record lists it, in other words."""
        size = len(self.content)
        lfs = {"sha256": self.sha256, "size": size, "pointerSize": len(self.in_git)}
        found = {"rfilename": path, "size": size, "blobId": self.oid}
        return {**found, "lfs": lfs} if self.lfs else found


Tree = dict[str, Blob]


@dataclass
class Repo:
    """Commits by their hash; `refs` names some of them, `main` the newest."""

    private: bool = False
    gated: bool = False
    trees: dict[str, Tree] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, tree: Tree) -> str:
        text = f"{self.refs.get('main')} {sorted((name, blob.oid) for name, blob in tree.items())}"
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.trees[commit], self.refs["main"] = tree, commit
        return commit

    def at(self, revision: str) -> tuple[str, Tree]:
        commit = self.refs.get(revision, revision)
        if commit not in self.trees:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, self.trees[commit]


def new_repo(files: dict[str, bytes], private: bool = False, gated: bool = False) -> Repo:
    """A repository whose one commit has the Hub's .gitattributes and `files`."""
    tree = {".gitattributes": Blob(GITATTRIBUTES)}
    for name, content in files.items():
        tree[name] = Blob(content, is_lfs(name, len(content), content[:512], tree))
    repo = Repo(private, gated)
    repo.commit(tree)
    return repo


def is_lfs(path: str, size: int, sample: bytes, tree: Tree) -> bool:
    """The Hub's rule: what .gitattributes says, else large or binary."""
    attributes = tree.get(".gitattributes", Blob(b"")).content.decode()
    kinds = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
    return any(fnmatchcase(path, k) for k in kinds) or size > LFS_FROM_BYTES or b"\0" in sample


def flip_a_bit(content: bytes) -> bytes:
    """The same length, and never the same content."""
    return bytes([content[0] ^ 1]) + content[1:]


def apply_commit(repo: Repo, ndjson: bytes, objects: dict[str, bytes], damaged: set[str]) -> str:
    """Make the commit that the client's lines describe; its hash. All of it, or a Refusal."""
    head, *operations = (json.loads(line) for line in ndjson.splitlines())
    newest, tree = repo.at("main")
    if head["value"].get("parentCommit", newest) != newest:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(tree)
    for operation in operations:
        value = operation["value"]
        path = value["path"]
        if operation["key"] == "deletedFile":
            if tree.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif operation["key"] == "lfsFile":
            if len(objects.get(value["oid"], b"")) != value["size"]:
                raise Refusal(400, f"{path}: its LFS object was never uploaded")
            tree[path] = Blob(objects[value["oid"]], lfs=True)
        else:
            content = base64.b64decode(value["content"])
            tree[path] = Blob(flip_a_bit(content) if path in damaged else content)
    return repo.commit(tree)
