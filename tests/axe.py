"""axe-core in a page of Playwright: what stands in the way of a person with a screen reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.webgpu_bench.driver import VENDOR
from tests.screenshots import SCHEMES, SIZES

RUN = """async () => {
  const where = ({ target, any }) => `${target} ${any[0]?.message ?? ""}`;
  const { violations } = await axe.run();
  return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(where).join("; ")}`);
}"""


def violations(page: Any) -> list[str]:
    """Every rule that the page breaks as it is now, with the elements that break it."""
    if not page.evaluate("typeof axe === 'object'"):
        page.add_script_tag(path=str(VENDOR / "axe-core" / "axe.min.js"))
    found: list[str] = page.evaluate(RUN)
    return found


def views(page: Any) -> Iterator[str]:
    """The page on phone and desktop, dark and light, one after the other; it is left as the last."""
    for size, (width, height) in reversed(SIZES.items()):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in reversed(SCHEMES):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            yield f"{size}-{scheme}"


def violations_everywhere(page: Any) -> list[str]:
    """Every rule that the page breaks in any of its views."""
    return [f"{view}: {words}" for view in views(page) for words in violations(page)]
