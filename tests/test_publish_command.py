"""`publish`, `publish-collection` and `release-all --publish`, as a person types them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths
from shared.base.code import code_hash
from shared.base.hashing import files_below, sha256_file
from shared.base.manifest import FileRecord
from shared.cli.summary import overview
from shared.domain.domain import load_domain
from shared.pipeline import all_domains
from shared.pipeline import one_domain as pipeline
from shared.pipeline.all_domains import release_all
from shared.pipeline.one_domain import Result
from shared.pipeline.publication import PublishOptions, publish_release, read_publication
from shared.pipeline.stages import Options
from shared.release import folder as making
from shared.release.model import CARD_CODE, RELEASE_FILE, ChainResult, read_release, release_folder
from tests.hub_double import Fault, HubDouble, use_this_machine
from tests.hub_release import write_release as write_files
from tests.hub_routes import WRITE_TOKEN
from tests.test_commands import invoke
from tests.test_publishable import write_release as write_manifest

# The client itself passes open files to httpx2 in a way that httpx2 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "docintel/docintel-legal-x-webgpu"


def make_release(domain: str = "legal", key: str = "0123456789abcdef") -> Path:
    """A release folder with a manifest that lists its files; written again, a new release of it."""
    folder = release_folder(domain)
    if not folder.exists():
        write_files(folder)
        (folder / "prompt.md").write_text("Answer.\n")
    (folder / RELEASE_FILE).unlink(missing_ok=True)
    files = {
        name: FileRecord(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
        for name in files_below(folder)
    }
    write_manifest(folder, files)
    text = json.loads((folder / RELEASE_FILE).read_text())
    text |= {"key": key, "domain": domain, "repository": NAME.replace("legal", domain)}
    text["card_code"] = code_hash(*CARD_CODE)
    (folder / RELEASE_FILE).write_text(json.dumps(text))
    return folder


@pytest.fixture
def hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    use_this_machine(monkeypatch)
    with HubDouble() as double:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", double.url)
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        yield double


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = invoke(*words, root=root, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
    assert WRITE_TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


class TestTheCommand:
    def test_plans_publishes_and_names_the_version(self, hub: HubDouble, root: Path) -> None:
        folder = make_release()
        plan = run(root, "publish", "--domain", "legal", "--dry-run", "--org", "acme", "--private")
        assert plan.returncode == 0, plan.stderr
        assert "acme/docintel-legal-x-webgpu (private, new)" in plan.stdout
        assert "onnx/model_q4f16.onnx" in plan.stdout and not hub.repos
        assert not (folder.parent / "published.json").exists()
        done = run(root, "publish", "--domain", "legal")
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/{NAME} v1 at {hub.repos[NAME].refs['main']}" in done.stdout
        status = invoke("status", root=root).stdout
        assert "uploaded" in status and "v1" in status

    def test_under_another_name_asks_for_a_release_by_the_present_code(
        self, hub: HubDouble, root: Path
    ) -> None:
        manifest = make_release() / RELEASE_FILE
        text = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(text | {"card_code": "of another commit"}))
        done = run(root, "publish", "--domain", "legal", "--org", "acme")
        assert done.returncode == 1 and not hub.repos
        assert "made by another version of this code; run `./inv release`" in done.stderr

    def test_of_a_release_that_was_made_anew_is_not_that_of_the_one_before(
        self, hub: HubDouble, root: Path
    ) -> None:
        folder = make_release()
        assert run(root, "publish", "--domain", "legal").returncode == 0
        release = read_release(folder)
        record = read_publication("legal")
        assert record and record.is_of(release)
        assert not record.is_of(release.model_copy(update={"created": "later, by --force"}))

    def test_that_is_refused_ends_with_one(self, hub: HubDouble, root: Path) -> None:
        make_release()
        hub.add(NAME, {})
        hub.repos[NAME].write({"README.md": b"by hand"}, "Fix a typo")
        for words in ((), ("--dry-run",)):
            refused = run(root, "publish", "--domain", "legal", *words)
            assert refused.returncode == 1
            assert "no release made ('Fix a typo' by someone)" in refused.stderr
        assert run(root, "publish", "--domain", "legal", "--overwrite").returncode == 0

    def test_for_the_collection_lists_what_was_published(self, hub: HubDouble, root: Path) -> None:
        empty = run(root, "publish-collection")
        assert empty.returncode == 1 and "nothing was published from here" in empty.stderr
        make_release()
        publish_release(load_domain("legal"))
        made = run(root, "publish-collection")
        assert made.returncode == 0, made.stderr
        assert f"  {NAME} (legal, v1)" in made.stdout


class TestTheRecord:
    def test_lies_beside_the_release_which_stays_as_it_was_sent(
        self, hub: HubDouble, root: Path
    ) -> None:
        folder = make_release()
        before = (folder / RELEASE_FILE).read_bytes()
        publish_release(load_domain("legal"))
        record = read_publication("legal")
        assert record and record.release_version == "v1" and record.pull_request == 1
        assert record.revision == hub.repos[NAME].refs["main"]
        assert (folder / RELEASE_FILE).read_bytes() == before == hub.files(NAME)[RELEASE_FILE]

    def test_of_a_second_time_says_that_nothing_was_sent(self, hub: HubDouble, root: Path) -> None:
        make_release()
        first = publish_release(load_domain("legal"))
        again = publish_release(load_domain("legal"))
        assert (again.bytes_sent, again.revision) == (0, first.revision)
        assert hub.repos[NAME].tags == {"v1": first.revision}

    def test_of_a_changed_card_counts_the_card_and_the_manifest_that_names_its_hash(
        self, hub: HubDouble, root: Path
    ) -> None:
        folder = make_release()
        publish_release(load_domain("legal"))
        sent = hub.keeper.sent
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# Other words\n")
        make_release(key="fedcba9876543210")
        done = publish_release(load_domain("legal"))
        two = [(folder / name).stat().st_size for name in ("README.md", RELEASE_FILE)]
        assert done.bytes_sent == sum(two) == hub.keeper.sent - sent
        assert done.release_version == "v2"

    def test_is_not_written_where_publishing_failed(self, hub: HubDouble, root: Path) -> None:
        make_release()
        hub.faults = [Fault("POST", "/merge", 403)]
        with pytest.raises(Exception, match="may not write"):
            publish_release(load_domain("legal"))
        assert read_publication("legal") is None


class TestAllDomains:
    @pytest.fixture
    def three(self, hub: HubDouble, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three domains released before."""
        for name in ("medical", "tax"):
            shutil.copytree(root / "domains" / "legal", root / "domains" / name)
        for name in ("legal", "medical", "tax"):
            make_release(name)
        monkeypatch.setattr(
            pipeline, "run_chain", lambda d, _: ChainResult(d, rung=d.chain.rung[0])
        )
        monkeypatch.setattr(
            making,
            "make_release",
            lambda walk, **_: (read_release(release_folder(walk.domain.name)), True),
        )

    @pytest.fixture
    def results(self, hub: HubDouble, three: None) -> Iterator[list[Result]]:
        """The Hub refuses the second's repository."""
        hub.faults = [Fault("POST", "docintel-medical-x-webgpu/preupload", 403)]
        yield release_all(Options(), publish=PublishOptions())

    @pytest.mark.parametrize(
        ("module", "step"), [(making, "make_release"), (all_domains, "publish_release")]
    )
    def test_go_on_though_one_meets_a_defect_of_ours_and_its_traceback_is_kept(
        self, three: None, root: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str
    ) -> None:
        real = getattr(module, step)

        def stumbles(what: Any, *rest: Any, **more: Any) -> Any:
            if getattr(what, "domain", what).name == "medical":
                raise KeyError("a defect")
            return real(what, *rest, **more)

        monkeypatch.setattr(module, step, stumbles)
        results = release_all(Options(), publish=PublishOptions())
        assert [result.ok for result in results] == [True, False, True]
        assert "KeyError: 'a defect' (traceback: build/failures/medical.txt)" in str(
            results[1].error
        )
        assert "stumbles" in (root / "build" / "failures" / "medical.txt").read_text()
        assert "medical" in overview(results)

    def test_are_published_though_one_fails(self, hub: HubDouble, results: list[Result]) -> None:
        assert [result.ok for result in results] == [True, False, True]
        assert [repo.tags for repo in hub.repos.values()] == [
            {"v1": hub.repos[NAME].refs["main"]},
            {},
            {"v1": hub.repos[NAME.replace("legal", "tax")].refs["main"]},
        ]

    def test_end_with_one_table(self, hub: HubDouble, results: list[Result]) -> None:
        text = " ".join(overview(results).replace("│", " ").split())  # long lines are wrapped
        assert f"{hub.url}/{NAME} v1" in text and "MB sent" in text
        assert "the token may not write to" in text


def test_the_folder_of_the_fallback_file_states_the_version(root: Path) -> None:
    toml = paths.domains() / "legal" / "fallback.toml"
    toml.write_text(toml.read_text() + '\n[publish]\nversion = "1.0.0"\n')
    assert load_domain("legal").chain.publish.version == "1.0.0"
    toml.write_text(toml.read_text().replace('version = "1.0.0"', 'version = "one"'))
    with pytest.raises(Exception, match=r"fallback\.toml:\d+: publish\.version: .*\(found 'one'\)"):
        load_domain("legal")
