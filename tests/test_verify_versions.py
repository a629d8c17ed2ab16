"""A release made by another version of the code is checked as far as its files go, and is not false.

tests/golden/release-2.json is what the code wrote when release.json had version 2; only the
measurements that no gate names were left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.base.errors import UserError
from shared.base.hashing import sha256_now
from shared.domain.domain import load_domain
from shared.pipeline.one_domain import read_attempts
from shared.pipeline.publication import publish_release
from shared.release.folder import check_of
from shared.release.model import Listing, OtherVersion, read_release
from shared.release.signing import sign_folder
from shared.release.verify.report import before_loading, verify
from tests.test_commands import invoke
from tests.test_verify import Change, flip, forged, make_key, set_in, unlink

GOLDEN = Path(__file__).parent / "golden" / "release-2.json"
WORDS = "made by another version of this code (release.json version 2, this one reads 4)"


@pytest.fixture
def old(release: Path) -> Path:
    """The golden release.json over this machine's files: their bytes, and so hashes, are its own.

    Version 2 wrote no grammar.ebnf and no docintel.mjs.
    """
    data = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(data["files"]) == set(read_release(release).files) - {
        "grammar.ebnf",
        "docintel.mjs",
    }
    for later in ("grammar.ebnf", "docintel.mjs"):
        (release / later).unlink()
    for name in data["files"]:
        path = release / name
        data["files"][name] = {"sha256": sha256_now(path), "bytes": path.stat().st_size}
    (release / "release.json").write_text(json.dumps(data), encoding="utf-8")
    return release


def marks(folder: Path) -> dict[str, bool | None]:
    return {line.name: line.ok for line in before_loading(folder)}


class TestVerify:
    def test_says_what_it_did_not_check_and_finds_nothing_false(self, old: Path) -> None:
        lines = {line.name: line for line in before_loading(old)}
        unchecked = [name for name, line in lines.items() if line.ok is None]
        assert unchecked == ["release.json", "signature", "figures", "manifests", "grammar"]
        for name in ("release.json", "figures", "manifests"):
            commit = json.loads(GOLDEN.read_text())["git_commit"][:12]
            assert lines[name].words == f"not checked: {WORDS}; check out commit {commit}"
        assert not [name for name, line in lines.items() if line.ok is False]

    def test_says_the_same_of_one_from_before_the_card_was_folded(self, release: Path) -> None:
        """Its card.md names places that a card no longer has, and it has no docintel.mjs."""
        data = json.loads((release / "release.json").read_text(encoding="utf-8"))
        data |= {"version": 3, "card_template": "{{ usage_js_constrained }}"}
        del data["files"]["docintel.mjs"]
        (release / "docintel.mjs").unlink()
        (release / "release.json").write_text(json.dumps(data), encoding="utf-8")
        lines = {line.name: line for line in before_loading(release)}
        assert not [name for name, line in lines.items() if line.ok is False]
        assert "(release.json version 3, this one reads 4)" in lines["figures"].words

    @pytest.mark.parametrize(
        ("change", "check"),
        [
            (flip, "hashes"),
            (unlink("schema.json"), "complete"),
            (lambda folder: (folder / "more.txt").write_text("x") and None, "complete"),
            (lambda folder: (folder / ".env").write_text("x") and None, "safe"),
            (lambda folder: (folder / "README.md").write_text("# A model") and None, "origin"),
        ],
    )
    def test_still_finds(self, old: Path, change: Change, check: str) -> None:
        change(old)
        assert marks(old)[check] is False

    def test_still_checks_the_signature(self, old: Path, tmp_path: Path) -> None:
        private, public = make_key(tmp_path, "ours")
        sign_folder(old, str(private))
        found = {line.name: line for line in before_loading(old, public)}
        assert found["signature"].ok is True
        flip(old)
        assert {line.name: line for line in before_loading(old, public)}["signature"].ok is False

    @pytest.mark.parametrize("files", [7, {"config.json": "x"}, None])
    def test_is_false_where_not_even_the_files_are_listed(self, old: Path, files: Any) -> None:
        data = json.loads((old / "release.json").read_text()) | {"files": files}
        (old / "release.json").write_text(json.dumps(data))
        assert marks(old) == {"safe": True, "release.json": False}

    @pytest.mark.slow
    def test_loads_it_and_ends_with_0(self, old: Path, root: Path) -> None:
        run = invoke("verify", str(old), root=root)
        assert run.returncode == 0, run.stdout + run.stderr
        assert {line.name: line.ok for line in verify(str(old))}["loads q4f16"] is True


@pytest.mark.parametrize(
    "read",
    [
        read_release,
        lambda folder: check_of(str(folder)),
        lambda _: publish_release(load_domain("legal")),
    ],
)
def test_whoever_else_reads_it_is_told_to_make_it_again(
    old: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(UserError) as raised:
        read(old)
    assert str(raised.value).endswith(f"release.json: {WORDS}; run `./inv release` again")


def test_what_it_says_of_its_files_is_known(old: Path) -> None:
    with pytest.raises(OtherVersion) as raised:
        read_release(old)
    listing = raised.value.listing
    assert type(listing) is Listing and (listing.version, listing.domain) == (2, "legal")


@pytest.mark.parametrize("command", ["card --domain legal", "publish --domain legal --dry-run"])
def test_a_command_says_so_in_one_sentence(old: Path, root: Path, command: str) -> None:
    run = invoke(*command.split(), root=root)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert run.stderr.strip().endswith(f"{WORDS}; run `./inv release` again")


def test_status_says_so_and_leaves_old_attempts_alone(old: Path, root: Path) -> None:
    attempts = json.loads(GOLDEN.read_text())["attempts"]
    file = root / "build" / "attempts" / "legal.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(attempts))
    assert read_attempts("legal") == []
    run = invoke("status", root=root)
    assert run.returncode == 0 and "another version of this code" in " ".join(run.stdout.split())


def test_a_module_that_is_not_the_cards_own_fails_or_is_never_said_to_hold(release: Path) -> None:
    """docintel.mjs is code that a reader runs: listed or not, it is what the card's code writes."""
    path = release / "docintel.mjs"
    forged(lambda _: path.write_text("fetch('https://example.com');\n") and None)(release)
    found = {line.name: line for line in before_loading(release)}["figures"]
    assert found.ok is False and found.words.startswith("docintel.mjs: not the one")
    forged(set_in("card_code", "another"))(release)
    assert {line.name: line for line in before_loading(release)}["figures"].ok is None
