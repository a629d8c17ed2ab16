"""A Hub that answers, but not as a Hub should: it steers no path, and is told of in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from shared.base.errors import RungFailed, UserError
from shared.hub.download import fetch_snapshot
from shared.hub.retries import Hub
from shared.hub.token import scrub
from shared.release.verify.remote import fetch
from shared.release.verify.report import verify
from tests.hub_double import Fault, HubDouble
from tests.hub_publisher import REPO
from tests.hub_release import NEXT_KEY, refused, send, write_release
from tests.hub_store import Pull

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
MODEL = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


def name_the_commit(hub: HubDouble, repo: str, name: str) -> None:
    """The Hub says that main, and every revision, is at `name`."""
    found = hub.repos[repo]
    found.trees[name], found.log[name] = found.at("main")[1], found.log[found.refs["main"]]
    found.refs["main"] = name


class TestACommitThatIsAPath:
    @pytest.fixture
    def victim(self, tmp_path: Path) -> Path:
        (tmp_path / "victim").mkdir()
        (tmp_path / "victim" / "config.json").write_text("mine")
        return tmp_path / "victim"

    def test_is_not_where_verify_writes(self, hub: HubDouble, victim: Path) -> None:
        hub.add("a/b", MODEL)
        name_the_commit(hub, "a/b", str(victim))
        with pytest.raises(UserError, match="as a commit of a/b; that is none"):
            fetch("a/b", endpoint=hub.url)
        assert [p.name for p in victim.iterdir()] == ["config.json"]
        assert (victim / "config.json").read_text() == "mine"

    def test_is_not_where_weights_are_put(self, hub: HubDouble, root: Path, victim: Path) -> None:
        hub.add("a/b", MODEL)
        name_the_commit(hub, "a/b", str(victim))
        with pytest.raises(RungFailed, match="as a commit of a/b; that is none"):
            fetch_snapshot("hf:a/b@main", root / "cache", endpoint=hub.url)
        assert (victim / "config.json").read_text() == "mine"

    def test_is_not_what_is_published_over(
        self, hub: HubDouble, release: Path, victim: Path
    ) -> None:
        hub.add(REPO, {})
        name_the_commit(hub, REPO, "../main")
        assert f"names '../main' as a commit of {REPO}; that is none" in refused(hub, release)


class TestATitleThatIsNotARelease:
    TITLES = (
        "Notes for release 20261123",
        "Undo release 0123456789abcdef over 0123456789ab for now",
        "release 0123456789abcdef",
    )

    @pytest.mark.parametrize("title", TITLES)
    def test_is_a_commit_that_is_not_overwritten(
        self, hub: HubDouble, release: Path, title: str
    ) -> None:
        send(hub, release)
        hub.repos[REPO].write({"NOTES.md": b"by hand"}, title, author="writer")
        assert "main holds a change that no release made" in refused(hub, release, key=NEXT_KEY)
        assert hub.files(REPO)["NOTES.md"] == b"by hand"

    def test_nor_is_our_title_by_someone_else(self, hub: HubDouble, release: Path) -> None:
        send(hub, release)
        head = hub.repos[REPO].refs["main"][:12]
        title = f"DocIntel legal: tiny, release {NEXT_KEY} over {head} (#9)"
        hub.repos[REPO].write({"NOTES.md": b"by hand"}, title, author="someone")
        assert "no release made ('DocIntel legal: tiny" in refused(hub, release, key=NEXT_KEY)

    @pytest.mark.parametrize("title", TITLES)
    def test_is_a_pull_request_that_is_not_closed(
        self, hub: HubDouble, release: Path, title: str
    ) -> None:
        start = hub.add(REPO, {})
        hub.repos[REPO].pulls.append(Pull(1, title, "writer", start, "open"))
        hub.repos[REPO].refs["refs/pr/1"] = start
        send(hub, release)
        assert hub.repos[REPO].pulls[0].status == "open"


class TestAnAnswerThatIsNoHubs:
    """Status 200, and JSON: only not what was asked for."""

    @pytest.mark.parametrize("path", ["/revision/main", "/whoami", "/refs", "/discussions"])
    def test_to_a_publisher_is_a_sentence(self, hub: HubDouble, release: Path, path: str) -> None:
        send(hub, release)
        (release / "config.json").write_text('{"new": 1}')
        hub.faults = [Fault("GET", path, 200)]
        assert "check HF_ENDPOINT" in refused(hub, release, key=NEXT_KEY)

    def test_to_a_stranger_is_a_sentence(self, hub: HubDouble) -> None:
        hub.add("a/b", MODEL)
        hub.faults = [Fault("GET", "/revision/main", 200)]
        with pytest.raises(UserError, match="does not answer as a Hub does; check HF_ENDPOINT"):
            list(verify("a/b", endpoint=hub.url))

    def test_nor_bytes_that_cannot_be_unpacked(self, hub: HubDouble) -> None:
        hub.add("a/b", MODEL)
        hub.faults = [Fault("GET", "/revision/main", 200, {"Content-Encoding": "gzip"})] * 9
        with pytest.raises(UserError, match="does not answer as a Hub does; check HF_ENDPOINT"):
            list(verify("a/b", endpoint=hub.url))

    def test_nor_redirects_without_an_end(self, hub: HubDouble) -> None:
        hub.add("a/b", MODEL)
        again = {"Location": f"{hub.url}/api/models/a/b/revision/main"}
        hub.faults = [Fault("GET", "/revision/main", 307, again)] * 99
        with pytest.raises(UserError, match="does not answer as a Hub does; check HF_ENDPOINT"):
            list(verify("a/b", endpoint=hub.url))

    def test_is_not_what_a_defect_of_ours_is_taken_for(self, hub: HubDouble) -> None:
        from huggingface_hub import HfApi

        with pytest.raises(KeyError):
            Hub(HfApi(endpoint=hub.url), "a/b").call(lambda: {}["ours"])


class TestAHubThatFallsSilent:
    """It takes the question and says nothing: without a time of our own that would last for ever."""

    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCINTEL_HUB_TIMEOUT_SECONDS", "0.2")

    @pytest.mark.parametrize("path", ["/revision/main", "/tree/"])
    def test_ends_verify(self, hub: HubDouble, path: str) -> None:
        hub.add("a/b", MODEL)
        hub.faults = [Fault("GET", path, how="silence")] * 4
        with pytest.raises(UserError, match="no answer in time"):
            fetch("a/b", endpoint=hub.url, sleep=lambda seconds: None)

    def test_ends_a_download(self, hub: HubDouble, root: Path) -> None:
        hub.add("a/b", MODEL)
        hub.faults = [Fault("HEAD", "/resolve/", how="silence")] * 40
        with pytest.raises(RungFailed, match="no answer in time"):
            fetch_snapshot(
                "hf:a/b@main", root / "cache", endpoint=hub.url, sleep=lambda seconds: None
            )


@pytest.mark.parametrize("kind", ["hf_oauth_", "hf_jwt_", "hf_", "api_org_"])
def test_no_token_of_any_kind_is_printed(kind: str) -> None:
    secret = "eyJhbGci-OiJ_9.eyJz_dWI" if "_" in kind[3:-1] else "aBcD" * 9
    said = scrub(f"401 for {kind}{secret}, sorry")
    assert secret[-6:] not in said and said.endswith("***, sorry")


def test_no_line_fails_where_no_token_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a CI job whose workflow names an identity that the job may not ask for."""

    def refused() -> str:
        raise RuntimeError("no id token")

    monkeypatch.setattr("shared.hub.token.get_token", refused)
    assert scrub("said: hf_" + "aBcD" * 9) == "said: hf_***"


def test_no_address_shows_who_is_asking() -> None:
    hub = Hub(HfApi(endpoint="https://ci:s3cret@mirror.corp:8443/hf"), "a/b")
    assert hub.host == "mirror.corp:8443" and hub.url == "https://***@mirror.corp:8443/hf/a/b"


def test_no_token_that_is_set_is_printed_whatever_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-another-form-12345")
    assert "12345" not in scrub("said: of-another-form-12345")


def test_an_addresss_password_is_not_said_either() -> None:
    said = scrub("opened https://alice:s3cret@hub.example/acme/m, see git+https://bob@x/y")
    assert said == "opened https://***@hub.example/acme/m, see git+https://***@x/y"
