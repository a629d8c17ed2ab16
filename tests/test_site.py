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

import huggingface_hub
import pytest

from shared.base import paths
from shared.base.errors import UserError
from shared.base.front_matter import read_front_matter
from shared.base.hashing import files_below, sha256_file
from shared.base.manifest import FileRecord
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.olive.family_record import RECORD, AdapterRecord, FamilyRecord, adapter_file
from shared.pipeline import site as sites
from shared.pipeline.publication import Publication, _publication_file, publish_release
from shared.pipeline.site import is_site, write_site
from shared.pipeline.space import publish_space
from shared.release.model import RELEASE_FILE, release_folder
from shared.webgpu_bench.driver import PAGE
from tests.axe import violations_everywhere
from tests.hub_double import HubDouble
from tests.hub_release import write_release as write_files
from tests.screenshots import tabs
from tests.test_commands import invoke
from tests.test_publish_command import hub
from tests.test_publishable import write_release as write_manifest

__all__ = ["hub"]
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


def fetched_from(hub: HubDouble, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client in this process fetches single files from the double, too."""
    constants = huggingface_hub.constants
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def written_family(folder: Path) -> Path:
    """A family's folder with family.json and small files for two domains."""
    names = ["legal", "medical"]
    own = {name: [adapter_file(name), f"domains/{name}/prompt.md"] for name in names}
    shared = ["config.json", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data", "onnx/swap_q4.onnx"]
    for file in (*shared, *(file for files in own.values() for file in files)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("bytes")
    for name in names:
        (folder / "domains" / name / "prompt.md").write_text(f"Ask {name}.\n")

    def told(files: list[str]) -> dict[str, FileRecord]:
        size = {file: (folder / file).stat().st_size for file in files}
        return {f: FileRecord(sha256=sha256_file(folder / f), bytes=size[f]) for f in files}

    record = FamilyRecord(
        base="acme/Base",
        base_weights="0",
        calibrated=names,
        precision="int4",
        shared=told(shared),
        adapters={name: AdapterRecord(files=told(own[name]), trained={}) for name in names},
    )
    (folder / RECORD).write_text(record.model_dump_json())
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

    def test_has_the_domains_of_a_family_under_its_records_hash(self, tmp_path: Path) -> None:
        family = written_family(tmp_path / "both")
        [placed] = write_site(site := tmp_path / "site", [], families=[str(family)])
        where = f"models/both/{sha256_file(family / RECORD)[:16]}"
        assert (placed.domain, placed.base, placed.where) == ("both", "acme/Base", where)
        assert files_below(site / where) == files_below(family)
        legal, medical = listed(site)["models"]
        assert (legal["name"], medical["name"]) == ("both/legal", "both/medical")
        assert f"models/{legal['model']}" == where
        assert legal["system_prompt"] == "Ask legal." and legal["adapter"]["bytes"] == 5
        readme = (site / "README.md").read_text()
        assert "- both: from acme/Base, one base for legal, medical" in readme
        assert read_front_matter(readme)["models"] == ["acme/Base"]

    def test_names_a_family_on_the_hub_at_its_commit_and_fetches_none_of_its_weights(
        self, hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetched_from(hub, tmp_path / "cache", monkeypatch)
        family = written_family(tmp_path / "both")
        content = {name: (family / name).read_bytes() for name in files_below(family)}
        commit = hub.add("acme/both", content)
        [placed] = write_site(site := tmp_path / "site", [], families=[f"hf:acme/both@{commit}"])
        assert (placed.domain, placed.where) == ("both", f"acme/both@{commit}")
        assert placed.bytes == 0 and not (site / "models").exists()
        told = listed(site)
        assert told["hub"] == hub.url
        assert [m["name"] for m in told["models"]] == ["both/legal", "both/medical"]
        assert {(m["model"], m["revision"]) for m in told["models"]} == {("acme/both", commit)}
        assert told["models"][0]["system_prompt"] == "Ask legal."
        asked = {r.path.split("/resolve/")[-1] for r in hub.requests if "/resolve/" in r.path}
        assert not any(name.endswith((".safetensors", ".onnx", "_data")) for name in asked)
        assert not any(r.with_token for r in hub.requests)
        hub.repos["acme/both"].private = True
        with pytest.raises(UserError, match="acme/both cannot be read by everybody"):
            write_site(tmp_path / "other", [], families=[f"hf:acme/both@{commit}"])

    def test_refuses_families_that_a_page_could_not_tell_apart_and_what_is_none(
        self, root: Path, tmp_path: Path
    ) -> None:
        one, other = (written_family(tmp_path / name / "both") for name in ("a", "b"))
        with pytest.raises(UserError, match="--family: two of one name"):
            write_site(tmp_path / "site", [], families=[str(one), str(other)])
        (tmp_path / "none").mkdir()
        with pytest.raises(UserError, match=rf"none/{RECORD}: the file is missing"):
            write_site(tmp_path / "site", [], families=[str(tmp_path / "none")])
        assert not (tmp_path / "site").exists()

    def test_takes_no_link_and_no_hidden_file_from_a_familys_folder(
        self, root: Path, tmp_path: Path
    ) -> None:
        family = written_family(tmp_path / "both")
        (family / ".git").mkdir()
        (family / ".git" / "config").write_text("[remote]")
        site = tmp_path / "site"
        [placed] = write_site(site, [], families=[str(family)])
        assert (site / placed.where / RECORD).is_file() and not list(site.rglob(".git"))
        prompt = family / "domains" / "legal" / "prompt.md"
        prompt.unlink()
        (tmp_path / "id_rsa").write_text("mine alone")
        prompt.symlink_to(tmp_path / "id_rsa")
        with pytest.raises(UserError, match=r"legal/prompt\.md: leads out of the folder"):
            write_site(tmp_path / "other", [], families=[str(family)])
        assert not (tmp_path / "other").exists()

    def test_says_a_familys_licence_and_why_it_is_not_to_be_published(
        self, root: Path, tmp_path: Path
    ) -> None:
        family = written_family(tmp_path / "both")
        told = json.loads((family / RECORD).read_text())
        told |= {"licence": "other", "licence_name": "research", "commercial_use": False}
        told |= {"key": "0" * 16, "name": "both", "repository": "acme/both", "created": "today"}
        told |= {
            "git_commit": None,
            "git_clean": None,
            "card_code": "",
            "domains": {},
            "others": {},
        }
        (family / RECORD).write_text(json.dumps(told))
        [placed] = write_site(tmp_path / "site", [], families=[str(family)])
        assert placed.terms == "one base for legal, medical, licence research"
        assert placed.not_publishable_because == "its base's licence forbids commercial use"

    def test_written_again_deletes_nothing_that_a_person_put_into_it(
        self, released: Path, tmp_path: Path
    ) -> None:
        write_site(site := tmp_path / "site", ["legal"])
        for name in ("CNAME", ".git/HEAD"):
            (site / name).parent.mkdir(exist_ok=True)
            (site / name).write_text("mine")
            with pytest.raises(UserError, match=f"{name} is not of the site that is there"):
                write_site(site, ["legal"])
            assert (site / name).read_text() == "mine"
            (site / name).unlink()
        write_site(site, ["legal"])

    def test_says_which_of_the_pages_packages_is_missing(
        self, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sites, "RUNTIME", (*sites.RUNTIME, "hash-wasm/dist/other.js"))
        with pytest.raises(
            UserError, match=r"hash-wasm/dist/other\.js is not installed; run: \(cd "
        ):
            write_site(tmp_path / "site", ["legal"])
        assert not (tmp_path / "site").exists()

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


@pytest.fixture
def model(package: Path, root: Path) -> Path:
    """A release of legal that a browser can load, and whose answers are short."""
    folder = shutil.copytree(package, release_folder("legal"), copy_function=os.link)
    (folder / "grammar.ebnf").write_text(grammar(SCHEMA))
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    described(folder)
    return folder


@pytest.mark.slow
class TestASiteInARealBrowser:
    def test_answers_under_a_sub_path_of_a_plain_server_and_then_without_it(
        self, model: Path, tmp_path: Path
    ) -> None:
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

    @pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
    def test_as_a_space_answers_with_the_model_that_is_on_the_hub_and_then_without_both(
        self, hub: HubDouble, model: Path, tmp_path: Path
    ) -> None:
        release = json.loads((model / RELEASE_FILE).read_text()) | {"key": "0123456789abcdef"}
        (model / RELEASE_FILE).write_text(json.dumps(release))
        published = publish_release(load_domain("legal"))
        publish_space()
        for name, content in hub.files("spaces/docintel/docintel").items():
            (tmp_path / "host" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "host" / name).write_bytes(content)
        hub.requests.clear()
        with static_server(tmp_path / "host") as (url, stop), tabs() as pages:
            page = pages["desktop-light"]
            page.goto(url)
            loaded(page)
            answered(page)
            asked = {r.path.split("/resolve/")[-1] for r in hub.asked("GET", "/resolve/")}
            assert {f"{published.revision}/{n}" for n in ("config.json", "tokenizer.json")} <= asked
            assert not any(r.with_token for r in hub.requests)
            page.wait_for_selector("#offline")
            stop()
            hub.__exit__()
            second = page.context.new_page()
            second.goto(url)
            loaded(second)
            answered(second)
