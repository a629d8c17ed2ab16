"""All checks in order, one line each: `./inv verify <folder | org/name[@rev]>`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from shared.base import paths
from shared.hub.calls import Sleep
from shared.release.model import RELEASE_FILE, Release, read_release
from shared.release.verify import card, files, layout, remote
from shared.release.verify.line import Line, line


def verify(
    target: str,
    *,
    public_key: Path | None = None,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> Iterator[Line]:
    """Every check's line, as soon as it is known; a later check may need an earlier one to hold.

    `target`: a folder, else a repository on the Hub. UserError where there is nothing to check.
    """
    folder = Path(target).expanduser()
    folder = folder if folder.is_absolute() or folder.is_dir() else paths.root() / folder
    if not folder.is_dir():
        fetched = remote.fetch(target, endpoint=endpoint, sleep=sleep)
        folder = fetched.folder
        yield line("download", lambda: remote.as_the_hub_says(fetched))
    yield from verify_folder(folder, public_key)


def verify_folder(folder: Path, public_key: Path | None = None) -> Iterator[Line]:
    """The checks of a folder. Nothing of it is loaded unless all that can be known before holds."""
    held = True
    for found in before_loading(folder, public_key):
        held = held and found.ok is not False
        yield found
    if held:
        yield from layout.loads(folder)
    else:
        yield Line("loads", None, "not tried: something above does not hold")


def before_loading(folder: Path, public_key: Path | None = None) -> Iterator[Line]:
    """All that can be known of a release folder without loading it.

    What leads out of the folder, or is a bomb, is not even opened: then this ends at `safe`.
    """
    safe = line("safe", lambda: files.safe(folder))
    yield safe
    if not safe.ok:
        return
    read: list[Release] = []
    manifest = line(RELEASE_FILE, lambda: _whose(_kept(read, read_release(folder))))
    yield manifest
    if not manifest.ok:
        return
    release = read[0]
    yield line("kinds", lambda: files.known(folder))
    yield line("complete", lambda: files.complete(folder, release))
    yield line("hashes", lambda: files.unchanged(folder, release))
    yield line("signature", lambda: files.signature(folder, public_key))
    yield line("figures", lambda: card.figures(folder, release))
    yield line("manifests", lambda: card.measurements(release))
    yield line("origin", lambda: card.origin(folder, release))
    yield line("source", lambda: files.tokenizer_is_the_sources(release))
    yield line("layout", lambda: layout.configured(folder))
    for dtype in layout.DTYPES:
        yield line(f"graph {dtype}", lambda dtype=dtype: layout.graph(folder, dtype))  # type: ignore[misc]


def _kept(read: list[Release], release: Release) -> Release:
    read.append(release)
    return release


def _whose(release: Release) -> str:
    commit = release.git_commit[:12] if release.git_commit else "unknown"
    dirty = {True: "", False: ", tree not clean", None: ""}[release.git_clean]
    return (
        f"{release.domain}, rung {release.rung} ({release.exporter}), release {release.key}, "
        f"made by commit {commit}{dirty}"
    )
