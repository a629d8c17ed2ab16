"""Weight files by range, into the Hub's cache: what has arrived of one is not fetched again.

huggingface_hub begins a file anew where a run was killed or the line broke within it; a shard has up to
5 GB. Here it lies beside its place in the cache, as <its SHA-256>.part, until it is whole and has that
hash; snapshot_download then finds it there.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers

from shared.base.errors import RungFailed
from shared.base.hashing import sha256_now
from shared.base.lock import alone
from shared.base.progress import say
from shared.hub.retries import Hub

SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_weights(
    hub: Hub, info: ModelInfo, wanted: Sequence[RepoSibling], cache: Path | None
) -> None:
    """The safetensors files of `wanted` that the Hub lists by their SHA-256, each by ranges.

    RungFailed where one arrives with other bytes than the Hub lists: it is thrown away."""
    root = cache or Path(constants.HF_HUB_CACHE)
    blobs = root / repo_folder_name(repo_id=hub.repo_id, repo_type=hub.repo_type) / "blobs"
    there = blobs.parent / "snapshots" / str(info.sha)
    for file in wanted:
        if not file.rfilename.endswith(".safetensors") or file.lfs is None:
            continue
        if not SHA256.fullmatch(file.lfs.sha256):
            words = f"{hub.host} names {file.lfs.sha256!r} as the SHA-256 of {file.rfilename}"
            raise RungFailed(f"{words}; that is none")
        blob = blobs / file.lfs.sha256
        large = file.lfs.size > constants.MAX_HTTP_DOWNLOAD_SIZE  # which the Hub gives by Xet alone
        if large or blob.exists() or (there / file.rfilename).exists():
            continue
        with alone(blob.with_suffix(".lock"), file.rfilename):
            if not blob.exists():
                _fetch(hub, str(info.sha), file, blob)


def _fetch(hub: Hub, commit: str, file: RepoSibling, blob: Path) -> None:
    """Fetch what is missing of the file, hold it against its hash, and put it in its place."""
    assert file.lfs is not None
    size, name = file.lfs.size, file.rfilename
    url = hf_hub_url(
        hub.repo_id, name, revision=commit, repo_type=hub.repo_type, endpoint=hub.api.endpoint
    )
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_suffix(".part")

    def rest() -> None:
        headers: dict[str, Any] = build_hf_headers(token=hub.api.token)
        with part.open("ab") as into:
            if have := into.tell():
                say(f"      {name}: goes on behind {have / 1e6:,.1f} of {size / 1e6:,.1f} MB")
            http_get(
                url,
                into,
                resume_size=have,
                headers=headers,
                expected_size=size,
                displayed_filename=name,
            )

    if part.exists() and part.stat().st_size > size:
        part.unlink()
    hub.call(rest)
    if sha256_now(part) != file.lfs.sha256:
        part.unlink()
        raise RungFailed(f"{hub.repo_id}: {name} arrived with other bytes than the Hub lists")
    part.replace(blob)
