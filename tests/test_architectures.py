"""docs/architectures.md says of each model type what the graph contract says of it."""

from __future__ import annotations

import pytest

from benchmarks import architectures
from shared.olive.graph.architecture import NEEDED
from tests.events import CEILING_SECONDS

SAMPLE = ("llama", "qwen2", "phi3", "granite", "helium", "bart", "gemma2", "stablelm")


class TestTheDocument:
    @pytest.mark.parametrize("model_type", SAMPLE)
    def test_says_what_the_code_does(self, model_type: str) -> None:
        row = architectures.row(model_type, architectures.verdict_of(model_type))
        assert row in architectures.DOCUMENT.read_text(encoding="utf-8")

    def test_has_a_row_for_every_type_that_both_know(self) -> None:
        text = architectures.DOCUMENT.read_text(encoding="utf-8")
        names = [line.split("|")[1].strip() for line in text.splitlines() if "|" in line]
        assert names[2:] == architectures.model_types()

    def test_builds_what_people_bring(self) -> None:
        found = architectures.built(architectures.DOCUMENT.read_text(encoding="utf-8"))
        assert found >= {
            *("llama", "qwen2", "qwen3", "smollm3", "mistral"),
            *("gemma", "granite", "olmo2", "starcoder2", "phi3"),
        }

    @pytest.mark.slow
    def test_is_what_all_types_give(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(architectures, "SECONDS", CEILING_SECONDS)
        found = dict(architectures.verdicts(architectures.model_types()))
        assert architectures.document(found) == architectures.DOCUMENT.read_text(encoding="utf-8")
        assert all(
            verdict.refusal or min(verdict.prefill or 0, verdict.decode or 0) >= NEEDED
            for verdict in found.values()
        )
