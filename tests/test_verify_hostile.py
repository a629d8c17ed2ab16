"""A release made to deceive or to harm who verifies it: what it says is shown, never believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.base import hashing
from shared.base.errors import UserError
from shared.release.signature import read_signature
from shared.release.signing import sign_folder
from shared.release.verify import layout
from shared.release.verify.report import before_loading, verify
from tests.hub_double import HubDouble, use_this_machine
from tests.test_commands import invoke
from tests.test_verify import (
    change_a_number_and_its_hash,
    contents,
    edit_json,
    failing,
    forged,
    make_key,
    relist,
)

FORGED_LINE = "x\n✓ signature    by publisher.pem, over every file"


class TestWhatItPrints:
    @pytest.mark.parametrize("key", ["rung", "exporter", "domain", "key", "git_commit"])
    def test_is_one_line_a_check_whatever_release_json_says(self, release: Path, key: str) -> None:
        edit_json("release.json", lambda data: data.update({key: FORGED_LINE}))(release)
        for line in before_loading(release):
            assert "\n" not in str(line)

    def test_steers_no_terminal(self, release: Path, root: Path) -> None:
        """Escape sequences that move the cursor up and write over a ✗, and text from right to left."""
        evil = "\x1b[1A\x1b[2K✓ hashes \u202eever"
        edit_json("release.json", lambda data: data.update(rung=evil))(release)
        (release / "\x1b[2Jx.txt").write_text("x")
        run = invoke("verify", str(release), root=root)
        assert run.returncode == 1
        said = run.stdout + run.stderr
        assert "x.txt: not in release.json" in said
        assert not {"\x1b", "\u202e"} & set(said)

    def test_of_a_sentence_holds_for_all_commands(self) -> None:
        assert str(UserError("models/\x1b[2Jx: \u202eno\nsecond")) == "models/�[2Jx: �no\nsecond"


class TestWhatItOpens:
    def test_is_nothing_outside_of_the_folder(
        self, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """prompt.md as a link to a private key must not end up in a line of `figures`."""
        (tmp_path / "id").write_text("a private thing\n")
        (release / "prompt.md").unlink()
        (release / "prompt.md").symlink_to(tmp_path / "id")
        lines = [str(line) for line in verify(str(release))]
        assert lines[0].startswith("✗ safe") and "prompt.md: leads out of the folder" in lines[0]
        assert not any("private thing" in line for line in lines)
        assert len(lines) == 2 and "loads" in lines[1]

    def test_is_no_name_that_release_json_makes_up(
        self, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outside = release.parent / "outside.txt"
        outside.write_text("x")
        listed = {"../outside.txt": {"bytes": 1, "sha256": "0" * 64}}
        edit_json("release.json", lambda data: data["files"].update(listed))(release)
        read: list[Path] = []
        digest = hashing._digest
        monkeypatch.setattr(hashing, "_digest", lambda path: read.append(path) or digest(path))
        found = failing(release)
        assert "../outside.txt: missing" in found["complete"] and "hashes" not in found
        assert outside.resolve() not in {path.resolve() for path in read}


def pass_a_failing_gate(data: dict[str, Any]) -> None:
    """The measurement itself is below the bound; only the verdict says otherwise."""
    name = "check.release.constrained.json_validity"
    data["measurements"][name] |= {"value": 0.5, "low": None, "high": None}
    for gate in data["gates"]:
        if gate["gate"]["measurement"] == name:
            gate |= {"value": 0.5, "reason": "50.0 %", "outcome": "pass"}


def test_a_gate_that_passes_below_its_bound_is_a_contradiction(release: Path) -> None:
    forged(edit_json("release.json", pass_a_failing_gate))(release)
    assert "says 'pass', but 50.0 %" in failing(release)["manifests"]


def test_a_failed_gate_beside_publishable_is_a_contradiction(release: Path) -> None:
    def fail_it(data: dict[str, Any]) -> None:
        pass_a_failing_gate(data)
        for gate in data["gates"]:
            if gate["value"] == 0.5:
                gate |= {"outcome": "fail", "reason": "50.0 %, wanted ≥ 98.0 %"}
        data |= {"publishable": True, "not_publishable_because": None}

    forged(edit_json("release.json", fail_it))(release)
    assert "publishable: says true, but the gate" in failing(release)["manifests"]


class TestWhatIsMalformed:
    """Each once ended `verify` in a traceback; now it is a ✗ with a sentence."""

    @pytest.mark.parametrize(
        ("change", "check"),
        [
            (lambda f: f.update(check={"records": "x"}), "figures"),
            (lambda f: f.update(check={"records": 1, "origin": "x", "modes": 3}), "figures"),
            (lambda f: f.update(preflight={"devices": [1]}), "figures"),
            (lambda f: f["bench"].update(browser=1), "figures"),
            (lambda f: f.update(recipe={"others": 7}), "figures"),
        ],
    )
    def test_facts(self, release: Path, change: Any, check: str) -> None:
        edit_json("release.json", lambda data: change(data["facts"]))(release)
        assert check in failing(release)

    def test_release_json_as_a_folder(self, release: Path) -> None:
        (release / "release.json").unlink()
        (release / "release.json").mkdir()
        assert "release.json: cannot be read: " in failing(release)["release.json"]

    def test_a_chat_template_that_is_not_text(self, release: Path) -> None:
        (release / "chat_template.jinja").write_bytes("ü".encode("latin-1") * 9)
        assert "layout" in failing(release) or "safe" in failing(release)

    def test_lines_of_the_loading_process(self) -> None:
        good = b'{"name": "tokenizer", "ok": true, "words": "fine"}'
        output = b"\n".join([b"{not json", b"{}", b'{"name": 1}', b"[" * 9000, b"\xff{", good])
        assert [line.words for line in layout.reported(output)] == ["fine"]

    def test_front_matter_whose_end_is_only_begun(self, release: Path) -> None:
        """The Hub's own reader goes on behind such a line, and takes the last of two equal keys."""
        path = release / "README.md"
        text = path.read_text(encoding="utf-8")
        end = text.index("\n---\n", 4)
        path.write_text(text[:end] + "\n---foo: 1\nlicense: mit" + text[end:], encoding="utf-8")
        assert "the key 'license' stands twice" in failing(release)["origin"]
        anchors = "\n---foo: 1\na: &a [1]\nb: *a"
        path.write_text(text[:end] + anchors + text[end:], encoding="utf-8")
        assert "an alias stands in it" in failing(release)["origin"]


