"""Weights from the Hub, pinned: `hf:org/name@<commit or tag>` becomes a folder in the Hub's cache.

>>> fetch_snapshot("hf:HuggingFaceTB/SmolLM2-135M-Instruct@v1.0")
PosixPath('.../models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/12fd25f77366fa6b3b4b768ec3050...')
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import (
    HfApi,
    get_cached_repo_tree,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import validate_repo_id

from shared.base.errors import RungFailed, UserError
from shared.base.progress import say
from shared.hub.by_range import fetch_weights
from shared.hub.client import single_tries
from shared.hub.remote import need_public
from shared.hub.retries import COMMIT, Hub, Sleep, commit_of, transferring, within

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "LICENSE*", "NOTICE*", "README.md"]
UNWANTED = ["*/*"]
"""Sub-folders hold other formats of the same weights; a rung's model lies at the top."""
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx")
REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*")
ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class HubSource:
    """A model repository at a commit, tag or branch."""

    repo_id: str
    revision: str


def parse_hub_source(spec: str) -> HubSource:
    """`hf:org/name@revision`, taken apart; UserError for anything else."""
    form = "hf:org/name@<commit or tag>"
    name, _, revision = spec.removeprefix("hf:").partition("@")
    if not spec.startswith("hf:") or name.count("/") != 1:
        raise UserError(f"{spec}: not a Hub source; write {form}")
    if not revision:
        raise UserError(f"{spec}: pin a revision: {form}")
    if not REVISION.fullmatch(revision):
        raise UserError(f"{spec}: {revision!r} is no commit or tag; write {form}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{spec}: {error}") from None
    return HubSource(name, revision)


def cached_configuration(spec: str) -> Path | None:
    """config.json of the source where the Hub's cache has it; the network is not asked."""
    source = parse_hub_source(spec)
    found = try_to_load_from_cache(source.repo_id, "config.json", revision=source.revision)
    return Path(found) if isinstance(found, str) else None


def fetch_snapshot(
    spec: str,
    cache: Path | None = None,
    *,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> Path:
    """The folder with the source's safetensors, tokenizer and configuration; never code or pickles.

    A commit that is in `cache` (default: the Hub's own) whole is taken from there without a word
    to the network. A tag or branch is looked up first, and taken from the cache where that fails.
    RungFailed with one sentence within about 5 s where the Hub cannot be reached.
    """
    source = parse_hub_source(spec)
    if COMMIT.fullmatch(source.revision) and (found := _cached(source, cache)):
        return found
    hub = Hub(HfApi(endpoint=endpoint), source.repo_id, failure=RungFailed, sleep=sleep)
    try:
        info = hub.call(lambda: _look(hub, source.revision), patient=False)
    except RungFailed as failure:
        if found := _cached(source, cache):
            say(f"      {spec}: taken from the cache as last seen: {failure}")
            return found
        raise
    _need_safetensors(source.repo_id, [file.rfilename for file in info.siblings or []])
    commit_of(hub, info.sha)
    return _download(hub, source, info, cache)  # what is whole is not sent; its name is noted


def fetch_small(
    spec: str, patterns: Sequence[str], *, endpoint: str | None = None, sleep: Sleep = time.sleep
) -> tuple[Path, HubSource]:
    """A folder with the files of these patterns, as everybody can read them, and their commit.

    UserError with one sentence where the Hub cannot be reached, or asks who is asking.
    """
    source = parse_hub_source(spec)
    hub = Hub(HfApi(endpoint=endpoint, token=False), source.repo_id, sleep=sleep)
    need_public(hub, source.revision)
    commit = commit_of(hub, hub.call(lambda: _look(hub, source.revision), patient=False).sha)
    with single_tries():
        folder = hub.call(
            lambda: snapshot_download(
                source.repo_id,
                revision=commit,
                endpoint=hub.api.endpoint,
                token=False,
                allow_patterns=list(patterns),
            )
        )
    return Path(folder), HubSource(source.repo_id, commit)


def _look(hub: Hub, revision: str) -> ModelInfo:
    """The revision's commit and files, asked for briefly: it tells whether we are online."""

    def ask() -> ModelInfo:
        return hub.api.model_info(
            hub.repo_id, revision=revision, timeout=ANSWER_SECONDS, files_metadata=True
        )

    return within(ANSWER_SECONDS, ask)


def _cached(source: HubSource, cache: Path | None) -> Path | None:
    """The snapshot in the cache if it is known to be whole: its listing is there, with every file."""
    try:
        listing = get_cached_repo_tree(source.repo_id, revision=source.revision, cache_dir=cache)
        folder = snapshot_download(
            source.repo_id,
            revision=source.revision,
            cache_dir=cache,
            local_files_only=True,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
        )
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None
    _need_safetensors(source.repo_id, [file.path for file in listing])
    return Path(folder)


def _need_safetensors(repo_id: str, names: Iterable[str]) -> None:
    """RungFailed unless there are some: other formats can run code, or are no 16-bit model."""
    at_the_top = [name for name in sorted(names) if "/" not in name]
    if any(name.endswith(".safetensors") for name in at_the_top):
        return
    others = [n for n in at_the_top if any(fnmatchcase(n, kind) for kind in OTHER_WEIGHTS)]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    found = f"found {others[0]}{more}" if others else "found no weights at all"
    raise RungFailed(
        f"{repo_id} has no safetensors weights ({found}); convert it with safetensors first"
    )


def _download(hub: Hub, source: HubSource, info: ModelInfo, cache: Path | None) -> Path:
    """Fetch what is wanted; files that are whole in the cache are not fetched again."""
    wanted = [
        file
        for file in info.siblings or []
        if "/" not in file.rfilename and any(fnmatchcase(file.rfilename, kind) for kind in WANTED)
    ]
    size = sum(file.size or 0 for file in wanted)
    label = f"fetch {source.repo_id}: {len(wanted)} files, {size / 1e6:,.1f} MB"
    if _cached(HubSource(source.repo_id, str(info.sha)), cache) is None:
        say(f"      {label}")
    with single_tries(), transferring(label):
        fetch_weights(hub, info, wanted, cache)
        folder = hub.call(
            lambda: snapshot_download(
                source.repo_id,
                revision=source.revision,
                cache_dir=cache,
                endpoint=hub.api.endpoint,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
        )
    return Path(folder)
