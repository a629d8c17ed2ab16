"""Loading a stranger's release: in a process of its own, without tokens, within a time, sandboxed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths
from shared.base.cpu import THREAD_VARIABLES
from shared.release.verify import layout
from shared.release.verify.limits import LARGEST_OUTPUT
from tests.test_verify import edit_json


@pytest.mark.slow
class TestLoading:
    def test_that_does_not_end_is_a_line(self, release: Path) -> None:
        (line,) = layout.loads(release, seconds=0.05)
        assert line.ok is False and line.words.startswith("had not loaded after")

    def test_that_takes_more_memory_than_is_allowed_is_a_line(
        self, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(layout, "BASE_MEMORY", 100_000_000)
        monkeypatch.setattr(layout, "THREAD_MEMORY", 0)
        for name in THREAD_VARIABLES:  # with a thread alone it comes as far as an import that fails
            monkeypatch.delenv(name, raising=False)
        lines = list(layout.loads(release))
        assert lines and not any(line.ok for line in lines if line.name.startswith("loads"))
        assert lines[-1].words.startswith("the process that loads it ended with")

    def test_that_fails_is_a_line_for_each(self, release: Path) -> None:
        (release / "onnx" / "model_q4.onnx").write_bytes(b"not a graph")
        (release / "tokenizer.json").write_text("{}")
        lines = {line.name: line for line in layout.loads(release)}
        assert [name for name, line in lines.items() if line.ok is False] == [
            "tokenizer",
            "loads q4",
        ]

    def test_keeps_tokens_and_keys_from_the_process(
        self, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, str] = {}

        def run(*_: Any, env: dict[str, str], **__: Any) -> Any:
            seen.update(env)
            raise subprocess.TimeoutExpired("x", 1)

        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
        monkeypatch.setenv("DOCINTEL_SIGNING_KEY", "key.pem")
        monkeypatch.setenv("DOCINTEL_SIGNING_PASSWORD", "sesame")
        monkeypatch.setattr(subprocess, "run", run)
        list(layout.loads(release))
        assert "HF_HUB_OFFLINE" in seen
        assert not [name for name in seen if name == "HF_TOKEN" or "SIGNING" in name]
        assert "sesame" not in seen.values()

    @pytest.mark.parametrize(
        "template",
        [
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
            "{% for a in range(999999) %}{% endfor %}",
        ],
    )
    def test_renders_templates_in_a_sandbox(self, release: Path, template: str) -> None:
        for name in ("tokenizer_config.json", "chat_template.jinja"):
            path = release / name
            if name.endswith(".json"):
                edit_json(name, lambda c: c.update(chat_template=template))(release)
            else:
                path.write_text(template)
        line = next(line for line in layout.loads(release) if line.name == "tokenizer")
        assert line.ok is False
        assert "unsafe" in line.words or "Range too big" in line.words, line.words


LIMITED = """
from shared.release.verify.limits import limit_this_process
limit_this_process({memory})
{then}
"""


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("bytearray(3_000_000_000)", "MemoryError"),
        ("for _ in range(5000): print('x' * 1000, flush=True)", "File too large"),
    ],
)
def test_a_process_with_limits_goes_no_further(tmp_path: Path, then: str, words: str) -> None:
    """Its memory and what it writes both end, and what it had written is not above the limit."""
    code = LIMITED.format(memory=2_000_000_000, then=then)
    output = tmp_path / "output"
    with output.open("wb") as file:
        run = subprocess.run(
            [sys.executable, "-c", code],
            stdout=file,
            stderr=subprocess.PIPE,
            cwd=paths.REPOSITORY,
            check=False,
        )
    assert run.returncode != 0 and words.encode() in run.stderr
    assert output.stat().st_size <= LARGEST_OUTPUT
