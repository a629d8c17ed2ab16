"""From a release folder to the Hub and back: what was published is what a stranger verifies.

The release is real (a tiny model, by the real stages); the Hub is tests/hub_double.py over real HTTP.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.base.errors import UserError
from shared.base.hashing import NotDone, only_what_is_done, sha256_files
from shared.domain.domain import load_domain
from shared.pipeline.publication import PublishOptions, plan_publication, publish_release
from shared.release.model import read_release
from shared.release.signing import sign_folder
from shared.release.verify.report import before_loading
from tests.hub_double import HubDouble, use_this_machine
from tests.test_commands import invoke
from tests.test_verify import edit_json, flip, forged, make_key

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "docintel/docintel-legal-smollm3-3b-webgpu"
ACME = NAME.replace("docintel/", "acme/")


def open_the_gates(data: dict[str, Any]) -> None:
    """What fails blocks nothing, so that `publishable` does not contradict it."""
    data |= {"publishable": True, "not_publishable_because": None}
    for gate in data["gates"]:
        if gate["outcome"] == "fail":
            gate["gate"]["blocks"] = "nothing"


@pytest.fixture
def hub(release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """An empty Hub, and a release whose gates let it be published."""
    forged(edit_json("release.json", open_the_gates))(release)
    use_this_machine(monkeypatch)
    monkeypatch.delenv("DOCINTEL_HUB_ORG", raising=False)
    monkeypatch.delenv("DOCINTEL_SIGNING_KEY", raising=False)
    with HubDouble() as double:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", double.url)
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        yield double


@pytest.fixture
def public(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signing key is configured; the public half of it."""
    private, public = make_key(root, "ours")
    monkeypatch.setenv("DOCINTEL_SIGNING_KEY", str(private))
    return public


def publish(org: str | None = None) -> int:
    """The bytes that were sent."""
    return publish_release(load_domain("legal"), PublishOptions(org=org)).bytes_sent or 0


def refused(org: str | None = None) -> str:
    with pytest.raises(UserError) as raised:
        publish(org)
    return str(raised.value)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def on_the_hub(hub: HubDouble, name: str = NAME) -> dict[str, bytes]:
    return {n: content for n, content in hub.files(name).items() if n != ".gitattributes"}


