"""The page as a static Space: the real client over real HTTP to tests/hub_double.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths
from shared.base.errors import UserError
from shared.base.front_matter import read_front_matter
from shared.base.hashing import files_below
from shared.cli.summary import plan_table
from shared.domain.domain import load_domain
from shared.hub.publish import Published
from shared.pipeline import site as sites
from shared.pipeline.publication import PublishOptions, publish_release, read_publication
from shared.pipeline.space import plan_space, publish_space
from shared.webgpu_bench.driver import PAGE
from tests.hub_double import READ_TOKEN, WRITE_TOKEN, Fault, HubDouble
from tests.hub_release import on_disk
from tests.test_commands import invoke
from tests.test_publish_command import NAME, hub, make_release
from tests.test_site import fetched_from, written_family

__all__ = ["hub"]
# The client itself passes open files to httpx2 in a way that httpx2 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SPACE = "spaces/docintel/docintel"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime of one file: the real one is 28 MB."""
    monkeypatch.setattr(sites, "RUNTIME", ("onnxruntime-common/dist/esm/version.js",))


@pytest.fixture
def released(hub: HubDouble, root: Path, small: None) -> Iterator[HubDouble]:
    """The Hub with the release of legal on it."""
    make_release()
    publish_release(load_domain("legal"))
    hub.requests.clear()
    yield hub


def send(*domains: str, **more: Any) -> Published:
    return publish_space(domains, PublishOptions(**more), sleep=lambda _: None)


def refused(*domains: str, **more: Any) -> str:
    """The sentence; no token may be in it, nor in the traceback."""
    with pytest.raises(UserError) as raised:
        send(*domains, **more)
    told = "".join(traceback.format_exception(raised.value))
    assert WRITE_TOKEN not in told and READ_TOKEN not in told
    assert "\n" not in str(raised.value)
    return str(raised.value)


def shown(hub: HubDouble, space: str = SPACE) -> dict[str, bytes]:
    return {name: c for name, c in hub.files(space).items() if name != ".gitattributes"}


def names_on(hub: HubDouble) -> list[str]:
    """The models that the page of the Space lists."""
    return [m["name"] for m in json.loads(hub.files(SPACE)["manifest.json"])["models"]]


def writes(hub: HubDouble) -> list[str]:
    """The requests that could change something."""
    return [f"{r.method} {r.path}" for r in hub.requests if r.method not in ("GET", "HEAD")]


