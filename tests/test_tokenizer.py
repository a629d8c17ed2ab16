"""A folder's tokenizer is tried before anything is built on it; each refusal is one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base.errors import RungFailed
from shared.source.tokenizer import (
    Tokenizer,
    load_tokenizer,
    refuse_tokens_beyond,
    stop_tokens,
    usable_tokenizer,
)
from tests.tiny import VOCABULARY

ROWS = VOCABULARY


@pytest.fixture
def folder(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("qwen2"), tmp_path / "merged"))


def refusal(folder: Path, rows: int = ROWS) -> str:
    with pytest.raises(RungFailed) as caught:
        refuse_tokens_beyond(rows, folder, usable_tokenizer(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_template(folder: Path, text: str) -> Path:
    (folder / "chat_template.jinja").write_text(text)
    return folder


def test_a_good_one_is_taken(folder: Path) -> None:
    refuse_tokens_beyond(ROWS, folder, usable_tokenizer(folder))


class TestAChatTemplate:
    def test_that_refuses_a_system_message_is_refused_in_its_own_words(self, folder: Path) -> None:
        no = "{{ raise_exception('System role not supported') }}"
        with_template(folder, "{% if messages[0].role == 'system' %}" + no + "{% endif %}")
        sentence = refusal(folder)
        assert "chat_template.jinja: chat_template: cannot render" in sentence
        assert "System role not supported" in sentence

    @pytest.mark.parametrize(
        "text", ["{% for m in messages %}{{ m.content }}", "{{ messages[", "{%"]
    )
    def test_that_is_cut_short_is_refused(self, folder: Path, text: str) -> None:
        assert "cannot render a system prompt and a question" in refusal(
            with_template(folder, text)
        )

    def test_that_loses_the_system_prompt_is_refused(self, folder: Path) -> None:
        assert "leaves out the system prompt" in refusal(
            with_template(folder, "{{ messages[-1].content }}")
        )

    def test_that_loses_the_question_is_refused(self, folder: Path) -> None:
        assert "leaves out what the user says" in refusal(
            with_template(folder, "{{ messages[0].content }}")
        )

    def test_that_leaves_reasoning_open_is_refused(self, folder: Path) -> None:
        open_end = "{{ messages[0].content }}{{ messages[1].content }}<think>\n"
        said = refusal(with_template(folder, open_end))
        assert "opens each answer with <think>, and no option of ours closes it" in said

    def test_that_would_run_code_is_refused(self, folder: Path) -> None:
        code = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
        assert "cannot render" in refusal(with_template(folder, code))


class TestAStopToken:
    @pytest.mark.parametrize("token", [ROWS, -1, "<end>", [2, ROWS + 5]])
    def test_beyond_the_vocabulary_is_refused_by_file_and_key(
        self, folder: Path, token: object
    ) -> None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": token}))
        sentence = refusal(folder)
        assert "generation_config.json: eos_token_id:" in sentence and str(ROWS) in sentence

    def test_is_found_in_every_file_that_names_one(self, folder: Path) -> None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
        assert {0, 2, 7} <= stop_tokens(folder, load_tokenizer(folder)).keys()


def test_more_tokens_than_rows_are_refused(folder: Path) -> None:
    assert f"{ROWS} tokens, but the model has only 100 rows" in refusal(folder, rows=100)


def test_a_tokenizer_cut_short_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:1000])
    assert "tokenizer.json: no tokenizer can be loaded from it" in refusal(folder)


class TestTheTokenThatEndsAnAnswer:
    def test_is_the_one_that_the_template_closes_it_with(self, folder: Path) -> None:
        """Phi-3's eos ends a text, <|end|> an answer."""
        closing = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
        with_template(folder, closing)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["eos_token"] = "<|endoftext|>"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        chat = Tokenizer(folder)
        assert chat.tokenizer.eos_token == "<|endoftext|>"
        assert chat.tokenizer.convert_ids_to_tokens(chat.ending) == ["<|im_end|>"]

    def test_is_a_stop_token_where_the_tokenizer_has_no_eos(self, folder: Path) -> None:
        with_template(folder, "{% for m in messages %}{{ m.content }}{% endfor %}")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.pop("eos_token")
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
        (folder / "config.json").write_text('{"eos_token_id": 7}')
        (folder / "special_tokens_map.json").unlink(missing_ok=True)
        assert Tokenizer(folder).ending == [7]