@pytest.mark.slow
def test_what_is_published_is_verified_by_its_name_and_signature(
    hub: HubDouble, release: Path, public: Path, root: Path
) -> None:
    sign_folder(release)
    publish()
    assert on_the_hub(hub) == contents(release)
    hub.requests.clear()
    words = ("verify", f"{NAME}@v1", "--public-key", str(public))
    stranger = {"HF_TOKEN": "", "DOCINTEL_SIGNING_KEY": "", "HF_HUB_DISABLE_XET": "1"}
    run = invoke(*words, root=root, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", **stranger)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = {line.split()[1]: line[0] for line in run.stdout.splitlines()}
    assert set(lines.values()) == {"✓"}
    assert {"download", "signature", "figures", "loads"} <= lines.keys()
    assert not any(request.with_token for request in hub.requests)


class TestASignedRelease:
    def test_published_twice_sends_nothing_the_second_time(
        self, hub: HubDouble, release: Path, public: Path
    ) -> None:
        sign_folder(release)
        publish()
        hub.requests.clear()
        sign_folder(release)
        assert publish() == 0
        assert {r.method for r in hub.requests} == {"GET"}

    def test_in_which_the_card_changed_sends_three_files_and_no_weights(
        self, hub: HubDouble, release: Path, public: Path
    ) -> None:
        """release.json has the card's hash, the signature has release.json's: they must go too."""
        sign_folder(release)
        publish()
        sent = hub.keeper.sent
        words = edit_json(
            "release.json", lambda r: r.update(card_template="# {{ title }}\n\nNew.\n")
        )
        forged(words)(release)
        sign_folder(release)
        three = [(release / n).stat().st_size for n in ("README.md", "release.json", "model.sig")]
        assert publish() == sum(three) == hub.keeper.sent - sent
        assert on_the_hub(hub) == contents(release)

    def test_that_was_changed_since_is_refused(
        self, hub: HubDouble, release: Path, public: Path
    ) -> None:
        sign_folder(release)
        forged(edit_json("release.json", lambda r: r.update(why="another reason")))(release)
        assert "model.sig: is not over the files that lie there" in refused()
        assert not hub.requests

    def test_by_another_key_is_refused(
        self, hub: HubDouble, release: Path, public: Path, tmp_path: Path
    ) -> None:
        (release / "model.sig").write_bytes(_signature_by(make_key(tmp_path, "old")[0], release))
        assert "was made with another key than" in refused()

    def test_that_lost_its_signature_is_refused_where_there_is_a_key(
        self, hub: HubDouble, release: Path, public: Path
    ) -> None:
        assert "model.sig: missing, though there is a signing key" in refused()

    def test_is_not_read_again_to_see_that_it_is_signed(
        self, release: Path, public: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An unchanged `release-all` reads no weights, with a signing key as without one."""
        time.sleep(0.05)  # a file changed a moment ago is hashed again: see shared/base/hashing.py
        sha256_files(release, read_release(release).files)  # as making a release does
        with only_what_is_done(), pytest.raises(NotDone):
            sign_folder(release)
        sign_folder(release)
        monkeypatch.setattr(
            "shared.release.signing._signer", lambda key: pytest.fail("signed again")
        )
        with only_what_is_done():
            assert sign_folder(release)


def _signature_by(key: Path, folder: Path) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCINTEL_SIGNING_KEY", str(key))
        sign_folder(folder)
    return (folder / "model.sig").read_bytes()


class TestAnotherOrganisation:
    def test_gets_a_card_that_names_its_own_repository(
        self, hub: HubDouble, release: Path, public: Path
    ) -> None:
        sign_folder(release)
        before = contents(release)
        publish("acme")
        assert contents(release) == before, "the release folder itself stays as it was measured"
        theirs = on_the_hub(hub, ACME)
        assert ACME in theirs["README.md"].decode() and NAME not in theirs["README.md"].decode()
        assert {n for n in before if before[n] != theirs[n]} == {
            *("README.md", "release.json", "model.sig")
        }
        assert not any(r.path.startswith(f"/api/models/{NAME}") for r in hub.requests)

    def test_holds_a_release_that_verifies(
        self, hub: HubDouble, release: Path, public: Path, root: Path
    ) -> None:
        sign_folder(release)
        publish("acme")
        there = root / "fetched"
        for name, content in on_the_hub(hub, ACME).items():
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            (there / name).write_bytes(content)
        assert [x for x in before_loading(there, public) if x.ok is not True] == []
        assert read_release(there).repository == ACME

    def test_is_sent_nothing_the_second_time(
        self, hub: HubDouble, release: Path, public: Path
    ) -> None:
        sign_folder(release)
        assert publish("acme") > 0
        assert publish("acme") == 0

    def test_is_planned_without_a_word_to_the_hub_that_changes_it(
        self, hub: HubDouble, release: Path
    ) -> None:
        found = plan_publication(load_domain("legal"), PublishOptions(org="acme"))
        assert found.repo_id == ACME and found.is_new
        assert {r.method for r in hub.requests} == {"GET"} and not hub.repos

    def test_is_refused_a_signed_release_without_the_key_that_signs_its_copy(
        self, hub: HubDouble, release: Path, public: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sign_folder(release)
        monkeypatch.delenv("DOCINTEL_SIGNING_KEY")
        assert f"is signed as {NAME}; to publish it as {ACME} its key is needed" in refused("acme")

    def test_gets_no_stale_copy(self, hub: HubDouble, release: Path) -> None:
        """Weights that changed since the copy was made, under the same release.json otherwise."""
        publish("acme")
        flip(release)
        forged(lambda folder: None)(release)
        publish("acme")
        name = "onnx/model_q4f16.onnx_data"
        assert on_the_hub(hub, ACME)[name] == (release / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "schema.json",
            b'{"note": "hf_' + b"aBcD" * 9 + b'"}',
            "looks like a secret (a Hub token)",
        ),
        ("onnx/model_q4.onnx_data", pickle.dumps({"a": print}), "holds a pickle"),
    ],
)
def test_what_must_not_leave_is_refused_though_release_json_lists_it(
    hub: HubDouble, release: Path, name: str, content: bytes, words: str
) -> None:
    (release / name).unlink()  # the copy may be linked
    (release / name).write_bytes(content)
    forged(lambda folder: None)(release)
    assert words in refused()
    assert not hub.requests
