"""`verify` as a stranger runs it: an untouched release passes, each kind of change has its line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from shared.base.errors import UserError
from shared.base.hashing import sha256_now
from shared.base.manifest import FileRecord
from shared.release.card.card import render_card
from shared.release.model import Release, read_release
from shared.release.verify import card
from shared.release.verify.line import Line
from shared.release.verify.report import before_loading, verify
from shared.safety.content import refuse_unsafe
from tests.hub_double import HubDouble, use_this_machine
from tests.test_commands import invoke

Change = Callable[[Path], None]
REPO = "acme/docintel-legal-tiny-webgpu"


def outcome(folder: Path) -> dict[str, Line]:
    return {line.name: line for line in verify(str(folder))}


def failing(folder: Path, public_key: Path | None = None) -> dict[str, str]:
    """The checks that do not hold, and why; without loading."""
    return {x.name: x.words for x in before_loading(folder, public_key) if x.ok is False}


def write(folder: Path, found: Release) -> None:
    (folder / "release.json").write_text(found.model_dump_json(indent=2) + "\n")


def relist(folder: Path) -> None:
    """What a forger would do as well: list the changed files' hashes in release.json."""
    found = read_release(folder)
    for name in found.files:
        if (path := folder / name).is_file():
            found.files[name] = FileRecord(sha256=sha256_now(path), bytes=path.stat().st_size)
        else:
            found.files = {n: r for n, r in found.files.items() if n != name}
    write(folder, found)


