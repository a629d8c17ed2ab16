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
WIDTH_INCHES = 4.8
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


def log_scale(axes: "Axes") -> None:
    """Label 1, 2 and 5 of each decade of y as plain numbers: 0.05, not 5 × 10⁻²."""
    from matplotlib.ticker import LogLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def drawn(height: float, draw: Callable[["Axes"], None]) -> str:
    """The SVG of what `draw` puts into one pair of axes, `height` inches high.

    Its width is one at which the text can be read on a phone and, in the page's widest, on a desk.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    settings: dict[Any, Any] = dict.fromkeys(INKED, INK)
    settings |= {"svg.fonttype": "none", "svg.hashsalt": "docintel"}
    with matplotlib.rc_context(settings):
        canvas = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        draw(canvas.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg ") :].replace("xlink:href", "href").replace(INK, "currentColor")
    return re.sub("#0000e([0-9])", r"var(--e\1)", re.sub(r' xmlns:xlink="[^"]*"', "", svg))
