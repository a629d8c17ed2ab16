"""Publishing: the real client over real HTTP to tests/hub_double.py, so that no token is needed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import UserError
from shared.hub.publish import Published, publish, repo_id
from tests.hub_double import (
    READ_TOKEN,
    WRITE_TOKEN,
    Fault,
    HubDouble,
    closed_port,
    use_this_machine,
)

# The client itself passes open files to httpx2 in a way that httpx2 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "acme/docintel-legal-tiny-webgpu"


@pytest.fixture
def hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A Hub on this machine, a token that may write to it, and a world of its own."""
    use_this_machine(monkeypatch)
    with HubDouble() as double:
        yield double


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Two small files, and one that the Hub stores as LFS."""
    folder = tmp_path / "release"
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Card\n", encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "onnx" / "model_q4f16.onnx").write_bytes(bytes(range(256)) * 4000)
    return folder


@pytest.fixture
def slept() -> list[float]:
    return []


def send(hub: HubDouble, folder: Path, slept: list[float] | None = None, **more: bool) -> Published:
    naps = [] if slept is None else slept
    return publish(folder, REPO, message="a release", endpoint=hub.url, sleep=naps.append, **more)


def refused(hub: HubDouble, folder: Path, slept: list[float] | None = None, **more: bool) -> str:
    """The sentence; no token may be in it, nor in the traceback."""
    with pytest.raises(UserError) as raised:
        send(hub, folder, slept, **more)
    told = "".join(traceback.format_exception(raised.value))
    assert WRITE_TOKEN not in told and READ_TOKEN not in told
    assert "\n" not in str(raised.value)
    return str(raised.value)


def on_disk(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def on_the_hub(hub: HubDouble) -> dict[str, bytes]:
    return {name: c for name, c in hub.files(REPO).items() if name != ".gitattributes"}


class TestARepositoryName:
    def test_is_made_from_the_pattern(self) -> None:
        made = repo_id("docintel-{domain}-{base}-webgpu", "acme", "legal", "HuggingFaceTB/SmolLM3")
        assert made == "acme/docintel-legal-smollm3-webgpu"

    @pytest.mark.parametrize("pattern", ["{domian}", "{", "a--{domain}", "{domain}/{base}", "{0}"])
    def test_that_the_hub_would_not_take_is_refused(self, pattern: str) -> None:
        with pytest.raises(UserError):
            repo_id(pattern, "acme", "legal", "org/model")


class TestPublishing:
    def test_puts_on_the_hub_what_the_folder_holds(self, hub: HubDouble, release: Path) -> None:
        done = send(hub, release)
        assert on_the_hub(hub) == on_disk(release)
        assert hub.repos[REPO].at("main")[1]["onnx/model_q4f16.onnx"].lfs
        assert done.revision == hub.repos[REPO].refs["main"]
        assert (done.url, done.files, done.unchanged) == (f"{hub.url}/{REPO}", 3, False)
        assert done.bytes_sent == sum(map(len, on_disk(release).values()))
        assert len(hub.asked("POST", "/commit/")) == 1

    def test_again_sends_nothing_and_makes_no_commit(self, hub: HubDouble, release: Path) -> None:
        first = send(hub, release)
        hub.requests.clear()
        again = send(hub, release)
        assert (again.unchanged, again.bytes_sent, again.revision) == (True, 0, first.revision)
        assert [r.path for r in hub.asked("POST")] == ["/api/repos/create"]
        assert not hub.asked("PUT")

    def test_a_changed_card_sends_the_card_alone(self, hub: HubDouble, release: Path) -> None:
        send(hub, release)
        hub.requests.clear()
        card = release / "README.md"
        card.write_text("---\nlicense: mit\n---\n# Card, changed\n", encoding="utf-8")
        assert send(hub, release).bytes_sent == card.stat().st_size
        assert hub.files(REPO)["README.md"] == card.read_bytes()
        assert not hub.asked("PUT") and not hub.asked("POST", "/lfs/")

    def test_takes_away_what_the_folder_has_no_more(self, hub: HubDouble, release: Path) -> None:
        send(hub, release)
        (release / "onnx" / "model_q4f16.onnx").unlink()
        assert not send(hub, release).unchanged
        assert set(hub.files(REPO)) == {".gitattributes", "README.md", "config.json"}

    def test_reads_a_listing_that_comes_in_pages(self, hub: HubDouble, release: Path) -> None:
        hub.page = 2
        send(hub, release)
        assert send(hub, release).unchanged

    def test_privately_makes_a_private_repository(self, hub: HubDouble, release: Path) -> None:
        send(hub, release, private=True)
        assert hub.repos[REPO].private

    def test_privately_to_a_public_repository_is_refused(
        self, hub: HubDouble, release: Path
    ) -> None:
        hub.add(REPO, {})
        assert "is public already" in refused(hub, release, private=True)
        assert not hub.asked("POST", "/commit/")


class TestTrouble:
    @pytest.mark.parametrize("path", ["/repos/create", "/commit/"])
    def test_that_passes_is_waited_for(
        self, hub: HubDouble, release: Path, slept: list[float], path: str
    ) -> None:
        hub.faults = [Fault("POST", path, 500), Fault("POST", path, 503)]
        send(hub, release, slept)
        assert on_the_hub(hub) == on_disk(release)
        assert slept == [1, 2]
        assert len(hub.asked("PUT")) == 1

    def test_that_stays_ends_after_four_attempts(
        self, hub: HubDouble, release: Path, slept: list[float]
    ) -> None:
        hub.faults = [Fault("POST", "/repos/create", 503)] * 9
        assert "is in trouble (503: a fault); see status.huggingface.co" in refused(
            hub, release, slept
        )
        assert slept == [1, 2, 4]

    def test_of_a_commit_whose_answer_is_lost_makes_no_second_one(
        self, hub: HubDouble, release: Path
    ) -> None:
        hub.faults = [Fault("POST", "/commit/", 502, after=True)]
        done = send(hub, release)
        assert (done.revision, done.unchanged) == (hub.repos[REPO].refs["main"], False)
        assert len(hub.asked("POST", "/commit/")) == 1

    @pytest.mark.parametrize(
        "header", [{"Retry-After": "7"}, {"RateLimit": '"api";r=0;t=7', "X-Error-Message": "slow"}]
    )
    def test_of_too_many_requests_waits_as_long_as_the_hub_asks(
        self, hub: HubDouble, release: Path, slept: list[float], header: dict[str, str]
    ) -> None:
        hub.faults = [Fault("POST", "/repos/create", 429, header)]
        send(hub, release, slept)
        assert slept == [7]

    def test_of_an_hour_is_told_and_not_waited_for(
        self, hub: HubDouble, release: Path, slept: list[float]
    ) -> None:
        hub.faults = [Fault("POST", "/repos/create", 429, {"Retry-After": "3600"})]
        assert refused(hub, release, slept).endswith("(429); run it again in 3600 s")
        assert not slept

    def test_with_the_network_is_one_sentence(
        self, hub: HubDouble, release: Path, slept: list[float]
    ) -> None:
        hub.url = closed_port()
        assert "cannot be reached (connection refused)" in refused(hub, release, slept)
        assert slept == [1, 2, 4]

    def test_of_someone_elses_commit_in_between_is_told(
        self, hub: HubDouble, release: Path
    ) -> None:
        hub.faults = [Fault("POST", "/commit/", 412)]
        assert "changed by someone else meanwhile (412" in refused(hub, release)

    def test_with_room_is_told(self, hub: HubDouble, release: Path) -> None:
        said = {"X-Error-Message": "Private repository storage limit reached"}
        hub.faults = [Fault("POST", "/objects/batch", 403, said)]
        assert "has no room for" in refused(hub, release)


class TestTroubleWithXet:
    """hf_xet is what uploads on the real Hub; it is not doubled, but its refusals are heard."""

    @pytest.fixture(autouse=True)
    def xet(self, hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("hf_xet")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)

    @pytest.mark.parametrize(
        ("status", "sentence"),
        [
            (403, f"the token may not write to {REPO} (403)"),
            (401, "does not accept the token (401)"),
        ],
    )
    def test_is_one_sentence(
        self, hub: HubDouble, release: Path, slept: list[float], status: int, sentence: str
    ) -> None:
        hub.faults = [Fault("GET", "/xet-write-token/", status)] * 9
        assert sentence in refused(hub, release, slept)
        assert not slept


class TestATokenThat:
    def test_is_missing_is_asked_for(
        self, hub: HubDouble, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.hub.publish.get_token", lambda: None)
        assert refused(hub, release) == "no Hub token: run `hf auth login` or set HF_TOKEN"
        assert not hub.requests

    def test_may_only_read_stops_it_at_once(
        self,
        hub: HubDouble,
        release: Path,
        slept: list[float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
        sentence = refused(hub, release, slept)
        assert f"the token may not write to {REPO} (403" in sentence
        assert "it needs the role 'write'" in sentence
        assert not slept and len(hub.asked("POST")) == 1

    def test_is_no_longer_valid_is_told(
        self, hub: HubDouble, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        assert "does not accept the token (401: Invalid credentials" in refused(hub, release)

    def test_a_server_repeats_is_not_shown(self, hub: HubDouble, release: Path) -> None:
        said = {"X-Error-Message": f"token {WRITE_TOKEN} lacks a right"}
        hub.faults = [Fault("POST", "/repos/create", 403, said)] * 2
        assert "token hf_*** lacks a right" in refused(hub, release)


class TestWhatMustNotBePublished:
    def test_is_an_upload_that_arrived_broken(self, hub: HubDouble, release: Path) -> None:
        hub.damaged = {"lfs"}
        sentence = refused(hub, release)
        assert sentence.startswith("'onnx/model_q4f16.onnx' was not uploaded: ")
        assert "SHA-256" in sentence
        assert on_the_hub(hub) == {}

    def test_is_a_file_that_reads_back_otherwise(self, hub: HubDouble, release: Path) -> None:
        hub.damaged = {"config.json"}
        assert "config.json is not what was sent; run it again" in refused(hub, release)

    def test_is_a_card_that_the_hub_does_not_take(self, hub: HubDouble, release: Path) -> None:
        (release / "README.md").write_text("no front matter", encoding="utf-8")
        assert "Invalid metadata in README.md" in refused(hub, release)
        assert not hub.asked("PUT")

    @pytest.mark.parametrize("name", [".env", "token", "onnx/server.pem", ".git/config"])
    def test_is_a_secret(self, hub: HubDouble, release: Path, name: str) -> None:
        (release / name).parent.mkdir(exist_ok=True)
        (release / name).write_text("x", encoding="utf-8")
        assert name.split("/")[0] in refused(hub, release)
        assert not hub.requests

    def test_is_a_link_that_leads_outside(self, hub: HubDouble, release: Path) -> None:
        (release / "passwords").symlink_to("/etc")
        assert "a link that leads out of" in refused(hub, release)
        assert not hub.requests

    def test_is_an_empty_folder(self, hub: HubDouble, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "publishing it would empty" in refused(hub, tmp_path / "empty")
