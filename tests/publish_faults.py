"""Publishing, met by faults at every kind of request; `python -m tests.publish_faults` tells of it.

A run is a process of its own with the real client, against tests/hub_double.py over HTTP. Main
holds an old release; a new one is published into the fault, and then once more. What is looked at
stands in `Run`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from shared.base import paths
from tests.hub_double import Fault, HubDouble
from tests.hub_publisher import REPO, TIMEOUT_SECONDS, publish_once
from tests.hub_release import graph
from tests.hub_routes import WRITE_TOKEN
from tests.hub_store import Pull

DOCUMENT = paths.REPOSITORY / "docs" / "publish-faults.md"
OLD_KEY, STALE_KEY = "0" * 16, "2" * 16
CARD = "---\nlicense: apache-2.0\n---\n# Card of the {} release\n"
OLD = {
    "README.md": CARD.format("old").encode(),
    "config.json": b"{}",
    "gone.json": b"[]",
    "onnx/model_q4f16.onnx": graph(bytes(range(256)) * 300),
}
NEW = {
    "README.md": CARD.format("new").encode(),
    "config.json": b"{}",
    "more.json": b"[1]",
    "onnx/model_q4f16.onnx": graph(bytes(range(255, -1, -1)) * 800),
    "onnx/model_q4.onnx": graph(bytes(range(1, 256)) * 400),
}
NEW_BYTES = sum(len(content) for name, content in NEW.items() if OLD.get(name) != content)


@dataclass(frozen=True)
class Point:
    """A kind of request: what it is for, and how the double knows it."""

    what: str
    method: str
    path: str
    skip: int = 0
    first: bool = False
    """Whether only a first publication makes it."""

    @property
    def writes(self) -> bool:
        return self.method != "GET"


POINTS = [
    Point("whose token it is", "GET", "/whoami-v2"),
    Point("main's commit", "GET", "/revision/main"),
    Point("main's files", "GET", "/tree/"),
    Point("tags", "GET", f"{REPO}/refs"),
    Point("main's history", "GET", "/commits/"),
    Point("pull requests", "GET", f"{REPO}/discussions"),
    Point("the pull request", "GET", "/discussions/2"),
    Point("the pull request's commit", "GET", "/revision/refs/pr/2"),
    Point("make the repository", "POST", "/repos/create", first=True),
    Point("open a pull request", "POST", f"{REPO}/discussions"),
    Point("close an older one", "POST", "/discussions/1/status"),
    Point("check the card", "POST", "/validate-yaml"),
    Point("how to upload", "POST", "/preupload/"),
    Point("LFS batch", "POST", "/objects/batch"),
    Point("LFS upload", "PUT", "/lfs/"),
    Point("second LFS upload", "PUT", "/lfs/", skip=1),
    Point("LFS verify", "POST", "/objects/verify"),
    Point("first commit", "POST", "/commit/"),
    Point("second commit", "POST", "/commit/", skip=1),
    Point("end the draft", "POST", "/discussions/2/status"),
    Point("merge", "POST", "/discussions/2/merge"),
    Point("tag", "POST", "/tag/"),
]

Faults = dict[str, dict[str, Any]]
AT_ALL: Faults = {
    "kill -9 before": {"how": "kill"},
    "500": {"status": 500},
    "429": {"status": 429, "headers": {"Retry-After": "2"}},
    "403": {"status": 403},
    "answer cut off": {"how": "cut", "after": True},
}
AT_WRITES: Faults = {
    "kill -9 after": {"how": "kill", "after": True},
    "silence": {"how": "silence", "after": True},
    "503 that stays": {"status": 503},
    "line cut in the request": {"how": "hang up"},
}
EDITS, ADDS = "someone edits main", "someone adds a file to main"
"""A change that the release makes too, so that the merge conflicts; and one beside the release's."""
EDIT, ADDED = {"README.md": b"by hand"}, {"NOTES.md": b"by hand"}
IN_BODIES: Faults = {"kill -9 in the upload": {"how": "kill in the body"}}


@dataclass(frozen=True)
class Run:
    """What came of it. `resent`: bytes that came in though the Hub held them from before."""

    what: str
    fault: str
    said: str
    main: str
    always_whole: bool
    sent: int
    second: str
    main_then: str
    second_sent: int
    resent: int
    tagged: bool
    open_pulls: int
    leaked: bool
    met: bool

    @property
    def ok(self) -> bool:
        """Old or new and never between; then new, tagged, nothing left open, nothing sent twice."""
        whole = self.met and self.always_whole and self.main in allowed(self.fault)
        done = self.main_then == "new" and self.tagged and not self.open_pulls
        return whole and done and not self.resent and not self.leaked


