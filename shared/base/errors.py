"""The one exception a person is meant to read.

>>> raise UserError("domains/legal/fallback.toml: gates.max_byte: unknown key; did you mean max_bytes?")
"""

import errno
from unicodedata import category

MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM),
}


ENDED_FOR_WANT = (
    *("can't allocate memory", "Failed to allocate memory", "bad_alloc", "bad allocation"),
    "No space left on device",
)
"""In what libraries say of memory or disk without an errno: PyTorch, safetensors, onnxruntime."""


def printable(text: str) -> str:
    """`text` with � for what would steer a terminal: names and messages can be a third party's. Spaces
    of other widths and the two joiners of Persian and Hindi stay."""

    def shown(char: str) -> bool:
        return char.isprintable() or char in "\n\t\u200c\u200d" or category(char) == "Zs"

    return "".join(char if shown(char) else "\ufffd" for char in text)


class UserError(Exception):
    """A failure a person can act on: one sentence, naming the file and key or the command to run.

    `tasks.py` prints it without a traceback and exits with status 1. Anything else that is raised
    is a defect of ours and keeps its traceback. It may quote a third party's file: see `printable`.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class RungFailed(UserError):
    """This rung cannot go on; the chain records the sentence and tries the next rung."""


class NoWeights(RungFailed):
    """A rung has no weights here: there is nothing to try."""


class OtherWeights(NoWeights):
    """There are weights in the rung's folder, of another model, which another rung may be made for."""


def of_this_machine(error: Exception) -> bool:
    """Whether it says something of disk, memory or permissions here and nothing of a model.

    What transformers raises as OSError for a folder it cannot read has no errno; torch.OutOfMemoryError
    and what onnxruntime and safetensors raise is no OSError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno in MACHINE:
        return True
    return any(words in str(error) for words in ENDED_FOR_WANT)
