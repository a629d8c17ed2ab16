"""card.md: words and places. It comes back in release.json, so it is treated as a stranger's text.

Only `{{ name }}` and `{% if name %} … {% endif %}` may stand in it: no loop, call or sum, so that
no card can run, or run for ever. And no figure: figures come from measurements.
"""

from __future__ import annotations

import re
from typing import Any

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import UserError
from shared.strict import nearest

ALLOWED = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.If, nodes.Not)
FIGURE = re.compile(
    r"(?<![\w.-])\d+(?:[.,]\d+)*\s?(?:%|percent|per cent|GB|MB|KB|ms|s|seconds|tokens)(?!\w)"
    r"|(?<![\w.-])\d+[.,]\d+(?![\w.])"
)
"""A share, a size, a time or a decimal: what a measurement would be."""


def fill_in(template: str, values: dict[str, Any], where: str) -> str:
    """The template with its places filled; UserError naming `where` and the line otherwise."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        tree = environment.parse(template)
        _need_words_and_places(tree, values, where)
        return environment.from_string(template).render(values)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        place = f"{where}:{line}" if line else where
        raise UserError(f"{place}: {error.message or type(error).__name__}") from None


def _need_words_and_places(tree: nodes.Template, values: dict[str, Any], where: str) -> None:
    for node in [tree, *tree.find_all(nodes.Node)]:
        place = f"{where}:{node.lineno}"
        if not isinstance(node, ALLOWED):
            kind = type(node).__name__.lower()
            raise UserError(
                f"{place}: only {{{{ name }}}} and {{% if name %}} may stand here, found {kind}"
            )
        if isinstance(node, nodes.Name) and node.name not in values:
            hint = nearest(node.name, list(values))
            raise UserError(f"{place}: '{node.name}' is undefined; {hint}")
        if isinstance(node, nodes.TemplateData) and (found := FIGURE.search(node.data)):
            line = node.lineno + node.data[: found.start()].count("\n")
            raise UserError(
                f"{where}:{line}: {found[0]!r} is a figure; figures come from measurements, "
                "card.md has the words"
            )
