"""What a person sees: the page of `serve` and the report, at both widths, light and dark."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.base import paths
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.release.model import release_folder
from shared.webgpu_bench import driver
from shared.webgpu_bench.model_list import MANIFEST, listing, page_manifest
from shared.webgpu_bench.report.page import render_page
from shared.webgpu_bench.server import serve
from tests.axe import views, violations
from tests.engine_rows import quality, rows
from tests.screenshots import WANTED, folders, shoot, tabs
from tests.test_webgpu_faults import TENTH_BUFFER
from tests.test_webgpu_page import command_line

LARGEST = 150_000
RIGHT = "r0028"
"""A held-out record of contracts that the check found its release to answer wholly right."""


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"enum": ["yes", "no"]}},
    "required": ["ok"],
    "additionalProperties": False,
}
MEASURED = paths.REPOSITORY / "build" / "reports" / "bench-all.html"


def report_text() -> str:
    """For docs/ what `bench-all` wrote here last; for a test alone, one with rows made for it."""
    if MEASURED.is_file() and os.environ.get(WANTED) == "1":
        return MEASURED.read_text(encoding="utf-8")
    return render_page(rows(), quality())


def no_wider_than_its_window(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@contextmanager
def held_up(page: Any, pattern: str) -> Iterator[None]:
    """No request for the pattern is let through before the block ends."""
    waiting: list[Any] = []
    page.route(pattern, lambda route: waiting.append(route))
    yield
    for route in waiting:
        route.continue_()
    page.unroute(pattern)


def kill_the_gpu() -> None:
    """As a driver that restarts: the browser's GPU process is gone."""
    for child in psutil.Process().children(recursive=True):
        if "--type=gpu-process" in command_line(child):
            child.kill()


NO_ROOM = TENTH_BUFFER % "throw new RangeError('Array buffer allocation failed')"
NO_ROOM_AT_FIRST = f"if (!sessionStorage.poor) {{ sessionStorage.poor = 1; {NO_ROOM} }}"


def answer(page: Any) -> None:
    """The text in the box is answered, held to the schema."""
    page.fill("#system", "")
    page.click("#send")
    page.wait_for_selector(".turn.theirs small")
    assert page.inner_text(".mark") == "valid: satisfies the schema"


VIEW = """() => {
  const opened = innerWidth > 760 && document.body.dataset.state !== "no-model";
  document.getElementById("prompting").open = opened;
  document.querySelector(".turn:last-child")?.scrollIntoView({ block: "end" });
}"""


class Eye:
    """Looks at the page in a state: on phone and desktop, light and dark, as a screen reader does."""

    def __init__(self, where: list[Path]) -> None:
        self.where = where

    def looks_at(self, page: Any, state: str) -> None:
        """No rule of axe is broken and nothing is wider than the window; a picture of each view."""
        for view in views(page):
            page.evaluate(VIEW)
            assert violations(page) == [], f"{state}, {view}"
            assert no_wider_than_its_window(page), f"{state}, {view}"
            name = "-".join(filter(None, ("page", state, view)))
            assert shoot(page, name, self.where).stat().st_size < LARGEST


