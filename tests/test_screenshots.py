"""What a person sees: the page of `serve` and the report, at both widths, light and dark."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths
from shared.domain.grammar.schema import grammar
from shared.webgpu_bench import driver
from shared.webgpu_bench.engines.side_by_side import Row
from shared.webgpu_bench.model_list import MANIFEST, listing, page_manifest
from shared.webgpu_bench.server import serve
from tests.axe import violations, violations_everywhere
from tests.engine_rows import quality, rows
from tests.screenshots import WANTED, folders, shoot, tabs

LARGEST = 150_000


def report_rows() -> list[Row]:
    """For docs/ what was really measured here last; for a test alone, rows made for it."""
    measured = paths.REPOSITORY / "build" / "reports" / "bench-legal.json"
    if os.environ.get(WANTED) == "1" and measured.is_file():
        return [Row.model_validate(row) for row in json.loads(measured.read_bytes())]
    return rows()


def no_wider_than_its_window(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.slow
class TestWhatAPersonSees:
    def test_the_report_fits_every_window_and_asks_nothing_of_the_network(
        self, tmp_path: Path
    ) -> None:
        from shared.webgpu_bench.report.page import render_page

        report = tmp_path / "bench-all.html"
        report.write_text(render_page(report_rows(), report_quality()), encoding="utf-8")
        where = folders(tmp_path / "shots")
        with tabs() as pages:
            for name, page in pages.items():
                asked: list[str] = []
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.goto(report.as_uri())
                assert no_wider_than_its_window(page)
                assert violations(page) == []
                assert [u for u in asked if not u.startswith(("file:", "data:"))] == []
                assert shoot(page, f"report-{name}", where).stat().st_size < LARGEST

    def test_the_table_of_the_report_is_sorted_by_a_click(self, tmp_path: Path) -> None:
        from shared.webgpu_bench.report.page import render_page

        report = tmp_path / "bench-all.html"
        report.write_text(render_page(rows()), encoding="utf-8")
        with tabs() as pages:
            page = pages["desktop-light"]
            page.goto(report.as_uri())
            first = "#all tbody tr:first-child td:nth-child(2)"
            page.click("#all th:has-text('tg@d0') button")
            assert page.inner_text(first).startswith("webgpu-q4 ")
            page.click("#all th:has-text('tg@d0') button")
            assert page.inner_text(first) == "native"

    def test_the_page_loads_a_model_holds_it_to_its_schema_and_measures_it(
        self, package: Path, root: Path, tmp_path: Path
    ) -> None:
        released = shutil.copytree(package, tmp_path / "legal", copy_function=os.link)
        schema = '{"type": "object", "properties": {"ok": {"enum": ["yes", "no"]}},'
        schema += ' "required": ["ok"], "additionalProperties": false}'
        (released / "grammar.ebnf").write_text(grammar(json.loads(schema)))
        (released / "schema.json").write_text(schema)
        (released / "release.json").write_text('{"base": "acme/Base-3B"}')
        mounts = {"/": driver.PAGE, "/vendor": driver.VENDOR, "/models/legal": released}
        index = {f"/{MANIFEST}": lambda: page_manifest(listing({"legal": released}))}
        where = folders(tmp_path / "shots")
        with serve(mounts, index) as url, tabs() as pages:
            for name, page in pages.items():
                page.goto(url)
                page.wait_for_selector("body[data-state=choosing]")
                assert "to download, from acme/Base-3B" in page.inner_text("#about")
                page.click("#load")
                page.wait_for_selector("body[data-state=ready]")
                if name == "desktop-light":
                    self._answers_and_measures(page)
                assert no_wider_than_its_window(page)
                assert shoot(page, f"page-{name}", where).stat().st_size < LARGEST

    def _answers_and_measures(self, page: Any) -> None:
        page.fill("#system", "")
        assert page.is_checked("#hold")
        page.fill("#text", "word " * 5000)
        page.wait_for_selector("#length.long")
        assert "Too long" in page.inner_text("#length") and page.is_disabled("#send")
        page.fill("#text", "Is it?")
        page.wait_for_selector("#length:not(.long)")
        page.click("#send")
        page.wait_for_selector(".turn.theirs small")
        assert page.inner_text(".mark") == "valid: satisfies the schema"
        assert page.inner_text(".fields tbody tr").split() in (["ok", "yes"], ["ok", "no"])
        assert page.input_value("#text") == "Is it?", "the text stays, to be edited and sent again"
        assert page.inner_text("#said").startswith("Answered; valid")
        with page.expect_download() as download:
            page.click("text=Download JSON")
        assert json.loads(download.value.path().read_text())["ok"] in ("yes", "no")
        page.click(".raw summary")
        assert '"ok": "' in page.inner_text(".raw pre")
        page.click("#benchmark summary")
        page.click("#measure")
        page.wait_for_selector("#figures tr")
        assert "decode, 0 in the cache" in page.inner_text("#figures")
