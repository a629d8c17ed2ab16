"""The command of a family: one base for several domains. tasks.py takes it in."""

from typing import TYPE_CHECKING

from invoke import Context

from shared.base.errors import UserError
from shared.cli.options import BUDGET, RECORDS, SYSTEMS, chain_options, command

if TYPE_CHECKING:
    from shared.pipeline.release_family import FamilyPlan, FamilyResult

WHO = {
    "name": "the family's folder in models/families; default: [family] of defaults.toml",
    "domains": "several with commas between them; default: all that have such an adapter",
    "rung": "the rung with an adapter; default: [family] of defaults.toml or fallback.toml",
    "precision": "how the adapters are stored: f16, int8 or int4",
    "anew": "calibrate the base on these domains alone, whatever family is there",
    "dry_run": "show who would be in it; do nothing",
    "device": "where PyTorch reads and answers: auto, cpu, cuda or mps; the base calibrates on the CPU",
}


@command(total=False, help=WHO | RECORDS | SYSTEMS | BUDGET)
def release_family(
    c: Context,
    name: str = "",
    domains: str = "",
    rung: str = "",
    precision: str = "",
    records: str = "",
    records_file: str = "",
    systems: str = "",
    constrained: str = "",
    time_budget: str = "",
    device: str = "",
    anew: bool = False,
    dry_run: bool = False,
) -> None:
    """Release several domains on one 4-bit base, which a page loads once, with an adapter for each.

    The base is calibrated on all their texts and built once. Called again with a further domain it
    builds that one's adapter: base and other adapters stay as they are. Each domain is measured and
    released as any other, to models/<domain>/webgpu; models/families/<name> has them together.
    """
    from shared.cli.summary import overview
    from shared.pipeline.release_family import Asked, plan_family
    from shared.pipeline.release_family import release_family as run

    names = tuple(filter(None, (word.strip() for word in domains.split(",")))) or None
    plan = plan_family(Asked(name or None, names, rung or None, precision or None, anew))
    answers = {"records": records, "systems": systems, "constrained": constrained}
    others = {"time_budget": time_budget, "device": device}
    options = chain_options("gates", "", False, records_file, **answers, **others)
    print(_planned(plan))
    if dry_run:
        return
    found = run(plan, options)
    print(overview(found.results))
    print(_told(found))
    if not all(result.ok for result in found.results):
        raise UserError("not every domain was released; see the table")
    if found.error:
        raise UserError(found.error)


def _planned(plan: "FamilyPlan") -> str:
    """Who is in it already, who comes, and who is left out for want of an adapter."""
    from shared.base import paths
    from shared.cli.summary import TERMINAL, table
    from shared.release.model import family_folder

    there, folder = plan.there, paths.shown(family_folder(plan.settings.name))
    was = there.domains if there else {}
    rows = [
        (m.domain.name, "is in it" if m.domain.name in was else "is added", m.rung.weights)
        for m in plan.members
    ]
    rows += [(name, "left out", why) for name, why in plan.left_out.items()]
    end = f"its base stays calibrated on {', '.join(there.calibrated)}" if there else "a new base"
    drawn = table(("domain", "what", "weights, or why"), rows, TERMINAL)
    return f"{drawn}\nfamily    {folder}, {end}"


def _told(found: "FamilyResult") -> str:
    """Where the family lies, what was written of it and how long base and adapters took."""
    from shared.base import paths
    from shared.base.formatting import duration, number
    from shared.base.tables import record
    from shared.release.model import CARD_FILE, family_folder

    took = f"built     base and adapters in {duration(found.seconds)}"
    if found.family is None:
        return took
    files, folder = found.family.files, paths.shown(family_folder(found.family.name))
    new = {name: r.bytes for name, r in sorted(found.written.items())}
    whole = sum(r.bytes for r in files.values())
    record("family", {"folder": folder, "bytes": whole, "written": new, "seconds": found.seconds})
    count, size = f"{len(new)} of {len(files)} files", number(sum(new.values()), "B")
    which = ", ".join(new) if 0 < len(new) < len(files) else ""
    lines = (
        f"family    {folder}  ({len(found.family.domains)} domains, {number(whole, 'B')})",
        f"card      {folder}/{CARD_FILE}",
        f"written   {count}, {size}{which and f': {which}'}",
        took,
    )
    return "\n".join(lines)
