"""Is this a pickle? Told by reading its opcodes, which runs nothing; nothing is ever unpickled."""

import pickle
import pickletools
import re
from io import BytesIO
from itertools import islice

ENOUGH_OPCODES = 8
MOST_OPCODES = 20_000
"""No text reads as so many opcodes in a row by chance; a program hidden behind as many is a pickle."""
SAMPLE = 256_000
OLD_STARTS = {op.code.encode("latin-1") for op in pickletools.opcodes if op.code.isascii()}
"""Pickles of protocol 0 and 1 begin with no mark of their own, but with any opcode."""
NAME = re.compile(r"[A-Za-z_][\w.]*")
CUT = re.compile(r"expected (\d+) bytes in a \w+, but only (\d+) remain")


def is_pickle(start: bytes, size: int) -> bool:
    """Whether these bytes, of `size` in all, begin a pickle of any protocol.

    From protocol 2 on it begins with 0x80 and the protocol's number; so does a safetensors file
    whose header has 640 bytes, but no opcode follows there. Older ones can run code only where they
    name a module and a callable.
    """
    binary = len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= pickle.HIGHEST_PROTOCOL
    if not binary and start[:1] not in OLD_STARTS:
        return False
    seen, named = 0, False
    try:
        for opcode, argument, position in islice(pickletools.genops(BytesIO(start)), MOST_OPCODES):
            seen += 1
            if opcode.name in ("GLOBAL", "INST"):
                named = named or all(map(NAME.fullmatch, str(argument).split(" ", 1)))
            if opcode.name == "STOP":
                whole = start.isascii() and position == len(start) - 1 and seen > 2
                return binary or named or whole
    except Exception as error:  # genops raises whatever the bytes make it raise
        cut = _is_cut(str(error), len(start), size)
        return named or (binary and (seen >= ENOUGH_OPCODES or cut))
    return named or seen >= MOST_OPCODES


def _is_cut(error: str, read: int, size: int) -> bool:
    """Whether an opcode's argument ends behind what was read, and still within the file."""
    found = CUT.search(error)
    return found is not None and int(found[1]) - int(found[2]) <= size - read
