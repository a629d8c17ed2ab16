"""A site: page and models in a folder that any static host serves, under any path, and offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths
from shared.base.errors import UserError
from shared.base.front_matter import read_front_matter
from shared.base.hashing import files_below, sha256_file
from shared.base.manifest import FileRecord
from shared.domain.grammar.schema import grammar
from shared.pipeline.publication import Publication, _publication_file
from shared.pipeline.site import is_site, write_site
from shared.release.model import release_folder
from shared.webgpu_bench.driver import PAGE
from tests.axe import violations_everywhere
from tests.hub_release import write_release as write_files
from tests.screenshots import tabs
from tests.test_commands import invoke
from tests.test_publishable import write_release as write_manifest

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"enum": ["yes", "no"]}},
    "required": ["ok"],
    "additionalProperties": False,
}


def described(folder: Path) -> Path:
    """The folder with a release.json that lists its files."""
    names = files_below(folder)
    size = {name: (folder / name).stat().st_size for name in names}
    write_manifest(
        folder, {n: FileRecord(sha256=sha256_file(folder / n), bytes=size[n]) for n in names}
    )
    return folder


@pytest.fixture
def released(root: Path) -> Path:
    """A release folder of legal with three small files."""
    return described(write_files(release_folder("legal")))


def listed(site: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((site / "manifest.json").read_text())
    return manifest


class TestASite:
    def test_is_the_page_its_runtime_and_the_release_as_it_is(
        self, released: Path, tmp_path: Path
    ) -> None:
        site = tmp_path / "out" / "site"
        write_site(site, ["legal"])
        model = listed(site)["models"][0]
        assert (model["name"], model["model"], model["revision"]) == ("legal", "legal/x", None)
        inside = site / "models" / model["model"]
        assert files_below(inside) == files_below(released)
        assert all(
            (inside / n).read_bytes() == (released / n).read_bytes() for n in files_below(inside)
        )
        assert {p.name for p in PAGE.iterdir()} <= {p.name for p in site.iterdir()}
        assert not list(site.parent.glob(".*")), "nothing half-written is left"

    def test_has_every_file_that_the_page_names_and_names_none_from_the_hosts_root(
        self, released: Path, tmp_path: Path
    ) -> None:
        write_site(site := tmp_path / "site", ["legal"])
        runtime = re.findall(r'"\./(vendor/[^"]+)"', (site / "index.html").read_text())
        runtime += re.findall(r'import\("\./(vendor/[^"]+)"', (site / "hold.js").read_text())
        assert len(runtime) == 4
        assert all((site / name).is_file() for name in runtime)
        assert all((site / name).exists() for name in listed(site)["files"])
        for name in ("index.html", "engine.js", "hold.js", "ui.js"):
            assert not re.search(r"""["'`]/(vendor|models)/""", (site / name).read_text()), name

    def test_has_the_front_matter_of_a_static_space(self, released: Path, tmp_path: Path) -> None:
        write_site(site := tmp_path / "site", ["legal"])
        head = read_front_matter((site / "README.md").read_text(encoding="utf-8"))
        assert (head["sdk"], head["app_file"], head["models"]) == (
            "static",
            "index.html",
            ["acme/x"],
        )
        assert head["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"

    def test_names_the_models_on_the_hub_where_that_is_wanted(
        self, released: Path, tmp_path: Path
    ) -> None:
        site = tmp_path / "site"
        with pytest.raises(UserError, match=r"not on the Hub; run `./inv publish --domain legal`"):
            write_site(site, ["legal"], hub=True)
        assert not site.exists()
        there = Publication(
            release_key="x", repository="acme/m", url="https://x", revision="c0ffee"
        )
        _publication_file("legal").write_text(there.model_dump_json())
        write_site(site, ["legal"], hub=True)
        model = listed(site)["models"][0]
        assert (model["model"], model["revision"]) == ("acme/m", "c0ffee")
        assert not (site / "models").exists()

    def test_written_again_replaces_a_site_and_nothing_else(
        self, released: Path, tmp_path: Path
    ) -> None:
        site = tmp_path / "site"
        site.mkdir()
        write_site(site, ["legal"])
        (site / "models" / "old").mkdir()
        write_site(site, ["legal"])
        assert is_site(site) and not (site / "models" / "old").exists()
        mine = tmp_path / "mine"
        mine.mkdir()
        for name, text in (("thesis.txt", "x"), ("manifest.json", '{"version": 1}')):
            (mine / name).write_text(text)
            with pytest.raises(UserError, match="is no site of ours; nothing was written"):
                write_site(mine, ["legal"])
        assert (mine / "thesis.txt").read_text() == "x"

    def test_as_a_command_says_what_is_in_it(self, released: Path, tmp_path: Path) -> None:
        done = invoke("site", "--out", str(tmp_path / "site"), "--json", root=paths.root())
        assert done.returncode == 0, done.stderr
        assert "models/legal/x" in json.dumps(json.loads(done.stdout))
        again = invoke("site", "--out", str(paths.root()), root=paths.root())
        assert again.returncode == 1 and "no site of ours" in again.stderr


@contextmanager
def static_server(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a plain `python -m http.server`, and how to stop it."""
    words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [*words, "--directory", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        found = re.search(r"port (\d+)", process.stdout.readline())
        assert found

        def stop() -> None:
            process.terminate()
            process.wait()

        try:
            yield f"http://127.0.0.1:{found[1]}/", stop
        finally:
            stop()


def loaded(page: Any) -> None:
    page.wait_for_selector("body[data-state=choosing]")
    assert page.evaluate("crossOriginIsolated"), "the worker adds the headers"
    page.click("#load")
    page.wait_for_selector("body[data-state=ready]")


def answered(page: Any) -> None:
    page.fill("#system", "")
    page.fill("#text", "Is it?")
    page.click("#send")
    page.wait_for_selector(".turn.theirs small")
    assert page.inner_text(".mark") == "valid: satisfies the schema"


@pytest.mark.slow
class TestASiteInARealBrowser:
    def test_answers_under_a_sub_path_of_a_plain_server_and_then_without_it(
        self, package: Path, root: Path, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(package, release_folder("legal"), copy_function=os.link)
        (folder / "grammar.ebnf").write_text(grammar(SCHEMA))
        (folder / "schema.json").write_text(json.dumps(SCHEMA))
        described(folder)
        write_site(tmp_path / "site", ["legal"])
        host = tmp_path / "host"
        shutil.copytree(tmp_path / "site", host / "some" / "where")
        shutil.rmtree(tmp_path / "site")
        with static_server(host) as (url, stop), tabs() as pages:
            page = pages["desktop-light"]
            asked: list[str] = []
            page.context.on("request", lambda request: asked.append(request.url))
            page.goto(f"{url}some/where/")
            loaded(page)
            answered(page)
            assert violations_everywhere(page) == []
            page.wait_for_selector("#offline")
            stop()
            second = page.context.new_page()
            second.goto(f"{url}some/where/")
            loaded(second)
            answered(second)
            assert [
                u for u in asked if not u.startswith((f"{url}some/where/", "data:", "blob:"))
            ] == []
