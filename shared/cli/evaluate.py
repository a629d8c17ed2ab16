"""The commands of evaluation: fidelity, check, compare, show. tasks.py takes them in."""

from typing import Any

from invoke import Context

from shared.cli.options import (
    BUDGET,
    CALIBRATION,
    DEVICE,
    DOMAIN,
    RECORDS,
    RUNGS,
    SYSTEMS,
    chain_options,
    command,
    finish,
)

TEXT = {"records_file": "the text of this JSONL file's records instead"}


@command(help=DOMAIN | RUNGS | CALIBRATION | TEXT | DEVICE)
def fidelity(c: Context, domain: str, **chosen: Any) -> None:
    """Hold the 4-bit model against its 16-bit parent on held-out text, token by token."""
    from shared.cli.summary import TERMINAL
    from shared.pipeline.one_domain import run_until
    from shared.release.card.fidelity import fidelity_note, fidelity_table

    result = run_until(domain, chain_options("fidelity", **chosen))
    if result.chain and "fidelity" in result.chain.stages:
        manifest = result.chain.manifests["fidelity"]
        print(fidelity_table(manifest.measurements, TERMINAL))
        print(fidelity_note(manifest.facts))
    finish(result)


@command(help=DOMAIN | RUNGS | CALIBRATION | RECORDS | SYSTEMS | BUDGET | DEVICE)
def check(c: Context, domain: str, **chosen: Any) -> None:
    """Let base, 16-bit parent and 4-bit release answer the same records, and compare them.

    Answers are kept as they come: a killed check goes on where it stopped, and another set, metric
    or system costs only the answers that are not there yet. docs/evaluation.md explains the table.
    """
    from shared.cli.summary import check_report
    from shared.pipeline.one_domain import run_until

    result = run_until(domain, chain_options("check", **chosen))
    if text := check_report(result):
        print(text)
    finish(result)


@command(
    log=False,
    positional=["a", "b"],
    help={"a": "a domain or a release folder", "b": "the other one"},
)
def compare(c: Context, a: str, b: str) -> None:
    """Hold two releases against each other on the records that both answered.

    What each answered in its own release's check; docs/evaluation.md says where that is looked for.
    """
    from shared.cli.show import comparison_text
    from shared.cli.summary import TERMINAL
    from shared.release.folder import check_of

    print(comparison_text(check_of(a), check_of(b), (a, b), TERMINAL))


@command(log=False, help=DOMAIN | {"id": "the record's id; without it the ids are listed"})
def show(c: Context, domain: str, id: str = "") -> None:
    """Print a record of the newest check with its gold and each system's answer, side by side."""
    from shared.cli.show import ids_text, sample_text
    from shared.cli.summary import TERMINAL
    from shared.domain.domain import load_domain
    from shared.evaluate.compare import newest_check

    checked = newest_check(load_domain(domain).name)
    print(sample_text(checked, id, TERMINAL) if id else ids_text(checked, TERMINAL))
