"""`verify org/name`: what the Hub gives, held against what was measured and signed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.release.signing import sign_folder
from shared.release.verify.remote import fetch
from shared.release.verify.report import verify
from tests.hub_double import HubDouble, use_this_machine
from tests.test_verify import (
    REPO,
    Change,
    change_a_number,
    contents,
    edit_json,
    flip,
    forged,
    make_key,
    swap_two_tokens,
    unlink,
)


def sign_again(folder: Path) -> None:
    """With a key of one's own."""
    (folder / "model.sig").unlink()
    sign_folder(folder, str(make_key(folder.parents[2], "theirs")[0]))


SPOILT: list[tuple[str, Change, set[str]]] = [
    ("a flipped byte in the weights", flip, {"hashes", "signature"}),
    ("a changed number in the card", change_a_number, {"hashes", "figures", "signature"}),
    (
        "a swapped tokenizer",
        edit_json("tokenizer.json", swap_two_tokens),
        {"hashes", "signature"},
    ),
    (
        "a swapped tokenizer, listed and told",
        forged(edit_json("tokenizer.json", swap_two_tokens)),
        {"source", "signature"},
    ),
    (
        "an extra file",
        lambda folder: (folder / "extra.txt").write_text("x") and None,
        {"complete", "signature"},
    ),
    ("a missing chunk", unlink("onnx/model_q4.onnx_data"), {"complete", "graph q4", "signature"}),
    ("a wrong signature", sign_again, {"signature"}),
    ("a forged release that holds together", forged(flip), {"signature"}),
]


@pytest.fixture
def public(release: Path, root: Path) -> Path:
    """The public half of the key that signed the release."""
    private, public = make_key(root, "ours")
    sign_folder(release, str(private))
    return public


class TestOverHttp:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
        use_this_machine(monkeypatch)
        with HubDouble() as double:
            yield double

    @pytest.mark.parametrize(
        ("change", "checks"), [row[1:] for row in SPOILT], ids=[row[0] for row in SPOILT]
    )
    def test_verify_fails_on(
        self, release: Path, hub: HubDouble, public: Path, change: Change, checks: set[str]
    ) -> None:
        """The release was signed, then spoilt, and whoever did it put it on the Hub."""
        change(release)
        hub.add(REPO, contents(release))
        lines = list(verify(REPO, public_key=public, endpoint=hub.url))
        assert {line.name for line in lines if line.ok is False} == checks
        assert lines[0].name == "download" and lines[0].ok, "the Hub gave what it lists"
        assert lines[-1].words.startswith("not tried")

    def test_what_was_damaged_since_it_was_fetched_is_fetched_again(
        self, release: Path, hub: HubDouble
    ) -> None:
        hub.add(REPO, contents(release))
        fetch(REPO, endpoint=hub.url)
        weights = next((release.parents[2] / "build" / "verify").rglob("model_q4.onnx_data"))
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        failed = {x.name for x in verify(REPO, endpoint=hub.url) if x.ok is False}
        assert failed == set() and weights.read_bytes() == content

    def test_a_repository_that_is_not_there_is_a_sentence(self, root: Path, hub: HubDouble) -> None:
        with pytest.raises(UserError, match=r"acme/none is not on 127\.0\.0\.1"):
            list(verify("acme/none", endpoint=hub.url))

    @pytest.mark.parametrize("target", ["models/legal/webgpu", "a/b@../c", "x", "-/y@v", "a/b@"])
    def test_neither_folder_nor_repository_is_a_sentence(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, target: str
    ) -> None:
        monkeypatch.chdir(root)  # where whoever runs the tests has a release of that name
        with pytest.raises(UserError, match="neither a folder nor a repository; write org/name"):
            list(verify(target))
