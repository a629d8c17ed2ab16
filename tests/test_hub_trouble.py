"""What goes wrong while publishing, and what must not be published; against tests/hub_double.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.hub_double import (
    READ_TOKEN,
    WRITE_TOKEN,
    Fault,
    HubDouble,
    closed_port,
)
from tests.hub_release import (
    REPO,
    WEIGHTS,
    on_disk,
    on_the_hub,
    refused,
    send,
    write_release,
)

# The client itself passes open files to httpx2 in a way that httpx2 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


@pytest.fixture
def slept() -> list[float]:
    return []


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

    def test_that_stays_ends_after_four_attempts_and_names_the_request(
        self, hub: HubDouble, release: Path, slept: list[float]
    ) -> None:
        hub.faults = [Fault("PUT", "/lfs/", 503)] * 9
        sentence = refused(hub, release, slept)
        assert f"'{WEIGHTS}' was not uploaded: 127.0.0.1" in sentence
        assert "is in trouble (503: a fault); see status.huggingface.co" in sentence
        assert "[PUT /lfs/" in sentence and sentence.endswith(", tried 4 times]")
        assert slept == [1, 2, 4] and len(hub.asked("PUT")) == 4

    def test_is_told_with_the_request_that_met_it(
        self, hub: HubDouble, release: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hub.faults = [Fault("POST", "/objects/batch", 502)]
        send(hub, release)
        assert f"answers 502 to POST /{REPO}.git/info/lfs/objects/batch; trying" in (
            capsys.readouterr().err
        )

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
    @pytest.mark.parametrize("path", ["/repos/create", "/preupload/", "/merge"])
    def test_of_too_many_requests_waits_as_long_as_the_hub_asks(
        self,
        hub: HubDouble,
        release: Path,
        slept: list[float],
        header: dict[str, str],
        path: str,
    ) -> None:
        hub.faults = [Fault("POST", path, 429, header)]
        send(hub, release, slept)
        assert slept == [7]

    def test_until_a_date_is_waited_for(
        self, hub: HubDouble, release: Path, slept: list[float]
    ) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        hub.faults = [Fault("POST", "/repos/create", 503, {"Retry-After": date})]
        send(hub, release, slept)
        assert 25 < slept[0] <= 30

    def test_of_an_hour_is_told_and_not_waited_for(
        self, hub: HubDouble, release: Path, slept: list[float]
    ) -> None:
        hub.faults = [Fault("POST", "/preupload/", 429, {"Retry-After": "3600"})]
        sentence = refused(hub, release, slept)
        assert "(429); run it again in 3600 s" in sentence and "tried once]" in sentence
        assert not slept

    def test_with_the_network_is_one_sentence(
        self, hub: HubDouble, release: Path, slept: list[float]
    ) -> None:
        hub.url = closed_port()
        assert "cannot be reached (connection refused)" in refused(hub, release, slept)
        assert slept == [1, 2, 4]

    def test_of_a_silent_hub_ends(
        self, hub: HubDouble, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCINTEL_HUB_TIMEOUT_SECONDS", "1")
        hub.faults = [Fault("POST", "/merge", how="silence")] * 9
        sentence = refused(hub, release)
        assert "cannot be reached (no answer in time)" in sentence and "/merge, tried" in sentence

    def test_with_the_setting_of_the_silence_is_told(
        self, hub: HubDouble, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCINTEL_HUB_TIMEOUT_SECONDS", "soon")
        assert "DOCINTEL_HUB_TIMEOUT_SECONDS=soon: must be a number" in refused(hub, release)

    def test_of_another_run_on_the_same_pull_request_is_told(
        self, hub: HubDouble, release: Path
    ) -> None:
        hub.faults = [Fault("POST", "/commit/", 412)]
        assert "changed by someone else meanwhile (412" in refused(hub, release)

    @pytest.mark.parametrize("status", [402, 403, 413, 507])
    def test_with_room_is_told(
        self, hub: HubDouble, release: Path, slept: list[float], status: int
    ) -> None:
        said = {"X-Error-Message": "Private repository storage limit reached"}
        hub.faults = [Fault("POST", "/objects/batch", status, said)]
        sentence = refused(hub, release, slept)
        assert "has no room for" in sentence and "free or buy storage for acme" in sentence
        assert not slept


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
        monkeypatch.setattr("shared.hub.token.get_token", lambda: None)
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
        assert not slept
        asked = [request.path for request in hub.asked("POST")]
        assert asked == ["/api/validate-yaml", "/api/repos/create"]

    def test_is_no_longer_valid_is_told(
        self, hub: HubDouble, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        assert "does not accept the token (401); make one with the role" in refused(hub, release)

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
        assert "config.json is not what was sent; main is untouched" in refused(hub, release)
        assert on_the_hub(hub) == {}

    def test_is_a_card_that_the_hub_does_not_take(self, hub: HubDouble, release: Path) -> None:
        (release / "README.md").write_text("no front matter", encoding="utf-8")
        assert "Invalid metadata in README.md" in refused(hub, release)
        assert not hub.asked("PUT") and hub.repos == {}
        sent = {request.path for request in hub.requests if request.received}
        assert sent == {"/api/validate-yaml"}

    def test_is_anything_with_a_token_that_may_only_read(
        self, hub: HubDouble, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = {"name": "ada", "auth": {"accessToken": {"role": "read"}}}
        monkeypatch.setattr(HfApi, "whoami", lambda self: said)
        assert "the token of ada may only read" in refused(hub, release)
        assert not hub.requests

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
