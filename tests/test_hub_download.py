"""Weights from the Hub: the real client over real HTTP to tests/hub_double.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.hub import download
from shared.hub.download import HubSource, fetch_snapshot, parse_hub_source
from shared.hub.retries import Sleep
from tests.hub_double import WRITE_TOKEN, Fault, HubDouble, closed_port

REPO = "org/model"
WANTED = {
    "config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": b"weights" * 1000,
    "LICENSE": b"Apache-2.0",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle" * 1000,
    "modeling_custom.py": b"import os",
    "training.pt": b"pickle",
    "onnx/model.safetensors": b"the same in another format",
}


@pytest.fixture
def commit(hub: HubDouble) -> str:
    """A model repository with a tag, and more in it than is wanted."""
    made = hub.add(REPO, WANTED | UNWANTED)
    hub.repos[REPO].tags["v1"] = made
    return made


def fetch(hub: HubDouble, root: Path, revision: str, sleep: Sleep = time.sleep) -> Path:
    return fetch_snapshot(f"hf:{REPO}@{revision}", root / "cache", endpoint=hub.url, sleep=sleep)


def begin(root: Path, whole: bytes, part: bytes) -> None:
    """Leave what a run that was killed within a file leaves of it."""
    blobs = root / "cache" / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(whole).hexdigest()}.part").write_bytes(part)


def fails(hub: HubDouble, root: Path, revision: str, sleep: Sleep = time.sleep) -> str:
    """The sentence; no token may be in it, nor in the traceback."""
    with pytest.raises(RungFailed) as raised:
        fetch(hub, root, revision, sleep)
    assert WRITE_TOKEN not in "".join(traceback.format_exception(raised.value))
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestASpec:
    def test_names_a_repository_and_a_revision(self) -> None:
        assert parse_hub_source("hf:org/name@v1.0") == HubSource("org/name", "v1.0")

    @pytest.mark.parametrize("spec", ["hf:org/name", "hf:org/name@"])
    def test_without_a_revision_is_asked_to_pin_one(self, spec: str) -> None:
        with pytest.raises(UserError, match="pin a revision: hf:org/name@<commit or tag>"):
            fetch_snapshot(spec)

    @pytest.mark.parametrize(
        "spec",
        ["org/name@v1", "hf:name@v1", "hf:a/b/c@v1", "hf:o/n@../x", "hf:o/n@v 1", "hf:-/n@v"],
    )
    def test_of_another_form_is_refused(self, spec: str) -> None:
        with pytest.raises(UserError, match="hf:"):
            parse_hub_source(spec)


class TestASnapshot:
    @pytest.mark.parametrize("by", ["commit", "tag"])
    def test_has_what_is_wanted_and_neither_code_nor_pickles(
        self, hub: HubDouble, root: Path, commit: str, by: str
    ) -> None:
        folder = fetch(hub, root, commit if by == "commit" else "v1")
        assert folder.name == commit
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == WANTED

    def test_goes_on_within_a_file_that_another_run_began(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        """What a killed run leaves lies in the cache, and is not sent again."""
        whole = WANTED["model.safetensors"]
        begin(root, whole, whole[:100])
        folder = fetch(hub, root, commit)
        assert (folder / "model.safetensors").read_bytes() == whole and hub.ranges == [100]

    def test_of_other_bytes_than_the_hub_lists_is_refused_and_thrown_away(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        whole = WANTED["model.safetensors"]
        begin(root, whole, b"x" * 100)
        assert "model.safetensors arrived with other bytes" in fails(hub, root, commit)
        assert (fetch(hub, root, commit) / "model.safetensors").read_bytes() == whole

    def test_gives_no_token_to_the_host_that_stores_the_weights(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        fetch(hub, root, commit)
        assert [r.with_token for r in hub.asked("GET", "/cdn/")] == [False]

    def test_of_a_commit_in_the_cache_asks_the_network_nothing(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        first = fetch(hub, root, commit)
        hub.requests.clear()
        assert fetch(hub, root, commit) == first
        assert not hub.requests

    def test_of_a_tag_in_the_cache_serves_while_the_hub_cannot_be_reached(
        self, hub: HubDouble, root: Path, commit: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = fetch(hub, root, "v1")
        hub.url = closed_port()
        assert fetch(hub, root, "v1") == first
        assert "taken from the cache as last seen" in capsys.readouterr().err

    def test_of_a_branch_whose_commit_was_fetched_by_its_number_is_the_newest_when_offline(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        fetch(hub, root, "main")
        newest = hub.add(REPO, WANTED | {"config.json": b'{"new": 1}'})
        by_number = fetch(hub, root, newest)
        assert fetch(hub, root, "main") == by_number
        hub.url = closed_port()
        assert fetch(hub, root, "main") == by_number

    def test_of_a_branch_that_moved_is_fetched_anew(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        first = fetch(hub, root, "main")
        hub.add(REPO, WANTED | {"config.json": b'{"new": 1}'})
        second = fetch(hub, root, "main")
        assert second != first
        assert (second / "config.json").read_bytes() == b'{"new": 1}'

    def test_that_is_broken_off_is_not_taken_for_whole(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        (fetch(hub, root, commit) / "model.safetensors").unlink()
        assert (fetch(hub, root, commit) / "model.safetensors").is_file()
        hub.url = closed_port()
        assert (fetch(hub, root, commit) / "model.safetensors").is_file()

    def test_survives_a_server_that_fails_once(
        self, hub: HubDouble, root: Path, commit: str
    ) -> None:
        hub.faults = [Fault("GET", "/revision/", 503), Fault("HEAD", "/config.json", 500)]
        slept: list[float] = []
        assert (fetch(hub, root, "v1", slept.append) / "config.json").is_file()
        assert slept == [1] and not hub.faults  # the client itself asks for a file's head twice


class TestARungFails:
    def test_where_there_are_only_pickles(self, hub: HubDouble, root: Path) -> None:
        made = hub.add(REPO, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
        assert fails(hub, root, made) == (
            f"{REPO} has no safetensors weights (found pytorch_model.bin); "
            "convert it with safetensors first"
        )
        assert not hub.asked("GET", "/resolve/")

    def test_at_once_where_nothing_listens(self, hub: HubDouble, root: Path) -> None:
        hub.url = closed_port()
        slept: list[float] = []
        assert "cannot be reached (connection refused)" in fails(hub, root, "v1", slept.append)
        assert not slept, "a second attempt would come after a sleep"

    def test_within_seconds_where_a_firewall_is_silent(
        self, hub: HubDouble, root: Path, commit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "ANSWER_SECONDS", 0.3)
        answers = threading.Event()
        monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: answers.wait())
        assert "cannot be reached (no answer in time)" in fails(hub, root, "v1")
        answers.set()

    def test_where_the_name_is_not_found(
        self, hub: HubDouble, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        hub.url = "http://hub.invalid"
        assert "hub.invalid cannot be reached (its name is not found" in fails(hub, root, "v1")

    def test_where_the_network_is_switched_off(self, root: Path) -> None:
        code = f"from shared.hub.download import *; fetch_snapshot('hf:{REPO}@v1')"
        world = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root)}
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=world,
            cwd=paths.REPOSITORY,
            check=False,
        )
        assert "huggingface.co cannot be reached (HF_HUB_OFFLINE is set)" in run.stderr

    def test_where_the_model_is_gated(self, hub: HubDouble, root: Path) -> None:
        made = hub.add(REPO, WANTED, gated=True)
        assert f"{REPO} is gated: accept its licence at {hub.url}/{REPO}" in fails(hub, root, made)

    def test_where_the_repository_is_not_there(self, hub: HubDouble, root: Path) -> None:
        assert f"{REPO} is not on 127.0.0.1" in fails(hub, root, "v1")

    def test_where_the_revision_is_not_there(self, hub: HubDouble, root: Path, commit: str) -> None:
        assert f"{REPO} has no such revision" in fails(hub, root, "v2")


class TestTheDouble:
    def test_tells_the_client_who_asks_what_is_named_and_what_a_path_holds(
        self, hub: HubDouble, commit: str
    ) -> None:
        api = HfApi(endpoint=hub.url)
        assert api.whoami()["name"] == "writer"
        names = api.list_repo_refs(REPO)
        assert [tag.name for tag in names.tags] == ["v1"]
        assert names.branches[0].target_commit == commit
        found = api.get_paths_info(REPO, ["config.json", "missing", "model.safetensors"])
        assert [item.path for item in found] == ["config.json", "model.safetensors"]