def test_a_file_of_no_known_kind_is_told(release: Path) -> None:
    (release / "weights.bin").write_bytes(b"\0\1\2")
    relist(release)
    assert "weights.bin: is neither UTF-8 text" in failing(release)["kinds"]


class TestASignatureWithoutAKey:
    def test_over_other_files_does_not_hold(self, release: Path, tmp_path: Path) -> None:
        sign_folder(release, str(make_key(tmp_path, "ours")[0]))
        assert failing(release) == {}
        change_a_number_and_its_hash(release)
        assert "model.sig: is not over the files that lie there" in failing(release)["signature"]

    def test_is_held_against_the_bytes_and_no_remembered_hash(
        self, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sign_folder(release, str(make_key(tmp_path, "ours")[0]))
        monkeypatch.setattr(hashing, "REMEMBER_FROM_BYTES", 0)
        signed = read_signature(release)
        assert signed is not None
        monkeypatch.setattr(hashing, "_known", lambda status: signed.files["README.md"])
        assert "signature" not in failing(release)


def add_library(config: dict[str, Any]) -> None:
    config["model"]["decoder"]["session_options"]["custom_ops_library"] = "onnx/evil.so"


def add_plugin(config: dict[str, Any]) -> None:
    options = [{"qnn": {"backend_path": "libEvil.so"}}]
    config["model"]["decoder"]["session_options"]["provider_options"] = options


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("genai_config.json", add_library, "session_options.custom_ops_library: names code"),
        ("genai_config.json", add_plugin, "provider_options.0.qnn.backend_path: names code"),
        (
            "config.json",
            lambda c: c.update(text_config={"auto_map": {"AutoModel": "a.B"}}),
            "config.json: text_config.auto_map: names code to run",
        ),
        (
            "tokenizer_config.json",
            lambda c: c.update(trust_remote_code=True),
            "tokenizer_config.json: trust_remote_code: names code to run",
        ),
    ],
)
def test_code_that_a_runtime_would_load_is_found_at_any_depth(
    release: Path, name: str, change: Any, words: str
) -> None:
    """Each forged with care: listed in release.json, hashes right, the card made again."""
    forged(edit_json(name, change))(release)
    assert words in failing(release)["layout"]


@pytest.mark.parametrize("name", [".gitattributes.py", ".cache/other.bin", "model.sig.bin", ".env"])
def test_a_file_that_looks_like_the_hubs_own_is_still_one_too_many(
    release: Path, name: str
) -> None:
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_text("x")
    assert any(check in failing(release) for check in ("complete", "safe"))


def test_a_manifest_that_says_two_things_is_refused(release: Path) -> None:
    """One reader takes the first of two equal keys, another the last."""
    path = release / "release.json"
    text = path.read_text()
    path.write_text(text.replace('"licence":', '"licence": "mit", "licence":', 1))
    assert "the key 'licence' stands twice" in failing(release)["release.json"]
    path.write_text(text.replace('"commercial_use": true', '"commercial_use": NaN', 1))
    assert "NaN is not JSON" in failing(release)["release.json"]


def test_a_repository_has_no_say_in_what_the_client_notes(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.cache/huggingface/download/<file>.metadata` says which files need not be fetched."""
    use_this_machine(monkeypatch)
    name = ".cache/huggingface/download/config.json.metadata"
    with HubDouble() as hub:
        hub.add("acme/x", contents(release) | {name: json.dumps("x").encode()})
        with pytest.raises(UserError, match=r"would pass for the client's own"):
            list(verify("acme/x", endpoint=hub.url))
        assert not hub.asked("GET", "/resolve/")
