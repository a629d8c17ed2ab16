"""What may be published: licence, rung and gates each have their say, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.base.errors import UserError
from shared.base.manifest import FileRecord, Measurement
from shared.domain.domain import load_domain
from shared.domain.settings import Gate
from shared.evaluate.compare import Checked
from shared.pipeline.publication import PublishOptions, publish_release
from shared.release import folder
from shared.release.folder import not_publishable
from shared.release.gates import GateResult, judge
from shared.release.model import ChainResult, Release


def walked(rung: str, gate: dict[str, Any] | None = None, **changes: Any) -> ChainResult:
    domain = load_domain("legal")
    walk = ChainResult(domain, rung=domain.rung(rung).model_copy(update=changes))
    if gate:
        walk.gates = [judged(**gate)]
    return walk


def judged(name: str, outcome: str, blocks: str, **more: Any) -> GateResult:
    value = None if outcome == "not measured" else 0
    bound = Gate(name=name, measurement="s.m", at_least=0.98, blocks=blocks, **more)
    return GateResult(gate=bound, value=value, unit="share", reason="0.0 %", outcome=outcome)


class TestPublishing:
    def test_is_free_for_a_rung_that_passed(self, root: Path) -> None:
        assert not_publishable(walked("smollm3")) is None

    def test_is_refused_for_the_embedded_rung(self, root: Path) -> None:
        assert "rung embedded: publishable is false" in str(not_publishable(walked("embedded")))

    def test_of_a_non_commercial_licence_needs_an_acknowledgement(self, root: Path) -> None:
        sentence = str(not_publishable(walked("qwen2.5-3b")))
        assert "domains/legal/fallback.toml: rung qwen2.5-3b: its licence forbids" in sentence
        assert "set acknowledge_non_commercial = true" in sentence
        acknowledged = walked("qwen2.5-3b", acknowledge_non_commercial=True)
        assert not_publishable(acknowledged) is None

    @pytest.mark.parametrize(("blocks", "stopped"), [("publish", True), ("nothing", False)])
    def test_is_stopped_by_the_gates_that_block_it(
        self, root: Path, blocks: str, stopped: bool
    ) -> None:
        gate = {"name": "JSON validity", "outcome": "fail", "blocks": blocks}
        sentence = not_publishable(walked("smollm3", gate))
        assert (sentence == "gate 'JSON validity' failed: 0.0 %") == stopped

    @pytest.mark.parametrize(
        ("more", "stopped"),
        [
            ({"blocks": "release"}, True),
            ({"blocks": "publish"}, True),
            ({"blocks": "nothing"}, False),
            ({"blocks": "release", "hardware_only": True}, False),
        ],
    )
    def test_is_stopped_by_what_any_machine_could_have_measured(
        self, root: Path, more: dict[str, Any], stopped: bool
    ) -> None:
        gate = {"name": "parity", "outcome": "not measured", **more}
        sentence = not_publishable(walked("smollm3", gate))
        assert (sentence == "gate 'parity': not measured: 0.0 %") == stopped

    def test_is_stopped_by_a_difference_that_could_be_either(self, root: Path) -> None:
        walk = walked("smollm3")
        bound = Gate(name="loss", measurement="s.m", at_least=-0.1, with_confidence=True)
        pair = Measurement(value=-0.25, low=-0.55, high=0.05, unit="points", n=8)
        walk.gates = [judge(bound, pair)]
        assert "n = 8 is too few to tell" in str(not_publishable(walk))
        assert "-25.0 points (-55.0 to +5.0)" in str(not_publishable(walk))

    def test_without_a_gpu_must_be_asked_for(self, root: Path) -> None:
        folder = root / "models" / "legal" / "webgpu"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        speed = judged("decode speed", "not measured", "release", hardware_only=True)
        files = {"config.json": FileRecord(sha256="0" * 64, bytes=2)}
        write_release(folder, files, [speed])
        with pytest.raises(UserError, match=r"gate 'decode speed': not measured.* --without-gpu"):
            publish_release(load_domain("legal"))
        with pytest.raises(UserError, match="not the file that was measured"):
            publish_release(load_domain("legal"), PublishOptions(without_gpu=True))

    def test_needs_a_release(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"release\.json: missing; run `\./inv release` first"):
            publish_release(load_domain("legal"))


def test_a_file_that_was_changed_after_measuring_is_not_published(
    root: Path,
) -> None:
    folder = root / "models" / "legal" / "webgpu"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    files = {"config.json": FileRecord(sha256="0" * 64, bytes=2)}
    write_release(folder, files)
    with pytest.raises(UserError, match=r"webgpu/config\.json: not the file that was measured"):
        publish_release(load_domain("legal"))


def write_release(
    folder: Path, files: dict[str, FileRecord], gates: Sequence[GateResult] = ()
) -> None:
    release = Release(
        **dict.fromkeys(("key", "rung", "licence", "why", "created"), "x"),
        **dict.fromkeys(("git_commit", "git_clean", "not_publishable_because"), None),
        **{key: {} for key in ("manifests", "tools", "measurements", "facts")},
        domain="legal",
        base="acme/x",
        repository="docintel/docintel-legal-x-webgpu",
        prompt_only=False,
        publishable=True,
        gates=list(gates),
        attempts=[],
        files=files,
    )
    (folder / "release.json").write_text(release.model_dump_json())


class TestTheSampleOfACard:
    @pytest.mark.parametrize(("text", "is_shown"), [(None, True), ("Another document.", False)])
    def test_is_an_answer_to_the_domains_own_document_and_not_to_one_of_its_name(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, is_shown: bool
    ) -> None:
        """Records of --records-file may have the ids of ours."""
        domain = load_domain("legal")
        first = domain.records[0]
        asked = {first.id: first.model_dump() | ({"input": text} if text else {})}
        mode = folder.better_mode({})
        line = {"id": first.id, "system": "release", "mode": mode, "text": "{}"}
        checked = Checked(cast(Any, None), asked, [line])
        monkeypatch.setattr(folder, "read_checked", lambda key, whose: checked)
        check = SimpleNamespace(key="k", measurements={})
        result = SimpleNamespace(domain=domain, rung=None, manifests={"check": check})
        found = folder._sample(cast(Any, result))
        assert found["fields"][0] == "issue"
        assert found.get("input") == (first.input if is_shown else None)
