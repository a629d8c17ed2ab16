"""card.md: words and places. It comes back in release.json, so it is treated as a stranger's text.

Only `{{ name }}` and `{% if name %} … {% endif %}` may stand in it: no loop, call or sum, so that
no card can run, or run for ever. And no figure: figures come from measurements.
"""

import re
from typing import Any

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.base.errors import UserError
from shared.base.parsing import nearest

ALLOWED = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.If, nodes.Not)
FIGURE = re.compile(
    r"(?<![\w.-])\d+(?:[.,]\d+)*\s?(?:%|percent|per cent|GB|MB|KB|ms|s|seconds|tokens)(?!\w)"
    r"|(?<![\w.-])\d+[.,]\d+(?![\w.])"
)
"""A share, a size, a time or a decimal: what a measurement would be."""


LARGEST = 5_000_000
"""Characters of a card: the same long text in a thousand places fills the memory."""


def check_template(template: str, where: str) -> None:
    """UserError naming `where` and the line unless it is words and places; before anything is built."""
    try:
        tree = _environment().parse(template)
    except TemplateError as error:
        raise UserError(f"{where}:{getattr(error, 'lineno', 1)}: {error.message}") from None
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, ALLOWED):
            kind = type(node).__name__.lower()
            raise UserError(
                f"{where}:{node.lineno}: only {{{{ name }}}} and {{% if name %}} may stand here, "
                f"found {kind}"
            )
        if isinstance(node, nodes.TemplateData) and (found := FIGURE.search(node.data)):
            line = node.lineno + node.data[: found.start()].count("\n")
            raise UserError(
                f"{where}:{line}: {found[0]!r} is a figure; figures come from measurements, "
                "card.md has the words"
            )


def fill_in(template: str, values: dict[str, Any], where: str) -> str:
    """The template with its places filled; UserError naming `where` and the line otherwise."""
    check_template(template, where)
    size = len(template)
    for name in _environment().parse(template).find_all(nodes.Name):
        if name.name not in values:
            hint = nearest(name.name, list(values))
            raise UserError(f"{where}:{name.lineno}: {name.name!r} is undefined; {hint}")
        size += len(str(values[name.name]))
        if size > LARGEST:
            raise UserError(
                f"{where}:{name.lineno}: the card would have over {LARGEST:,} characters"
            )
    return _environment().from_string(template).render(values)


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
