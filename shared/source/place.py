"""Where a rung's weights lie: a folder here, one that the Hub's cache holds, or a package's."""

from pathlib import Path

from shared.base import paths
from shared.base.errors import NoWeights, RungFailed, UserError, of_this_machine
from shared.base.hashing import refuse_work
from shared.domain.settings import Rung


class NoFolder(RungFailed):
    """Somebody put something in a rung's place, and it is no folder."""


def weights_place(rung: Rung, source: str, what: str = "the merged 16-bit model") -> Path:
    """The folder that `source` names, in a rung's place; fetched or unpacked if it has to be.

    NoWeights where nothing is there. What a fine-tuned rung names on the Hub somebody has put there:
    that it cannot be had now is no want of weights (RungFailed), and no example stands in for it.
    """
    try:
        folder = _locate(source, what)
    except NoFolder:
        raise
    except UserError as error:
        cause = error.__context__
        if isinstance(cause, Exception) and of_this_machine(cause):
            raise cause from None  # a full disk is no want of weights: no other rung is tried
        fine_tuned = not (rung.prompt_only or rung.example)
        if fine_tuned and source.startswith("hf:"):
            raise RungFailed(str(error)) from error
        raise NoWeights(str(error)) from error
    if not any(folder.iterdir()):
        raise NoWeights(f"{source}: the folder is empty; put {what} in it")
    return folder


def _locate(source: str, what: str) -> Path:
    if source.startswith("hf:"):
        refuse_work(source)
        from shared.hub.download import fetch_snapshot

        return fetch_snapshot(source)
    if source.startswith("pypi:"):
        from shared.source.embedded import embedded_model

        return embedded_model(source.removeprefix("pypi:"))
    folder = paths.root() / source
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NoFolder(f"{source}: a file; the folder of {what} is wanted")
    if folder.is_symlink():
        raise NoFolder(f"{source}: links to {folder.readlink()}, which is not there")
    raise RungFailed(f"{source}: the folder is not there; put {what} in it")
