"""Unsafe files by their content, not their name: pickles, archives, links, bombs.

>>> refuse_unsafe(Path("models/legal/merged"))

Nothing here is ever unpickled, unpacked or followed; what looks like it is refused by name.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import files_below
from shared.safety.kinds import LARGEST_HEADER, is_safetensors
from shared.safety.pickles import SAMPLE, is_pickle

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes it"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file, which can hold a pickle"),
    (b"\x7fELF", "a program"),
)


def refuse_unsafe(
    folder: Path, names: Iterable[str] | None = None, *, within: Path | None = None
) -> None:
    """UserError at the first file that could run code, unpack to more, or lies outside the folder.

    `names` default to all files below `folder`. `within`: where links may lead (default: `folder`);
    the Hub's cache links each file of a snapshot to its blobs.
    """
    home = (within or folder).resolve()
    for name in filter(_is_looked_at, files_below(folder)) if names is None else names:
        path = folder / name
        if not path.resolve().is_relative_to(home):
            where = paths.shown(path)
            raise UserError(f"{where}: leads out of the folder; put the file itself there")
        if not path.is_file():
            raise UserError(f"{paths.shown(path)}: not a plain file; remove it")
        if found := holds(path):
            raise UserError(f"{paths.shown(path)}: holds {found}; remove it from the folder")


def _is_looked_at(name: str) -> bool:
    """`hf download --local-dir` leaves notes of commits and hashes, which nothing reads and which can
    look like a pickle's opcodes."""
    return not (name.startswith(".cache/huggingface/") and name.endswith((".metadata", ".lock")))


def holds(path: Path) -> str | None:
    """What a file is, in words, if its first bytes are those of something that is refused."""
    with path.open("rb") as file:
        start = file.read(SAMPLE)
    for magic, words in MAGIC:
        if start.startswith(magic):
            return words
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", start):
        return "a bzip2 archive"
    if start[257:262] == b"ustar":
        return "a tar archive"
    size = path.stat().st_size
    if is_safetensors(start, size) or not is_pickle(start, size):
        return None
    return "a pickle, which can run code when read"


def header_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's header, its size with it: names, types, shapes and places."""
    need_header(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    return hashlib.sha256(b"%d " % path.stat().st_size + header).hexdigest()


def need_header(path: Path) -> None:
    """UserError unless a safetensors file begins as one, with a header of reasonable size."""
    where, size = paths.shown(path), path.stat().st_size
    with path.open("rb") as file:
        length, first = int.from_bytes(file.read(8), "little"), file.read(1)
    if size < 10 or first != b"{":
        raise UserError(f"{where}: cannot be read: it is no safetensors file")
    if length > LARGEST_HEADER:
        raise UserError(f"{where}: its header claims {length:,} bytes; at most {LARGEST_HEADER:,}")
    if length > size - 8:
        raise UserError(f"{where}: cannot be read: its header is cut short")
