"""The command of tuning: tune. tasks.py takes it in."""

from pathlib import Path

from invoke import Context

from shared.base import paths
from shared.base.errors import UserError
from shared.cli.options import CALIBRATION, DOMAIN, chain_options, command


@command(
    help=DOMAIN
    | CALIBRATION
    | {
        "budget": "the most bytes a build may have, like 2GB",
        "rung": "tune for this rung's model; default: the first",
        "recipes": "only these, separated by commas: names in shared/pipeline/tune/recipes.json",
        "tokens": "held-out tokens that each build and its parent are compared on",
        "records": "let the best three answer so many held-out records, and compare their scores",
        "records_file": "measure on the records of this JSONL file instead of the domain's own",
        "document": "renew this rung's table in a Markdown file, like docs/recipes.md",
        "write": "put the chosen recipe into the domain's olive.json",
    }
)
def tune(
    c: Context,
    domain: str,
    budget: str = "2GB",
    rung: str = "",
    recipes: str = "",
    tokens: int = 4096,
    records: int = 0,
    records_file: str = "",
    calibration: str = "",
    document: str = "",
    write: bool = False,
) -> None:
    """Build a domain's model by every recipe, measure each against its parent, choose the best.

    The best is the one with the lowest KL divergence within the budget and within 5 % of the fastest
    one's decode speed. Calibration reads calibration.jsonl alone, or --calibration's
    file; a record of it that is also measured is an error. What was built or measured before is not
    redone, so a run that was cut short goes on. Table, plot and figures go to build/reports/;
    docs/recipes.md explains the recipes.
    """
    from shared.base.formatting import parse_bytes
    from shared.cli.summary import TERMINAL
    from shared.domain.domain import load_domain
    from shared.pipeline.tune.report import need_block, put_into, render
    from shared.pipeline.tune.report import write as write_report
    from shared.pipeline.tune.tune import tune as run
    from shared.pipeline.tune.tune import write_choice

    asked = {"records": str(records)} if records else {}
    options = chain_options("gates", rung, False, records_file, calibration, **asked)
    page = Path(document).expanduser() if document else None
    if page:
        asked_of = load_domain(domain)
        taken = asked_of.rung(rung) if rung else asked_of.chain.rung[0]
        need_block(page, domain, taken.name)
    found = run(domain, options, parse_bytes(budget, "--budget"), tokens, recipes)
    print(render(found, TERMINAL))
    if not any(tried.measured for tried in found.tried):
        raise UserError(found.why)  # an earlier run's report stays
    for path in write_report(found):
        print(paths.shown(path))
    if found.chosen is None:
        raise UserError(found.why)
    if page:
        put_into(page, found)
    if write:
        write_choice(found)