def forged(change: Change) -> Change:
    """The change, with hashes and the card's words put right: only its meaning is wrong."""

    def do(folder: Path) -> None:
        change(folder)
        relist(folder)
        found = read_release(folder)
        prompt = (folder / "prompt.md").read_text().strip()
        without = {n: r for n, r in found.files.items() if n != "README.md"}
        text = render_card(found.model_copy(update={"files": without}), prompt)
        (folder / "README.md").write_text(text, encoding="utf-8")
        relist(folder)

    return do


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def do(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    return do


def flip(folder: Path) -> None:
    """One bit in the weights; size and time stamps stay."""
    path = folder / "onnx" / "model_q4f16.onnx_data"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_a_number(folder: Path) -> None:
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8")
    assert "| 100.0 % (" in text
    path.write_text(text.replace("| 100.0 % (", "| 93.7 % (", 1), encoding="utf-8")


def change_a_number_and_its_hash(folder: Path) -> None:
    change_a_number(folder)
    relist(folder)


def swap_two_tokens(data: dict[str, Any]) -> None:
    words = data["model"]["vocab"]
    words["Ġthe"], words["Ġof"] = words["Ġof"], words["Ġthe"]


def lead_out(folder: Path) -> None:
    path = folder / "onnx" / "model_q4.onnx"
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../../../../etc/passwd"
    path.write_bytes(model.SerializeToString())


def unlink(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def set_in(key: str, value: Any) -> Change:
    return edit_json("release.json", lambda data: data.update({key: value}))


def change_a_share(data: dict[str, Any]) -> None:
    data["measurements"]["check.release.constrained.json_validity"]["value"] = 0.01


def shrink_the_size(data: dict[str, Any]) -> None:
    for measured in (data["measurements"], data["attempts"][0]["measured"]):
        for name in measured:
            if name.endswith("q4f16_bytes"):
                measured[name]["value"] = 1000


def make_key(folder: Path, name: str, curve: str = "prime256v1") -> tuple[Path, Path]:
    """(private, public), as the README says to make them."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    make = ["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", str(private)]
    subprocess.run(make, check=True, capture_output=True)
    show = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(show, check=True, capture_output=True)
    return private, public


SPOILT: list[tuple[str, Change, str, str]] = [
    ("a flipped byte in the weights", flip, "hashes", "model_q4f16.onnx_data: not the file that"),
    ("a changed number in the card", change_a_number, "figures", "README.md:"),
    ("that, with its hash", change_a_number_and_its_hash, "figures", "says '"),
    (
        "a swapped tokenizer",
        edit_json("tokenizer.json", swap_two_tokens),
        "hashes",
        "tokenizer.json: not the file that was measured",
    ),
    (
        "that, forged",
        forged(edit_json("tokenizer.json", swap_two_tokens)),
        "source",
        "tokenizer.json is not the one of the weights that were measured",
    ),
    (
        "an extra file",
        lambda folder: (folder / "notes.txt").write_text("hello") and None,
        "complete",
        "notes.txt: not in release.json",
    ),
    (
        "a missing chunk",
        unlink("onnx/model_q4f16.onnx_data"),
        "complete",
        "onnx/model_q4f16.onnx_data: missing",
    ),
    (
        "that, forged",
        forged(unlink("onnx/model_q4f16.onnx_data")),
        "graph q4f16",
        "the graph reads this data file, which is not there",
    ),
    (
        "a chunk too many in config.json",
        forged(
            edit_json(
                "config.json",
                lambda c: c["transformers.js_config"]["use_external_data_format"].update(
                    {"model_q4.onnx": 2}
                ),
            )
        ),
        "graph q4",
        "gives model_q4.onnx 2 data files; there are 1",
    ),
    ("data outside of the folder", forged(lead_out), "graph q4", "reads its data from '../../"),
    (
        "the data that then no graph names",
        forged(lead_out),
        "kinds",
        "model_q4.onnx_data: is neither UTF-8 text, safetensors, an ONNX graph, the data that",
    ),
    (
        "code named in config.json",
        forged(edit_json("config.json", lambda c: c.update(auto_map={"AutoModel": "m.M"}))),
        "layout",
        "config.json: auto_map: names code to run",
    ),
    (
        "another chat template beside",
        forged(lambda folder: (folder / "chat_template.jinja").write_text("{{ 1 }}") and None),
        "layout",
        "chat_template.jinja is not the template of tokenizer_config.json",
    ),
    (
        "another share in release.json",
        edit_json("release.json", change_a_share),
        "figures",
        "release.json leads to",
    ),
    (
        "that, forged",
        forged(edit_json("release.json", change_a_share)),
        "manifests",
        "gate 'JSON validity': says '0.0 %, wanted ≥ 98.0 %', measured was 1.0 %",
    ),
    (
        "a smaller size, forged",
        forged(edit_json("release.json", shrink_the_size)),
        "manifests",
        "package.q4f16_bytes: says 0.0 MB, the files have",
    ),
    (
        "a measurement from nowhere",
        forged(
            edit_json(
                "release.json", lambda r: r["measurements"].update({"wish.speed": {"value": 1}})
            )
        ),
        "manifests",
        "wish.speed: no manifest of the stage 'wish' is named",
    ),
    ("another licence", set_in("licence", "mit"), "origin", "license: says 'apache-2.0'"),
    ("another base", set_in("base", "acme/other"), "origin", "base_model: says 'HuggingFaceTB"),
    (
        "no front matter",
        lambda folder: (folder / "README.md").write_text("# A model\n") and None,
        "origin",
        "README.md: has no front matter",
    ),
    (
        "a link",
        lambda folder: (
            (folder / "schema.json").unlink() or (folder / "schema.json").symlink_to("config.json")
        ),
        "safe",
        "schema.json: a link; a release holds plain files",
    ),
    (
        "a pickle",
        lambda folder: (
            (folder / "onnx" / "model_q4.onnx_data").write_bytes(
                b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93."
            )
            and None
        ),
        "safe",
        "onnx/model_q4.onnx_data: holds a pickle, which can run code when read",
    ),
    (
        "a card template that loops",
        set_in("card_template", "{% for a in 'x' * 9 %}{% endfor %}"),
        "figures",
        "domains/legal/card.md:1: only {{ name }} and {% if name %} may stand here, found for",
    ),
    ("no manifest", unlink("release.json"), "release.json", "release.json: missing"),
    (
        "a manifest with another key",
        set_in("lisence", "mit"),
        "release.json",
        "lisence: unknown key; did you mean 'licence'?",
    ),
    (
        "a manifest whose version is no number",
        set_in("version", "three"),
        "release.json",
        "version: Input should be 4 (found 'three')",
    ),
]


@pytest.mark.parametrize(
    ("change", "check", "words"), [c[1:] for c in SPOILT], ids=[c[0] for c in SPOILT]
)
def test_verify_fails_on(release: Path, change: Change, check: str, words: str) -> None:
    change(release)
    lines = outcome(release)
    assert lines[check].ok is False and words in lines[check].words, lines[check].words
    assert not any(name.startswith("loads ") for name in lines), "loaded all the same"


def test_a_digit_changed_anywhere_in_the_card_fails(release: Path) -> None:
    """Every third digit of the whole file, front matter, tables, prompt and snippets alike."""
    path, found = release / "README.md", read_release(release)
    text = path.read_text(encoding="utf-8")
    assert "the same, with all" in card.figures(release, found)
    for at in [i for i, letter in enumerate(text) if letter.isdecimal()][::3]:
        other = str((int(text[at]) + 1) % 10)
        path.write_text(text[:at] + other + text[at + 1 :], encoding="utf-8")
        with pytest.raises(UserError, match=r"README\.md:"):
            card.figures(release, found)


class TestACardOfAnotherVersionOfTheCode:
    def line(self, folder: Path, old: str, new: str) -> Line:
        """What is said of a card in which `old` was replaced, once, and whose hash was put right."""
        path = folder / "README.md"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        set_in("card_code", "another")(folder)
        relist(folder)
        return next(line for line in before_loading(folder) if line.name == "figures")

    def test_may_have_other_words_but_is_never_said_to_hold(self, release: Path) -> None:
        line = self.line(release, "No browser was at hand.", "It beats every model there is.")
        assert line.ok is None
        assert "made by another version of the card's code" in line.words
        commit = read_release(release).git_commit
        assert f"check out commit {(commit or 'unknown')[:12]} to compare" in line.words

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("| 100.0 % (", "| 93.7 % (", "states '93.7 %' where release.json leads to '100.0 %'"),
            ("| 100.0 % (", "| -100.0 % (", "states '-100.0 %' where"),
            ("not measured", "31.5 tokens/s", "leads to 'not measured'"),
            ("No browser was at hand.", "It is 3 times as fast.", "states '3' where"),
        ],
    )
    def test_must_have_the_same_figures_in_the_same_order(
        self, release: Path, old: str, new: str, words: str
    ) -> None:
        line = self.line(release, old, new)
        assert line.ok is False and words in line.words, line.words

    def test_must_not_swap_two_of_them(self, release: Path) -> None:
        text = (release / "README.md").read_text(encoding="utf-8")
        sizes = [f"{r.bytes:,}" for n, r in read_release(release).files.items() if ".onnx" in n]
        a, b = sizes[0], next(size for size in sizes if size != sizes[0])
        row = text[text.index(a) : text.index(b) + len(b)] if text.index(a) < text.index(b) else ""
        row = row or text[text.index(b) : text.index(a) + len(a)]
        swapped = row.replace(a, "@").replace(b, a).replace("@", b)
        assert self.line(release, row, swapped).ok is False


@pytest.mark.slow
class TestAnUntouchedRelease:
    def test_passes_and_is_loaded(self, release: Path) -> None:
        lines = outcome(release)
        assert {n: line.ok for n, line in lines.items() if line.ok is not True} == {
            "signature": None
        }
        assert "a session on the CPU" in lines["loads q4f16"].words
        assert "unsigned" in lines["signature"].words

    def test_passes_over_http_without_a_token(
        self, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_this_machine(monkeypatch)
        monkeypatch.delenv("HF_TOKEN")
        with HubDouble() as hub:
            commit = hub.add(REPO, contents(release))
            hub.repos[REPO].refs["v1"] = commit
            found = {line.name: line for line in verify(f"{REPO}@v1", endpoint=hub.url)}
            assert [n for n, line in found.items() if line.ok is not True] == ["signature"]
            assert found["download"].words.startswith(f"{REPO} at {commit[:12]}: 17 files")
            hub.requests.clear()
            again = list(verify(f"{REPO}@v1", endpoint=hub.url))
            assert all(line.ok is not False for line in again)
            assert not hub.asked("GET", "/cdn/"), "weights fetched twice"

    def test_prints_a_line_a_check_and_ends_with_0(self, release: Path, root: Path) -> None:
        run = invoke("verify", str(release), root=root)
        assert run.returncode == 0, run.stdout + run.stderr
        assert all(line[0] in "✓–" for line in run.stdout.splitlines())

    def test_ends_with_1_and_a_sentence_once_touched(self, release: Path, root: Path) -> None:
        flip(release)
        run = invoke("verify", str(release), root=root)
        assert run.returncode == 1 and "Traceback" not in run.stderr
        assert run.stderr.strip() == f"error: {release}: 1 check did not hold; see ✗ above"


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_release_folder_holds_nothing_unsafe(pristine: Path) -> None:
    refuse_unsafe(pristine)
