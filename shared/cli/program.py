"""The program behind `invoke` and `./inv`: its words, its endings, and the environment it goes on in.

`invoke` loads tasks.py, `./inv` runs it; both end here. Only what needs no package but invoke is
imported, so that `--list`, `--help` and completion work before anything is installed.
"""

import importlib.metadata
import io
import os
import re
import shlex
import sys
from pathlib import Path

import invoke
from invoke import Argument, Collection, ParseError

from shared.base import paths

USAGE, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
HELP = {"-h", "--help"}
CHILDS_MAIN = "__mp_main__"
"""What multiprocessing calls the main module, read again in a process that it has started."""
INV = "DOCINTEL_INV"
"""The process that ./inv started: it is in the environment that ./inv finds or makes."""


class Program(invoke.Program):
    """invoke's own, found from everywhere, with our version; usage errors exit with 2."""

    def __init__(self, namespace: Collection) -> None:
        names = ["./inv", "inv", "invoke"]
        super().__init__(_version(), namespace, "docintel", "inv", binary_names=names)
        self.commands = namespace.task_names

    def core_args(self) -> list[Argument]:
        """Those of `invoke` as well: it has read --search-root before it came here."""
        return [*super().core_args(), *self.task_args()]

    def task_list_opener(self, extra: str = "") -> str:
        return "Commands"

    def normalize_argv(self, argv: list[str] | None) -> None:
        """Help anywhere behind a command is help: invoke takes `check --help` for a domain."""
        super().normalize_argv(argv)
        name, *others = self.argv[1:] or [""]
        if name in self.commands and HELP & set(others):
            self.argv = [self.argv[0], "--help", name]

    def parse_tasks(self) -> None:
        try:
            super().parse_tasks()
        except ValueError as error:  # what int() says of an option's value
            raise ParseError(
                f"a whole number is wanted, not {str(error).split(': ')[-1]}"
            ) from None

    def parse_cleanup(self) -> None:
        """`--domain` completes with the domains' names."""
        if self.args.complete.value:
            words = shlex.split(self.core.remainder)
            if "--domain" in words[-2:]:
                folders = paths.domains().glob("*/fallback.toml")
                print("\n".join(sorted(path.parent.name for path in folders)))
                return
        super().parse_cleanup()

    def execute(self) -> None:
        if not self.args.complete.value:
            super().execute()

    def run(self, argv: list[str] | None = None, exit: bool = True) -> None:
        """Ctrl-C and a reader that closed the pipe (`| head`) end it without a word; a disk that is
        full under stdout is one sentence."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal need not be UTF-8
        try:
            try:
                super().run(argv, exit)
            finally:
                sys.stdout.flush()
        except SystemExit as end:
            if isinstance(end.__context__, ParseError):
                sys.exit(USAGE)
            if isinstance(end.__context__, KeyboardInterrupt):
                sys.exit(INTERRUPTED)
            raise
        except BrokenPipeError:
            _drop_stdout()
            sys.exit(CLOSED_PIPE)
        except OSError as error:
            _drop_stdout()
            sys.exit(f"error: {error}")


def _drop_stdout() -> None:
    """What is left in its buffer would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    text = (paths.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'^version = "(.*)"', text, re.MULTILINE)[0]


def run(name: str, namespace: Collection) -> None:
    """Take over where tasks.py (module `name`) was run, or loaded by invoke's own program; not where a
    process that was started from there reads it again."""
    caller = Path(sys.argv[0])
    if name == CHILDS_MAIN:
        return
    if name == "__main__" or {caller.name, caller.parent.name} & {"invoke", "inv"}:
        Program(namespace).run()
        sys.exit()  # invoke's own program would run it once more


def enter_environment() -> None:
    """Begin again in the environment that ./inv finds or makes, where this one lacks what is locked."""
    if os.environ.get(INV) != str(os.getpid()) and _lacks_packages():
        sys.stdout.flush()
        inv = str(paths.REPOSITORY / "inv")
        os.execv(inv, [inv, *sys.argv[1:]])


def _lacks_packages() -> bool:
    text = (paths.REPOSITORY / "requirements.in").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    try:
        return any(importlib.metadata.version(n).split("+")[0] != version for n, version in pins)
    except importlib.metadata.PackageNotFoundError:
        return True
