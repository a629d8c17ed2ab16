"""What all commands share: their common switches, and how they end."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke import Exit

from shared.base.errors import UserError

DOMAIN = {"domain": "the folder in domains/ to work on"}
RUNGS = {
    "rung": "try this rung of fallback.toml only",
    "force": "do everything again, even what has not changed",
}

RECORDS = {
    "records": "how many held-out records to answer: a number, or 'all'",
    "records_file": "answer the records of this JSONL file instead of the domain's own",
}
SYSTEMS = {
    "systems": "who answers: base, parent (16-bit), release (4-bit), comma-separated; default: all",
    "constrained": "both, free, or only: whether decoding is held to schema.json; default: both",
}
DEVICE = {"device": "where PyTorch reads and answers: auto, cpu, cuda or mps"}
BUDGET = {
    "time_budget": "minutes that answering may take: as many records are answered; default: all"
}


def command(body: Callable[..., None]) -> Callable[..., None]:
    """What a person can act on is printed as one sentence with exit code 1; Ctrl-C leaves with 130."""

    @functools.wraps(body)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        if {"--help", "-h"} & {value for value in kwargs.values() if isinstance(value, str)}:
            _print_help(body.__name__.replace("_", "-"))
            return
        try:
            body(*args, **kwargs)
        except UserError as error:
            raise Exit(f"error: {error}", code=1) from None
        except OSError as error:  # a full disk, a folder that may not be written
            place = f": {error.filename}" if error.filename else ""
            raise Exit(f"error: {error.strerror or error}{place}", code=1) from None
        except MemoryError:
            raise Exit(
                "error: this machine has no more memory; close what else runs", code=1
            ) from None
        except KeyboardInterrupt:
            raise Exit("interrupted; run the same command again to go on", code=130) from None

    return wrapped


def _print_help(name: str) -> None:
    """Invoke takes `check --help` for a domain named --help: what must be given comes first."""
    subprocess.run([sys.executable, "-m", "invoke", "--help", name], check=True)


def chain_options(until: str, rung: str, force: bool, records_file: str = "", **others: Any) -> Any:
    """The chain's Options for one command; an empty word leaves the default."""
    from shared.pipeline.rung import Options

    others["records_file"] = Path(records_file).expanduser() if records_file else None
    given = {name: value for name, value in others.items() if value}
    return Options(rung=rung or None, force=force, until=until, **given)  # type: ignore[arg-type]


def finish(result: Any) -> None:
    """Print how it went; UserError where it did not go well."""
    from shared.cli.summary import summary

    print(summary(result))
    if not result.ok:
        raise UserError(result.error)
