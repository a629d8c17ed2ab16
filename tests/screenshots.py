"""Pictures of the report and of the page, as docs/screenshots/ has them.

$ DOCINTEL_SCREENSHOTS=1 .venv/bin/python -m pytest tests/test_screenshots.py     # renew them
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.setup.browser import require_browser
from shared.webgpu_bench.chromium import flags
from tests.events import CEILING_SECONDS

SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
SCHEMES = ("light", "dark")
WANTED = "DOCINTEL_SCREENSHOTS"
"""Set to 1, the tests put their pictures into docs/screenshots/ too; CI leaves the tree as it is."""


def folders(temporary: Path) -> list[Path]:
    """Where pictures go: always a temporary folder, docs/screenshots/ only if asked for."""
    documents = paths.REPOSITORY / "docs" / "screenshots"
    wanted = [temporary, *([documents] if os.environ.get(WANTED) == "1" else [])]
    for folder in wanted:
        folder.mkdir(parents=True, exist_ok=True)
    return wanted


@contextmanager
def tabs() -> Iterator[dict[str, Any]]:
    """One page for each size and scheme, by name ("phone-dark"), in one browser with WebGPU."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(require_browser().path),
            ignore_default_args=["--headless"],
            args=flags(hardware=False),
        )
        made = {}
        for name, (width, height) in SIZES.items():
            for scheme in SCHEMES:
                view = {"width": width, "height": height}
                context = browser.new_context(viewport=view, color_scheme=scheme)
                context.set_default_timeout(CEILING_SECONDS * 1000)
                made[f"{name}-{scheme}"] = context.new_page()
        try:
            yield made
        finally:
            browser.close()


def shoot(page: Any, name: str, where: list[Path]) -> Path:
    """What the window shows, into every folder; the first one's file."""
    for folder in where:
        page.screenshot(path=folder / f"{name}.png")
    return where[0] / f"{name}.png"
