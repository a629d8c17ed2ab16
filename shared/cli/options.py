"""What all commands share: their common switches, and how they end."""

import contextlib
import functools
import inspect
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke import Context, Exit, Task, task

from shared.base.environment import number_mistake
from shared.base.errors import UserError, of_this_machine, printable
from shared.base.formatting import duration
from shared.cli.program import enter_environment

Body = Callable[..., None]
KEYWORD = inspect.Parameter.KEYWORD_ONLY
WORTH_SECONDS = 2

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
CALIBRATION = {
    "calibration": "calibrate on this JSONL file's records (spelt like calibration.jsonl) instead"
}
DEVICE = {"device": "where PyTorch calibrates, reads and answers: auto, cpu, cuda or mps"}
BUDGET = {
    "time_budget": "minutes that answering may take: as many records are answered; default: all"
}


QUIET = {"quiet": "say nothing on the way; errors are still said"}
JSON = {"json": "print one JSON object, tables and figures, and nothing else on stdout"}
FLAGS = ("quiet", "json", "force", "keep_onnx")
"""Those of the common switches that take no word."""


def command(
    *, json: bool = True, total: bool = True, log: bool = True, **options: Any
) -> Callable[[Body], Task]:
    """A command of ours: a task with --quiet and, where it prints a table, --json.

    What a person can act on is printed as one sentence with exit code 1; Ctrl-C leaves with 130. It
    runs in the project's environment. `total`: say at the end how long it took, if it did. `log`: keep
    what it said in build/logs, which the sentence of a failure names.
    """
    switches = QUIET | (JSON if json else {})

    def decorate(body: Body) -> Task:
        @functools.wraps(body)
        def wrapped(c: Context, quiet: bool = False, json: bool = False, **given: Any) -> None:
            enter_environment()
            logs = log and not given.get("dry_run")
            run = functools.partial(_run, body, c, given, quiet=quiet, total=total, log=logs)
            as_json(run, body.__name__) if json else run()

        every = inspect.signature(body).parameters.values()
        own = {each.name: each for each in every if each.kind is not each.VAR_KEYWORD}
        helped = options.get("help", {}) | switches
        added = {
            name: inspect.Parameter(name, KEYWORD, default=False if name in FLAGS else "")
            for name in (helped if len(own) < len(every) else switches)
            if name not in own
        }
        signature = inspect.Signature([*own.values(), *added.values()])
        wrapped.__signature__ = signature  # type: ignore[attr-defined]  # invoke's flags are its
        options["help"] = helped
        return task(auto_shortflags=False, **options)(wrapped)

    return decorate


def _run(
    body: Body, c: Context, given: dict[str, Any], *, quiet: bool, total: bool, log: bool
) -> None:
    """The body, in whose place every error that a person can act on is an Exit."""
    from shared.base import progress
    from shared.base.text import first_line
    from shared.pipeline.run_log import run_log

    progress.console.quiet = quiet
    if not log:
        return _ended(body, c, given, total=total)
    with run_log(body.__name__.replace("_", "-")) as kept:
        try:
            _ended(body, c, given, total=total)
        except Exit as end:
            if end.code != 1 or not end.message or not kept.named():
                raise
            kept.add(end.message)
            raise Exit(f"{end.message}{kept.named()}", code=1) from None
        except BrokenPipeError:
            raise
        except Exception as error:
            kept.add_traceback(error)
            if not kept.named():
                raise
            from shared.hub.token import scrub

            words = printable(scrub(f"{type(error).__name__}: {first_line(error)}"))
            raise Exit(f"error: a defect of ours: {words}{kept.named()}", code=1) from None


def _ended(body: Body, c: Context, given: dict[str, Any], *, total: bool) -> None:
    from shared.base import progress
    from shared.base.text import first_line

    began = time.monotonic()
    try:
        if mistake := number_mistake():
            raise UserError(mistake)
        body(c, **given)
        sys.stdout.flush()
    except UserError as error:
        raise Exit(f"error: {error}", code=1) from None
    except BrokenPipeError:
        sys.stdout.flush()  # raises it again where it is stdout that nobody reads
        raise
    except OSError as error:  # a full disk, a folder that may not be written
        place = f": {error.filename}" if error.filename else ""
        raise Exit(f"error: {error.strerror or error}{place}", code=1) from None
    except MemoryError:
        words = "this machine has no more memory; close what else runs"
        raise Exit(f"error: {words}", code=1) from None
    except KeyboardInterrupt:
        raise Exit("interrupted; run the same command again to go on", code=130) from None
    except Exception as error:  # torch.OutOfMemoryError, and what safetensors and onnxruntime raise
        if not of_this_machine(error):
            raise
        words = f"this machine has too little memory or disk: {first_line(error)}"
        raise Exit(f"error: {words}", code=1) from None
    seconds = time.monotonic() - began
    if total and seconds >= WORTH_SECONDS:
        progress.say(f"in all {duration(seconds)}")


def as_json(run: Callable[[], None], name: str) -> None:
    """Run it; what it would print comes as one object on stdout, where nothing else comes meanwhile.

    Whatever a library prints there goes to stderr. An error stands in the object and on stderr.
    """
    from shared.base.tables import recorded

    stdout, lines, error = os.dup(1), io.StringIO(), None
    os.dup2(2, 1)
    try:
        with recorded() as found, contextlib.redirect_stdout(lines):
            run()
    except Exit as end:
        error = end
    finally:
        os.dup2(stdout, 1)
    said = [line for line in lines.getvalue().splitlines() if line.strip()]
    why = error and (error.message or "").removeprefix("error: ")
    data = {"command": name.replace("_", "-"), "error": why, **found, "lines": said}
    print(json.dumps(data, ensure_ascii=False, indent=2))
    if error:
        raise error


def chain_options(
    until: str,
    rung: str = "",
    force: bool = False,
    records_file: str = "",
    calibration: str = "",
    **others: Any,
) -> Any:
    """The chain's Options for one command; an empty word leaves the default."""
    from shared.pipeline.stages import Options

    for name, file in {"records_file": records_file, "calibration": calibration}.items():
        others[name] = Path(file).expanduser() if file else None
    given = {name: value for name, value in others.items() if value}
    return Options(rung=rung or None, force=force, until=until, **given)  # type: ignore[arg-type]


def several(words: str) -> list[str]:
    """Words with commas between them."""
    return [word.strip() for word in words.split(",") if word.strip()]


def chosen_domains(words: str, every: list[str]) -> list[str]:
    """`every` for "all", else the domains of a comma-separated list; UserError for one that is none."""
    from shared.domain.domain import load_domain

    return every if words == "all" else [load_domain(n.strip()).name for n in words.split(",")]


def finish(result: Any) -> None:
    """Print how it went; UserError where it did not go well."""
    from shared.base.tables import record
    from shared.cli.summary import measurements_of, summary

    if told := summary(result):
        print(told)
    record(
        "measurements",
        {name: m.model_dump(exclude_none=True) for name, m in measurements_of(result).items()},
    )
    if not result.ok:
        raise UserError(result.error)