@pytest.mark.slow
class TestWhatAPersonSees:
    def test_the_report_fits_every_window_and_asks_nothing_of_the_network(
        self, tmp_path: Path
    ) -> None:
        report = tmp_path / "bench-all.html"
        report.write_text(report_text(), encoding="utf-8")
        shots = tmp_path / "shots"
        where = folders(shots) if MEASURED.is_file() else [shots]
        shots.mkdir(exist_ok=True)
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

    @pytest.fixture
    def served(self, package: Path, root: Path, tmp_path: Path) -> Iterator[str]:
        """The address of the page with a model that any browser can load."""
        released = shutil.copytree(package, tmp_path / "legal", copy_function=os.link)
        (released / "grammar.ebnf").write_text(grammar(SCHEMA))
        (released / "schema.json").write_text(json.dumps(SCHEMA))
        (released / "release.json").write_text('{"base": "acme/Base-3B"}')
        mounts = driver.page_mounts() | {"/models/legal": released}
        index = {f"/{MANIFEST}": lambda: page_manifest(listing({"legal": released}))}
        with serve(mounts, index) as url:
            yield url

    @pytest.fixture
    def eye(self, tmp_path: Path) -> Eye:
        return Eye(folders(tmp_path / "shots")[:1])

    def test_a_gpu_that_is_lost_and_memory_that_is_used_up_are_told_and_mended_by_loading_again(
        self, served: str, eye: Eye
    ) -> None:
        with tabs() as pages:
            poor = pages["desktop-dark"]
            poor.add_init_script(NO_ROOM_AT_FIRST)
            poor.goto(served)
            poor.wait_for_selector("body[data-state=choosing]")
            poor.click("#load")
            poor.wait_for_selector("#notice:not([hidden])")
            assert "not enough memory: close other tabs" in poor.inner_text("#notice")
            eye.looks_at(poor, "out-of-memory")
            self._loads_again(poor)
            poor.fill("#text", "Is it?")
            answer(poor)
            page = pages["desktop-light"]
            page.goto(served)
            page.wait_for_selector("body[data-state=choosing]")
            page.click("#load")
            page.wait_for_selector("body[data-state=ready]")
            page.fill("#text", "Is it?")
            with self._answering(pages["phone-light"], served) as busy:
                kill_the_gpu()
            busy.wait_for_selector("body[data-state=lost]")
            assert "The GPU was lost" in busy.inner_text("#notice")
            assert busy.inner_text(".turn.theirs small").endswith(" out · broken off")
            page.wait_for_selector("body[data-state=lost]")
            assert "The GPU was lost" in page.inner_text("#notice")
            assert page.input_value("#text") == "Is it?" and page.is_disabled("#send")
            eye.looks_at(page, "gpu-lost")
            self._loads_again(page)
            assert page.input_value("#text") == "Is it?", "what was written is still there"
            answer(page)

    @contextmanager
    def _answering(self, page: Any, served: str) -> Iterator[Any]:
        """The page in the middle of an answer, which does not go on before the block ends."""
        page.goto(served)
        page.wait_for_selector("body[data-state=choosing]")
        page.click("#load")
        page.wait_for_selector("body[data-state=ready]")
        page.fill("#text", "Is it?")
        with held_up(page, "**/vendor/@mlc-ai/**"):
            page.click("#send")
            page.wait_for_selector("body[data-state=answering]")
            yield page

    def _loads_again(self, page: Any) -> None:
        page.click("#load")
        page.wait_for_selector("body[data-state=ready]")
        assert page.is_hidden("#notice")

    def test_the_page_in_every_state_can_be_used_by_everyone(self, served: str, eye: Eye) -> None:
        with tabs() as pages:
            page = pages["desktop-light"]
            page.goto(served)
            self._loads(page, eye)
            self._answers_and_measures(page, eye)
            page.route("**/models/**", lambda route: route.abort())
            page.click("#load")
            page.wait_for_selector("#notice:not([hidden])")
            assert "The server does not answer" in page.inner_text("#notice")
            eye.looks_at(page, "server-gone")
            blind = pages["desktop-dark"]
            blind.add_init_script("Object.defineProperty(navigator, 'gpu', { value: undefined })")
            blind.goto(served)
            blind.wait_for_selector("body[data-state=no-webgpu]")
            eye.looks_at(blind, "no-webgpu")
        with serve(driver.page_mounts()) as url, tabs() as pages:
            page = pages["desktop-light"]
            page.goto(url)
            page.wait_for_selector("body[data-state=no-model]")
            eye.looks_at(page, "no-list")

    def _loads(self, page: Any, eye: Eye) -> None:
        page.wait_for_selector("body[data-state=choosing]")
        assert "to download, from acme/Base-3B" in page.inner_text("#about")
        eye.looks_at(page, "start")
        with held_up(page, "**/model_q4.onnx_data"):
            page.click("#load")
            page.wait_for_selector("#loading:not([hidden])")
            eye.looks_at(page, "loading")
        page.wait_for_selector("body[data-state=ready]")

    def _answers_and_measures(self, page: Any, eye: Eye) -> None:
        page.fill("#system", "")
        assert page.is_checked("#hold")
        page.fill("#text", "word " * 5000)
        page.wait_for_selector("#length.long")
        assert "Too long" in page.inner_text("#length") and page.is_disabled("#send")
        eye.looks_at(page, "too-long")
        page.fill("#text", "Is it?")
        page.wait_for_selector("#length:not(.long)")
        with held_up(page, "**/vendor/@mlc-ai/**"):
            page.click("#send")
            page.wait_for_selector("body[data-state=answering]")
            eye.looks_at(page, "answering")
        page.wait_for_selector(".turn.theirs small")
        assert page.inner_text(".mark") == "valid: satisfies the schema"
        assert page.inner_text(".fields tbody tr").split() in (["ok", "yes"], ["ok", "no"])
        assert page.input_value("#text") == "Is it?", "the text stays, to be edited and sent again"
        assert page.inner_text("#said").startswith("Answered; valid")
        with page.expect_download() as download:
            page.click("text=Download JSON")
        assert json.loads(download.value.path().read_text())["ok"] in ("yes", "no")
        eye.looks_at(page, "answered")
        page.click(".raw summary")
        assert '"ok": "' in page.inner_text(".raw pre")
        page.click("#benchmark summary")
        page.click("#measure")
        page.wait_for_selector("#figures tr")
        assert "decode, 0 in the cache" in page.inner_text("#figures")
        eye.looks_at(page, "measured")

    @pytest.mark.skipif(os.environ.get(WANTED) != "1", reason="only pictures for docs/ come of it")
    def test_pictures_of_an_answer_are_of_a_model_that_was_trained_on_the_domain(
        self, tmp_path: Path
    ) -> None:
        """This checkout's release of contracts, whose example is tuned to it."""
        released = release_folder("contracts")
        assert released.is_dir(), "run `./inv release --domain contracts` first"
        mounts = driver.page_mounts() | {"/models/contracts": released}
        index = {f"/{MANIFEST}": lambda: page_manifest(listing({"contracts": released}))}
        with serve(mounts, index) as url, tabs() as pages:
            page = pages["desktop-light"]
            page.goto(url)
            page.wait_for_selector("body[data-state=choosing]")
            page.click("#load")
            page.wait_for_selector("body[data-state=ready]")
            page.fill(
                "#text", next(r.input for r in load_domain("contracts").records if r.id == RIGHT)
            )
            page.click("#send")
            page.wait_for_selector(".turn.theirs small")
            Eye(folders(tmp_path / "shots")).looks_at(page, "")