def allowed(fault: str) -> set[str]:
    """What main may ever be: somebody's edit is on top of the old release, and nowhere else.

    In the one known window, beside the merge, what somebody adds ends up beside the release.
    """
    more = {EDITS: {"theirs"}, ADDS: {"theirs", "mixed"}}
    return {"old", "new"} | more.get(fault, set())


def cases() -> Iterator[tuple[str, str, list[Fault], bool]]:
    """What, which fault, the double's orders, and whether it is a first publication."""
    for point in POINTS:
        kinds = AT_ALL | (AT_WRITES if point.writes else {})
        kinds |= IN_BODIES if point.method == "PUT" or "/commit/" in point.path else {}
        for name, order in kinds.items():
            times = 9 if "stays" in name else 1
            faults = [Fault(point.method, point.path, skip=point.skip, **order)] * times
            yield point.what, name, faults, point.first
    yield from _conflicts()
    for what, name in (("first commit", "onnx/model_q4f16.onnx"), ("fourth commit", "more.json")):
        skip = 3 if what.startswith("fourth") else 0
        lose = [Fault("POST", "/commit/", how="then", after=True, skip=skip, do=_loses(name))]
        yield what, f"{name} is lost after it", lose, False


def _conflicts() -> Iterator[tuple[str, str, list[Fault], bool]]:
    wanted = ("open a pull request", "LFS upload", "second commit", "end the draft", "merge")
    for point in POINTS:
        if point.what in wanted:
            move = Fault(point.method, point.path, how="then", skip=point.skip, do=_edits)
            yield point.what, EDITS, [move], False
    add = Fault("POST", "/discussions/2/merge", how="then", do=_adds)
    yield "merge", ADDS, [add], False


def chosen() -> Iterator[tuple[str, str, list[Fault], bool]]:
    """The cases that CI runs: all deaths in and after a write, all that others do, and of the rest
    some for each request, the kinds of fault by turns."""
    rest: dict[str, int] = {}
    points = [point.what for point in POINTS]
    for case in cases():
        what, fault = case[:2]
        if fault not in AT_ALL | AT_WRITES or fault == "kill -9 after":
            yield case
            continue
        number = rest[what] = rest.get(what, -1) + 1
        if (number + points.index(what)) % 4 == 0:
            yield case


def _edits(hub: HubDouble) -> None:
    hub.repos[REPO].write(EDIT, "Fix a typo")


def _adds(hub: HubDouble) -> None:
    hub.repos[REPO].write(ADDED, "Add notes")


def _loses(name: str) -> Any:
    def lose(hub: HubDouble) -> None:
        hub.repos[REPO].at("refs/pr/2")[1].pop(name)

    return lose


def old_world(hub: HubDouble) -> None:
    """Main as an earlier release of ours left it, and a pull request of one that never ended."""
    start = hub.add(REPO, {})
    tree = {**hub.repos[REPO].at("main")[1], **_blobs(hub)}
    repo = hub.repos[REPO]
    repo.tags["v1"] = start  # so that main's history has to be asked
    old = repo.commit(tree, "main", f"DocIntel, release {OLD_KEY} over {start[:12]}", "writer")
    title = f"DocIntel, release {STALE_KEY} over {start[:12]}"
    repo.pulls.append(Pull(1, title, "writer", old, "open"))
    repo.refs["refs/pr/1"] = old
    repo.was.clear()


def _blobs(hub: HubDouble) -> Any:
    from tests.hub_store import new_repo

    tree = new_repo(OLD).at("main")[1]
    hub.objects.update({blob.sha256: blob.content for blob in tree.values() if blob.lfs})
    return tree


def try_out(what: str, name: str, faults: list[Fault], first: bool, world: Path) -> Run:
    """One case: publish into the fault, look, publish again, look."""
    with HubDouble() as hub:
        if not first:
            old_world(hub)
        hub.faults = list(faults)
        said = publish_once(hub, world)
        met = len(hub.faults) < len(faults)
        hub.faults.clear()
        main, sent = state(hub), hub.keeper.sent
        edited = name in (EDITS, ADDS)
        second = publish_once(hub, world, overwrite=edited)
        repo = hub.repos[REPO]
        leaked = any(WRITE_TOKEN in text for text in _written(world)) or WRITE_TOKEN in said
        return Run(
            what,
            name,
            said,
            main,
            all(_state(repo, commit) in allowed(name) for commit in repo.was),
            sent,
            ("with --overwrite: " if edited else "") + second,
            state(hub),
            hub.keeper.sent - sent,
            hub.keeper.resent,
            repo.refs["main"] in repo.tags.values(),
            sum(pull.status in ("open", "draft") for pull in repo.pulls),
            leaked,
            met,
        )


