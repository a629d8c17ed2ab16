"""What the Hub double keeps: files, commits, and the Hub's own rules about them; no HTTP here."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

INITIAL = "initial commit"
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


class Commit(NamedTuple):
    """What the history tells of a commit."""

    parent: str | None
    title: str
    author: str


@dataclass
class Pull:
    """A pull request: `fork` is the commit of main that it was opened at."""

    number: int
    title: str
    author: str
    fork: str
    status: str = "draft"
    merged_as: str | None = None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.number}"


@dataclass
class Repo:
    """Commits by their hash; `refs` names some of them, `main` the newest; `was` all that main was."""

    private: bool = False
    gated: bool = False
    trees: dict[str, Tree] = field(default_factory=dict)
    log: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)
    was: list[str] = field(default_factory=list)

    def commit(
        self, tree: Tree, ref: str = "main", title: str = INITIAL, author: str = "system"
    ) -> str:
        parent = self.refs.get(ref)
        text = f"{parent} {title} {sorted((name, blob.oid) for name, blob in tree.items())}"
        commit = hashlib.sha1(f"{len(self.log)} {text}".encode()).hexdigest()
        self.trees[commit], self.log[commit] = tree, Commit(parent, title, author)
        self.refs[ref] = commit
        if ref == "main":
            self.was.append(commit)
        return commit

    def at(self, revision: str) -> tuple[str, Tree]:
        commit = self.refs.get(revision) or self.tags.get(revision) or revision
        if commit not in self.trees:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, self.trees[commit]

    def history(self, revision: str) -> list[tuple[str, Commit]]:
        """The commit and those before it, the newest first."""
        commit: str | None = self.at(revision)[0]
        found = []
        while commit is not None:
            found.append((commit, self.log[commit]))
            commit = self.log[commit].parent
        return found

    def pull(self, number: str) -> Pull:
        if not 0 < int(number) <= len(self.pulls):
            raise Refusal(404, "No such discussion")
        return self.pulls[int(number) - 1]

    def write(self, files: dict[str, bytes], title: str, author: str = "someone") -> str:
        """A commit on main by somebody, as the Hub's web editor makes one."""
        tree = self.at("main")[1] | {name: Blob(content) for name, content in files.items()}
        return self.commit(tree, "main", title, author)

    def conflicts(self, pull: Pull) -> list[str]:
        """The paths that main and the pull request changed in different ways."""
        fork, main, theirs = (self.at(r)[1] for r in (pull.fork, "main", pull.ref))
        names = fork.keys() | main.keys() | theirs.keys()
        three = ((name, fork.get(name), main.get(name), theirs.get(name)) for name in names)
        return sorted(name for name, f, m, t in three if f != m and f != t and m != t)

    def merge(self, pull: Pull) -> str:
        """One commit on main with what the pull request changed, as the Hub squashes it."""
        fork, theirs = self.at(pull.fork)[1], self.at(pull.ref)[1]
        tree = dict(self.at("main")[1])
        for name in fork.keys() | theirs.keys():
            if fork.get(name) != theirs.get(name):
                tree.pop(name, None)
                tree |= {name: theirs[name]} if name in theirs else {}
        pull.status = "merged"
        pull.merged_as = self.commit(tree, "main", f"{pull.title} (#{pull.number})", pull.author)
        return pull.merged_as


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


class Keeper:
    """The large-file store, and how many bytes came in twice though they had been kept."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.sent = 0
        self.resent = 0

    def keep(self, oid: str, content: bytes) -> None:
        self.sent += len(content)
        self.resent += len(content) if oid in self.objects else 0
        self.objects[oid] = content

    def apply_commit(self, repo: Repo, ref: str, ndjson: bytes, author: str) -> str:
        """Make the commit that the client's lines describe; its hash. All of it, or a Refusal."""
        head, *operations = (json.loads(line) for line in ndjson.splitlines())
        newest, tree = repo.at(ref)
        if head["value"].get("parentCommit", newest) != newest:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(tree)
        for operation in operations:
            self._apply(tree, operation["key"], operation["value"])
        return repo.commit(tree, ref, head["value"]["summary"], author)

    def _apply(self, tree: Tree, key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "deletedFile":
            if tree.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "lfsFile":
            if len(self.objects.get(value["oid"], b"")) != value["size"]:
                raise Refusal(400, f"{path}: its LFS object was never uploaded")
            tree[path] = Blob(self.objects[value["oid"]], lfs=True)
        else:
            content = base64.b64decode(value["content"])
            self.sent += len(content)
            self.resent += len(content) if tree.get(path) == Blob(content) else 0
            tree[path] = Blob(flip_a_bit(content) if path in self.damaged else content)
