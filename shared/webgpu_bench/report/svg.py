"""Charts by matplotlib as SVG in the page's own colours, which follow light and dark.

Text and axes are currentColor, and what is drawn in `colour(n)` is var(--en): matplotlib is given one
colour for each, that is replaced in what it wrote. The same bytes come of the same figures.
"""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#0000f0"
INKED = (
    "axes.edgecolor",
    "axes.labelcolor",
    "xtick.color",
    "ytick.color",
    "grid.color",
    "text.color",
)


def colour(number: int) -> str:
    """What to draw in, so that it is the page's colour of that number, 0 to 9."""
    return f"#0000e{number}"


def drawn(width: float, height: float, draw: Callable[["Axes"], None]) -> str:
    """The SVG of what `draw` puts into one pair of axes of so many inches."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    settings: dict[Any, Any] = dict.fromkeys(INKED, INK)
    settings |= {"svg.fonttype": "none", "svg.hashsalt": "docintel"}
    with matplotlib.rc_context(settings):
        canvas = Figure(figsize=(width, height), layout="constrained")
        draw(canvas.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg ") :].replace("xlink:href", "href").replace(INK, "currentColor")
    return re.sub("#0000e([0-9])", r"var(--e\1)", re.sub(r' xmlns:xlink="[^"]*"', "", svg))
