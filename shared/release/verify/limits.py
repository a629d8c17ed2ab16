"""Resource limits of the process that loads a third party's files, set before it loads any."""

LARGEST_GRAPH = 16_000_000
"""Bytes of a graph whose data lie apart: a 3B's has a few hundred thousand, and each may take a hundred
of memory when it is read."""
LARGEST_OUTPUT = 1_000_000
"""Bytes: it says some five lines."""


def limit_this_process(memory: int) -> None:
    """At most `memory` bytes of address space, and no file, stdout included, above LARGEST_OUTPUT.

    For good: the hard limits are set as well. Where the system has none (Windows), nothing is.
    """
    try:
        import resource
    except ImportError:
        return
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, LARGEST_OUTPUT),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (wanted, wanted))
        except (OSError, ValueError):  # macOS refuses RLIMIT_AS
            continue