def state(hub: HubDouble) -> str:
    """`old`, `new`, `theirs` (somebody's change on top of the old one), `mixed` (what somebody added
    beside the new one), or `between`."""
    return _state(hub.repos[REPO], "main") if REPO in hub.repos else "old"


def _state(repo: Any, revision: str) -> str:
    tree = repo.at(revision)[1]
    files = {name: blob.content for name, blob in tree.items() if name != ".gitattributes"}
    for release, name in ((OLD, "old"), (NEW, "new"), ({}, "old")):
        if files == release:
            return name
    if files in (OLD | EDIT, OLD | ADDED):
        return "theirs"
    return "mixed" if files == NEW | ADDED else "between"


def _written(world: Path) -> Iterator[str]:
    for path in world.rglob("*"):
        if path.is_file():
            yield path.read_bytes().decode(errors="replace")


def new_world(folder: Path) -> Path:
    """The release folder that is published."""
    for name, content in NEW.items():
        (folder / "release" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "release" / name).write_bytes(content)
    return folder


def run_all(
    folder: Path, wanted: Iterable[tuple[str, str, list[Fault], bool]] | None = None
) -> list[Run]:
    """Those cases, or every one, two at a time, each worker in a world of its own below `folder`."""
    worlds: Queue[Path] = Queue()
    for name in ("one", "two"):
        worlds.put(new_world(folder / name))

    def one(case: tuple[str, str, list[Fault], bool]) -> Run:
        world = worlds.get()
        try:
            return try_out(*case, world)
        finally:
            worlds.put(world)

    with ThreadPoolExecutor(worlds.qsize()) as workers:
        return list(workers.map(one, cases() if wanted is None else wanted))


def row(run: Run) -> str:
    """A run as the document's line."""
    r = run
    texts = (
        r.what,
        r.fault,
        r.said,
        r.main,
        r.sent,
        r.second,
        r.main_then,
        r.second_sent,
        r.resent,
    )
    cells = (f"{c:,}" if isinstance(c, int) else c.replace("|", "\\|") for c in texts)
    return f"| {' | '.join(cells)} |"


def render(runs: list[Run]) -> str:
    """The document: what the columns mean, then a row a run."""
    head = ("request", "fault", "the first run said", "main then", "sent", "again", "main then")
    lines = [
        "# Publishing into faults",
        "",
        "Made by `python -m tests.publish_faults`; the tests hold this page against a part of these",
        "runs, in which each kind of request and each kind of fault is.",
        f"Each of the {len(runs)} rows is two processes with the real `huggingface_hub` client: the",
        "first publishes a new release over an old one and meets the fault, once, at its first such",
        "request (`503 that stays`: every time); the second publishes without a fault. `sent` counts",
        "the bytes of files that the Hub took in, `resent` those it had held already. A new release",
        f"has {NEW_BYTES:,} bytes that the old one has not. The Hub is `tests/hub_double.py`, over",
        f"HTTP; waiting between attempts is left out, silence ends after {TIMEOUT_SECONDS} s.",
        "Xet, which the double does not speak, was off in every run: files went up by LFS.",
        "",
        *summary(runs),
        "",
        "Runs in which main was ever between the old release and the new one: "
        f"{sum(not r.always_whole for r in runs)}. Runs in which somebody else's",
        f"file ended up beside the release: {sum(r.main == 'mixed' for r in runs)}. Bytes sent twice: "
        f"{sum(r.resent for r in runs)}.",
        "Where someone else edits main it is `theirs`, their change on top of the old release, until",
        "the publisher is told to overwrite it. One window is known and stays: what somebody adds",
        "between the last look at main and the merge ends up beside the release (`mixed`); it is seen",
        "right after, told and not tagged.",
        "",
        f"| {' | '.join((*head, 'sent', 'resent'))} |",
        "|" + "---|" * (len(head) + 2),
    ]
    return "\n".join([*lines, *map(row, runs)]) + "\n"


def summary(runs: list[Run]) -> list[str]:
    """A row a fault: how many runs, what became of the first, and where main stood after it."""
    lines = ["| fault | runs | published all the same | refused | killed | main old | main new |"]
    lines.append("|---|---|---|---|---|---|---|")
    for fault in dict.fromkeys(run.fault for run in runs):
        these = [run for run in runs if run.fault == fault]
        counts = [
            sum(run.said.startswith(word) for run in these)
            for word in ("published", "refused", "(killed")
        ]
        counts += [sum(run.main == name for run in these) for name in ("old", "new")]
        lines.append(f"| {fault} | {len(these)} | {' | '.join(map(str, counts))} |")
    return lines


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = run_all(Path(folder))
    DOCUMENT.write_text(render(runs), encoding="utf-8")
    bad = [run for run in runs if not run.ok]
    print(f"{len(runs)} runs, {len(bad)} not as they should be", *bad, sep="\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