class TestASpace:
    def test_holds_the_site_whose_models_are_the_published_ones(self, released: HubDouble) -> None:
        done = send()
        assert shown(released) == on_disk(paths.build() / "space")
        manifest = json.loads(released.files(SPACE)["manifest.json"])
        record = read_publication("legal")
        assert record and manifest["hub"] == released.url
        assert [(m["model"], m["revision"]) for m in manifest["models"]] == [
            (NAME, record.revision)
        ]
        head = read_front_matter(released.files(SPACE)["README.md"].decode())
        assert (head["sdk"], head["models"]) == ("static", [NAME, "acme/x"])
        assert (done.url, done.version) == (f"{released.url}/{SPACE}", "v1")
        assert released.repos[SPACE].tags == {"v1": done.revision}

    def test_holds_published_families_beside_them_or_alone(
        self,
        released: HubDouble,
        root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fetched_from(released, tmp_path / "cache", monkeypatch)
        family = written_family(tmp_path / "both")
        content = {name: (family / name).read_bytes() for name in files_below(family)}
        at = f"hf:docintel/both@{released.add('docintel/both', content)}"
        publish_space((), families=[at], sleep=lambda _: None)
        assert names_on(released) == ["legal", "both/legal", "both/medical"]
        (root / "models" / "legal" / "published.json").unlink()
        publish_space((), families=[at], sleep=lambda _: None)
        assert names_on(released) == ["both/legal", "both/medical"]
        assert not any("onnx" in name for name in released.files(SPACE) if "vendor" not in name)
        with pytest.raises(
            UserError, match="publish the family, and name it as hf:org/name@commit"
        ):
            publish_space((), families=[str(family)], sleep=lambda _: None)

    def test_goes_up_as_a_model_does_and_leaves_the_models_alone(self, released: HubDouble) -> None:
        models = released.repos[NAME].refs.copy()
        done = send()
        commits = [r.path for r in released.asked("POST", "/commit/")]
        assert set(commits) == {"/api/spaces/docintel/docintel/commit/refs/pr/1"}
        pull = released.repos[SPACE].pulls[0]
        assert (done.pull_request, pull.status) == (1, "merged")
        assert len(released.repos[SPACE].was) == 2, "the Hub's first page, then ours"
        assert released.repos[NAME].refs == models

    def test_replaces_the_page_that_the_hub_puts_into_a_new_one(self, released: HubDouble) -> None:
        send()
        assert released.files(SPACE)["style.css"] == (PAGE / "style.css").read_bytes()
        assert released.files(SPACE)["index.html"] == (PAGE / "index.html").read_bytes()

    def test_again_sends_nothing_and_makes_no_commit_and_no_tag(self, released: HubDouble) -> None:
        first = send()
        released.requests.clear()
        again = send()
        assert (again.unchanged, again.bytes_sent, again.revision) == (True, 0, first.revision)
        assert writes(released) == []

    def test_of_a_new_release_sends_the_list_of_models_and_the_readme_at_most(
        self, released: HubDouble
    ) -> None:
        send()
        make_release(key="fedcba9876543210")
        (paths.models("legal") / "webgpu" / "README.md").write_text("---\nlicense: mit\n---\n")
        make_release(key="fedcba9876543210")
        newer = publish_release(load_domain("legal"))
        done = send()
        manifest = paths.build() / "space" / "manifest.json"
        assert done.bytes_sent == manifest.stat().st_size and done.version == "v2"
        assert newer.revision in manifest.read_text()

    def test_holds_the_runtime_as_its_packages_have_it_and_nothing_else_of_its_kind(
        self, released: HubDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        wasm, key = b"\0asm\1\0\0\0", b"AKIA" + b"ABCDEFGH23456789"  # as base64 has it by chance
        vendor = tmp_path / "vendor"
        vendor.mkdir()
        (vendor / "runtime.wasm").write_bytes(wasm)
        (vendor / "runtime.js").write_bytes(key)
        monkeypatch.setattr(sites, "VENDOR", vendor)
        monkeypatch.setattr(sites, "RUNTIME", ("runtime.*",))
        send()
        assert released.files(SPACE)["vendor/runtime.wasm"] == wasm
        for name, words in (("x.wasm", "is neither UTF-8 text"), ("x.js", "looks like a secret")):
            page = shutil.copytree(PAGE, tmp_path / name)
            (page / name).write_bytes(wasm + b"1" if name == "x.wasm" else key + b" ")
            monkeypatch.setattr(sites, "PAGE", page)
            assert f"{name}: {words}" in refused()

    def test_can_be_private_and_of_another_organisation(self, released: HubDouble) -> None:
        send(org="acme", private=True)
        assert released.repos["spaces/acme/docintel"].private

    def test_has_the_name_that_the_domain_says(
        self, released: HubDouble, edit: Callable[[str, str, str], int]
    ) -> None:
        edit("../defaults.toml", 'org = "docintel"', 'org = "docintel"\nspace = "a--b"')
        assert "a--b" in refused() and writes(released) == []
        edit("../defaults.toml", 'space = "a--b"', 'space = "texts"')
        assert send().repo_id == "docintel/texts"


class TestBeforeAnythingIsSent:
    def test_a_domain_that_is_not_published_is_refused_and_the_hub_not_asked(
        self, released: HubDouble, root: Path
    ) -> None:
        shutil.copytree(root / "domains" / "legal", root / "domains" / "tax")
        make_release("tax")
        assert "tax: the present release is not on the Hub" in refused("legal", "tax")
        assert released.requests == [] and not (paths.build() / "space").exists()

    def test_a_release_that_is_newer_than_the_published_one_is_refused(
        self, released: HubDouble
    ) -> None:
        make_release(key="fedcba9876543210")
        assert "the present release is not on the Hub; run `./inv publish" in refused()
        assert released.requests == []

    def test_nothing_published_is_refused(self, hub: HubDouble, root: Path) -> None:
        make_release()
        assert "nothing was published from here" in refused()
        assert hub.requests == []

    @pytest.mark.parametrize("kind", ["private", "gated", "gone"])
    def test_a_model_that_not_everybody_can_read_is_refused(
        self, released: HubDouble, kind: str
    ) -> None:
        if kind == "gone":
            del released.repos[NAME]
        else:
            setattr(released.repos[NAME], kind, True)
        assert f"{NAME} cannot be read by everybody" in refused()
        assert writes(released) == [] and SPACE not in released.repos
        assert not any(r.with_token for r in released.requests)

    def test_models_of_two_hubs_are_refused(self, released: HubDouble, root: Path) -> None:
        shutil.copytree(root / "domains" / "legal", root / "domains" / "tax")
        make_release("tax")
        publish_release(load_domain("tax"))
        record = paths.models("tax") / "published.json"
        record.write_text(record.read_text().replace(released.url, "https://other.example"))
        released.requests.clear()
        assert "a site takes them from one Hub" in refused()
        assert released.requests == []

    def test_a_token_that_may_only_read_makes_no_space(
        self, released: HubDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
        assert "may not write" in refused()
        assert SPACE not in released.repos

    def test_the_hub_is_asked_whether_it_takes_the_front_matter(
        self, released: HubDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sites, "SPACE", {"title": "DocIntel"})
        assert "refuses docintel/docintel: Invalid metadata in README.md" in refused()
        assert SPACE not in released.repos

    def test_what_others_changed_stays_unless_it_is_to_be_overwritten(
        self, released: HubDouble
    ) -> None:
        send()
        released.repos[SPACE].write({"index.html": b"by hand"}, "Fix a typo")
        make_release(key="fedcba9876543210")
        (paths.models("legal") / "published.json").write_text(
            (paths.models("legal") / "published.json")
            .read_text()
            .replace("0123456789abcdef", "fedcba9876543210")
        )
        assert "no release made ('Fix a typo' by someone)" in refused()
        assert released.files(SPACE)["index.html"] == b"by hand"
        assert not send(overwrite=True).unchanged
        assert shown(released) == on_disk(paths.build() / "space")


class TestATroubleOnTheWay:
    def test_a_file_that_arrives_damaged_never_comes_to_main(self, released: HubDouble) -> None:
        released.damaged = {"sw.js"}
        assert "sw.js is not what was sent" in refused()
        assert shown(released)["index.html"] == b"<p>" and not released.repos[SPACE].tags
        released.damaged = set()
        send()
        assert shown(released) == on_disk(paths.build() / "space")

    @pytest.mark.parametrize(
        "path", ["/api/repos/create", "/preupload/", "/commit/", "/merge", "/tag/"]
    )
    def test_that_stops_it_is_mended_by_the_next_run(self, released: HubDouble, path: str) -> None:
        released.faults = [Fault("POST", path, 403)]
        assert "may not write to docintel/docintel" in refused()
        done = send()
        assert shown(released) == on_disk(paths.build() / "space")
        assert released.repos[SPACE].tags == {"v1": done.revision}
        assert len(released.repos[SPACE].pulls) == 1, "what was begun was gone on with"


class TestTheCommand:
    @pytest.fixture
    def run(self, hub: HubDouble, root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
        def run(*words: str) -> subprocess.CompletedProcess[str]:
            done = invoke(*words, root=root, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
            assert WRITE_TOKEN not in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
            return done

        return run

    def test_plans_then_publishes_the_whole_page_and_names_its_address(
        self, run: Callable[..., subprocess.CompletedProcess[str]], hub: HubDouble, root: Path
    ) -> None:
        make_release()
        publish_release(load_domain("legal"))
        plan = run("publish-space", "--dry-run")
        assert plan.returncode == 0, plan.stderr
        assert "docintel/docintel (public, new)" in plan.stdout and SPACE not in hub.repos
        assert "asyncify.wasm" in plan.stdout and "nothing was written" in plan.stdout
        done = run("publish-space", "--domain", "legal")
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/{SPACE} v1 at {hub.repos[SPACE].refs['main']}" in done.stdout
        again = run("publish-space")
        assert "unchanged on the Hub" in again.stderr + again.stdout
        logs = "".join(p.read_text() for p in (root / "build").rglob("*.log"))
        assert WRITE_TOKEN not in logs

    def test_that_would_be_refused_says_so_in_the_plan(self, released: HubDouble) -> None:
        released.add(SPACE, {})
        released.repos[SPACE].write({"README.md": b"by hand"}, "Mine")
        plan = plan_space()
        assert plan.against and "no release made ('Mine' by someone)" in plan.against
        assert "refused" in plan_table(plan) and writes(released) == []
