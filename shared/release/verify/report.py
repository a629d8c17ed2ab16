"""All checks in order, one line each: `./inv verify <folder | org/name[@rev]>`."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from shared.base import paths
from shared.hub.retries import Sleep
from shared.release.model import RELEASE_FILE, Listing, OtherVersion, Release, read_release
from shared.release.verify import card, family, files, layout, remote
from shared.release.verify.line import Line, NotChecked, line


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
        beside = partial(remote.hashes_beside, fetched, endpoint=endpoint, sleep=sleep)
        yield from verify_folder(folder, public_key, beside)
        return
    yield from verify_folder(folder, public_key)


def verify_folder(
    folder: Path, public_key: Path | None = None, beside: family.Beside = family.on_this_machine
) -> Iterator[Line]:
    """The checks of a folder. Nothing of it is loaded unless all that can be known before holds.

    `beside`: where the family of a domain is looked up.
    """
    held, whole = True, family.is_family(folder)
    checks = family.before_loading(folder, public_key) if whole else None
    for found in checks or before_loading(folder, public_key, beside):
        held = held and found.ok is not False
        yield found
    if held:
        graphs = (*layout.GRAPHS, *family.SWAPS) if whole else layout.GRAPHS
        yield from layout.loads(folder, graphs=graphs)
    else:
        yield Line("loads", None, "not tried: something above does not hold")


def before_loading(
    folder: Path, public_key: Path | None = None, beside: family.Beside = family.on_this_machine
) -> Iterator[Line]:
    """All that can be known of a release folder without loading it.

    Of a release.json of another version the files are checked, not what it says of measurements.
    What leads out of the folder, or is a bomb, is not even opened: then this ends at `safe`.
    """
    safe = line("safe", lambda: files.safe(folder))
    yield safe
    if not safe.ok:
        return
    read: list[Listing] = []
    manifest = line(RELEASE_FILE, lambda: _whose(_read(folder, read)))
    yield manifest
    if not read:
        return
    listing = read[0]
    yield line("kinds", lambda: files.known(folder))
    yield line("complete", lambda: files.complete(folder, listing))
    yield line("hashes", lambda: files.unchanged(folder, listing))
    yield line("signature", lambda: files.signature(folder, public_key))
    if isinstance(listing, Release):
        yield line("figures", lambda: card.figures(folder, listing))
        yield line("manifests", lambda: card.measurements(listing))
        yield line("grammar", lambda: files.grammar_is_the_schemas(folder))
    else:
        yield from (
            Line(name, None, manifest.words) for name in ("figures", "manifests", "grammar")
        )
    yield line("origin", lambda: card.origin(folder, listing))
    yield line("source", lambda: files.tokenizer_is_the_sources(listing))
    if isinstance(listing, Release) and "family" in listing.facts:
        yield line("family", lambda: family.base_is_the_familys(listing, beside))
    yield line("layout", lambda: layout.configured(folder))
    for dtype in layout.DTYPES:
        yield line(f"graph {dtype}", lambda dtype=dtype: layout.graph(folder, dtype))  # type: ignore[misc]


def _read(folder: Path, read: list[Listing]) -> Release:
    """The release, put into `read`; of one of another version its listing, and NotChecked."""
    try:
        release = read_release(folder)
    except OtherVersion as error:
        read.append(error.listing)
        raise NotChecked(
            f"not checked: {error.what}; check out commit {_commit(error.listing)}"
        ) from None
    read.append(release)
    return release


def _whose(release: Release) -> str:
    dirty = {True: "", False: ", tree not clean", None: ""}[release.git_clean]
    return (
        f"{release.domain}, rung {release.rung} ({release.exporter}), release {release.key}, "
        f"made by commit {_commit(release)}{dirty}"
    )


def _commit(release: Listing) -> str:
    return release.git_commit[:12] if release.git_commit else "unknown"
