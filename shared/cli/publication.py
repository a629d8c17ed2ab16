"""What `publish --dry-run` prints: file by file what would happen, and the sums."""

from shared.base.formatting import number
from shared.base.tables import table
from shared.cli.summary import TERMINAL
from shared.hub.publish import Plan


def plan_table(plan: Plan) -> str:
    """The files that would change; those that would not are counted."""
    todo = plan.difference
    rows = [
        *(("added", file.name, _size(file.size)) for file in todo.added),
        *(("changed", file.name, _size(file.size)) for file in todo.changed),
        *(("deleted", name, "") for name in todo.deleted),
        ("unchanged", f"{len(todo.unchanged)} files", ""),
    ]
    return "\n".join([table(("what", "file", "to send"), rows, TERMINAL), *_sums(plan)])


def _sums(plan: Plan) -> list[str]:
    kind = f"{'private' if plan.private else 'public'}{', new' if plan.is_new else ''}"
    lines = [f"repository  {plan.repo_id} ({kind})"]
    if plan.continues is not None:
        lines.append(f"continues   pull request #{plan.continues}")
    lines.append(f"to send     {_size(plan.left_to_send)} at most")
    lines.append(f"version     {plan.version}")
    lines.append(
        f"refused     {plan.against}" if plan.against else "dry run     nothing was written"
    )
    return lines


def _size(size: int) -> str:
    """A card has a few thousand bytes: they are counted one by one."""
    return number(size, "B") if size >= 1e6 else f"{size:,} B"
