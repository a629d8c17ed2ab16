"""Files told by what they hold, not by what they are called: pickles, archives, links, bombs.

>>> refuse_unsafe(Path("models/legal/merged"))

Nothing here is ever unpickled, unpacked or followed; what looks like it is refused by name.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Iterable
from io import BytesIO
from itertools import islice
from pathlib import Path

from shared import paths
from shared.errors import UserError
from shared.hashing import files_below

LARGEST_HEADER = 25_000_000
"""Bytes of a safetensors header. A 3B model's has some 50 kB; the format itself allows 100 MB."""
ENOUGH_OPCODES = 8
OLD_STARTS = {bytes([byte]) for byte in b"(cIFLSVNlid])}"}
"""The opcodes that a pickle of protocol 0 or 1 can begin with."""
SAMPLE = 4096

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
NAME = re.compile(r"[A-Za-z_][\w.]*")


def refuse_unsafe(
    folder: Path, names: Iterable[str] | None = None, *, within: Path | None = None
) -> None:
    """UserError at the first file that could run code, unpack to more, or lies outside the folder.

    `names` default to all files below `folder`. `within`: where links may lead (default: `folder`);
    the Hub's cache links each file of a snapshot to its blobs.
    """
    home = (within or folder).resolve()
    for name in files_below(folder) if names is None else names:
        path = folder / name
        if not path.resolve().is_relative_to(home):
            where = paths.shown(path)
            raise UserError(f"{where}: leads out of the folder; put the file itself there")
        if not path.is_file():
            raise UserError(f"{paths.shown(path)}: not a plain file; remove it")
        if found := holds(path):
            raise UserError(f"{paths.shown(path)}: holds {found}; remove it from the folder")


def holds(path: Path) -> str | None:
    """What a file is, in words, if its first bytes are those of something that is refused."""
    with path.open("rb") as file:
        start = file.read(SAMPLE)
    for magic, words in MAGIC:
        if start.startswith(magic):
            return words
    if start[257:262] == b"ustar":
        return "a tar archive"
    return "a pickle, which can run code when read" if is_pickle(start) else None


def is_pickle(start: bytes) -> bool:
    """Whether these bytes begin a pickle of any protocol.

    From protocol 2 on it begins with 0x80 and the protocol's number; so does a safetensors file
    whose header has 640 bytes, but no opcode follows there. Older ones are text: they can run code
    only where they name a module and a callable.
    """
    binary = len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= pickle.HIGHEST_PROTOCOL
    if not binary and start[:1] not in OLD_STARTS:
        return False
    seen, named = 0, False
    try:
        for opcode, argument, position in islice(pickletools.genops(BytesIO(start)), 200):
            seen += 1
            if opcode.name in ("GLOBAL", "INST"):
                named = named or all(map(NAME.fullmatch, str(argument).split(" ", 1)))
            if opcode.name == "STOP":
                whole = start.isascii() and position == len(start) - 1 and seen > 2
                return binary or named or whole
    except Exception:  # genops raises whatever the bytes make it raise: no pickle from here on
        pass
    return named or (binary and seen >= ENOUGH_OPCODES)


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
