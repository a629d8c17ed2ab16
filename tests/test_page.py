"""What the page says to a person: of an answer, of each way to fail, of a text that is too long."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any, ClassVar

import jsonschema
import numpy as np
import pytest

from shared.base import paths
from shared.source.tokenizer import as_text

PAGE = paths.REPOSITORY / "shared" / "webgpu_bench" / "page"


def run(module: str, expression: str, flags: Sequence[str] = (), **given: Any) -> Any:
    """The value of a JavaScript expression over `m`, a module of the page, and the given names."""
    names = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    code = f"const m = await import({json.dumps((PAGE / module).as_uri())});\n{names}"
    code += f"process.stdout.write(JSON.stringify({expression}) ?? 'null');"
    words = ["node", *flags, "--input-type=module", "-e", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestAFailure:
    @pytest.mark.parametrize(
        ("outcome", "message", "cause", "advice"),
        [
            ("load_failed", "Failed to fetch", "The server does not answer", "./inv serve"),
            ("run_failed", "NetworkError when attempting", "The server does", "reload this page"),
            ("out_of_memory", "there is not enough", "not enough memory", "smaller model"),
            ("out_of_budget", "it wants 9 bytes", "too large for this GPU", "smaller model"),
            ("device_lost", "the GPU device was lost", "The GPU was lost", "load the model again"),
            ("load_failed", "the package lacks x", "the package lacks x.", "release the model"),
            ("run_failed", "Error: bad kernel", "broke off: Error: bad kernel.", "send it again"),
        ],
    )
    def test_is_a_sentence_that_says_what_to_do(
        self, outcome: str, message: str, cause: str, advice: str
    ) -> None:
        error = {"outcome": outcome, "message": message}
        words = run("failures.js", "m.sentence(error)", error=error)
        assert cause in words and advice in words and "\n" not in words

    def test_of_the_adapter_is_told_before_anything_is_loaded(self) -> None:
        adapter: dict[str, Any] = {"features": []}
        calls = "[m.unfit(adapter, {q4f16: 1}), m.unfit(adapter, {q4f16: 1, q4: 1})]"
        only16, both = run("failures.js", calls, adapter=adapter)
        assert "lacks shader-f16" in only16 and "choose another" in only16
        assert both == ""
        able = {"features": ["shader-f16"]}
        assert run("failures.js", "m.unfit(adapter, {q4f16: 1})", adapter=able) == ""


class TestTheLengthOfAText:
    def test_is_told_while_it_leaves_room_for_an_answer(self) -> None:
        found = run("failures.js", "m.room(1888, 2048, 160)")
        assert found == {"fits": True, "words": "1,888 of 1,888 tokens"}

    def test_past_that_is_told_with_how_much_to_cut(self) -> None:
        found = run("failures.js", "m.room(2000, 1160, 160)")
        assert not found["fits"]
        assert found["words"].startswith("Too long: 2,000 of 1,000 tokens. Shorten")
        assert "about 50 %" in found["words"]


class TestWhatIsToBeDownloaded:
    ALONE: ClassVar[dict[str, Any]] = {"name": "legal", "bytes": {"q4": 110_000_000}}
    FILES: ClassVar[dict[str, Any]] = {
        "config.json": {"bytes": 2_000_000},
        "onnx/swap_q4.onnx": {"bytes": 8_000_000},
        "onnx/swap_q4f16.onnx": {"bytes": 7_000_000},
    }
    MEMBER: ClassVar[dict[str, Any]] = {
        "name": "x/legal",
        "family": "x",
        "domain": "legal",
        "model": "x",
        "revision": None,
        "bytes": {"q4": 8_000_000},
        "files": FILES,
        "adapter": {"file": "adapters/legal.safetensors", "bytes": 1_240_000},
    }

    def words(self, model: dict[str, Any], here: Any, lacks: str = "() => true") -> str:
        call = f"m.downloadWords(model, 'q4', here, {lacks})"
        return str(run("models.js", call, model=model, here=here))

    def test_is_told_of_a_model_of_its_own(self) -> None:
        assert self.words(self.ALONE, None) == "110 MB to download"
        assert self.words(self.ALONE | {"bytes": {}}, None) == ""

    def test_is_told_of_base_and_domain_apart(self) -> None:
        found = self.words(self.MEMBER, None)
        assert found == "10 MB to download for the base, 1.2 MB for legal"

    def test_is_the_adapter_alone_where_the_base_is_in_memory_or_kept(self) -> None:
        found = "1.2 MB to download for legal, whose base is here"
        other = self.MEMBER | {"name": "x/medical", "domain": "medical"}
        assert self.words(self.MEMBER, other) == found
        assert self.words(self.MEMBER, None, "(name) => name.startsWith('adapters/')") == found
        elsewhere = self.words(self.MEMBER, other | {"revision": "c0ffee"})
        assert elsewhere.startswith("10 MB to download for the base")

    def test_is_the_base_alone_where_the_adapter_is_kept(self) -> None:
        found = self.words(self.MEMBER, None, "(name) => name.startsWith('onnx/')")
        assert found == "8.0 MB to download for the base"

    def test_is_nothing_where_all_is_kept(self) -> None:
        found = self.words(self.MEMBER, None, "() => false")
        assert found == "nothing to download: it is kept in this browser"


class TestTheMarkOfAnAnswer:
    @pytest.mark.parametrize(
        ("answer", "ok", "words"),
        [
            ({"value": {}, "satisfies": True, "whole": True}, True, "valid"),
            ({"value": {}, "satisfies": False, "whole": True}, False, "breaks the schema"),
            ({"satisfies": False, "whole": True}, False, "not JSON"),
            ({"value": {}, "satisfies": None, "whole": True}, None, "not known"),
            ({"satisfies": False, "whole": False}, False, "cut off"),
        ],
    )
    def test_says_valid_only_of_what_satisfies_the_schema(
        self, answer: dict[str, Any], ok: bool | None, words: str
    ) -> None:
        found = run("answer.js", "m.mark(answer)", answer=answer)
        assert found["ok"] is ok and words in found["words"]


class TestHalfPrecision:
    """The last row of logits [1, 2, 3], as parity and decoding read it."""

    WANTED: ClassVar[list[Any]] = ["Float32Array", [1.5, -0.25, 65504]]
    FOUND = "[r.constructor.name, [...r]]"

    def test_is_read_from_its_bits_where_a_browser_has_no_type_for_it(self) -> None:
        bits = np.array([9, 9, 9, 1.5, -0.25, 65504], np.float16).view(np.uint16).tolist()
        given = "({ dims: [1, 2, 3], data: Uint16Array.from(bits) })"
        row = f"((r) => {self.FOUND})(m.lastRow({given}))"
        assert run("half.js", row, bits=bits) == self.WANTED

    @pytest.mark.parametrize("kind", ["Float32Array", "Float64Array"])
    def test_is_single_precision_whatever_it_came_in(self, kind: str) -> None:
        """A Float16Array where a browser has that type; Node 20 has none, another stands for it."""
        given = f"({{ dims: [1, 2, 3], data: {kind}.from([9, 9, 9, 1.5, -0.25, 65504]) }})"
        row = f"((r) => {self.FOUND})(m.lastRow({given}))"
        assert run("half.js", row) == self.WANTED

    def test_of_special_values_keeps_them(self) -> None:
        special = np.array([np.inf, -np.inf, np.nan, 6e-8, -0.0], np.float16).view(np.uint16)
        call = "[...m.floats(Uint16Array.from(bits))].map(String)"
        told = run("half.js", call, bits=special.tolist())
        assert told[:3] == ["Infinity", "-Infinity", "NaN"] and float(told[3]) == 2.0**-24


class TestASchema:
    @pytest.mark.parametrize(
        ("pattern", "good", "bad"),
        [
            (r"^\d{3}\-\d$", "123-4", "1234"),
            (r"^[a\-z]\@x$", "-@x", "b@x"),
            (r"^a\.b\\\-$", "a.b\\-", "axb\\-"),
            (r"^[\"\ \#]\_\Z", "#_", "#x"),
            (r"\Aab", "abc", "cab"),
        ],
    )
    def test_is_read_as_the_check_reads_it(self, pattern: str, good: str, bad: str) -> None:
        """Python's validator takes escapes that JavaScript's refuses, and `format` for a note."""
        schema = {
            "type": "object",
            "properties": {
                "format": {"enum": ["a", {"format": "pdf"}]},
                "code": {"type": "string", "pattern": pattern},
                "date": {"type": "string", "format": "date"},
            },
        }
        values = [{"code": good, "date": "1 May"}, {"code": bad}, {"format": "b"}]
        values += [{"format": {"format": "pdf"}}]
        package = PAGE.parent / "node_modules" / "@cfworker" / "json-schema"
        judged = "(V) => values.map((v) => new V(m.asChecked(schema), '2020-12').validate(v).valid)"
        validator = f'(await import("{package.as_uri()}/dist/esm/index.js")).Validator'
        found = run("schema.js", f"({judged})({validator})", schema=schema, values=values)
        judge = jsonschema.Draft202012Validator(schema)
        assert found == [judge.is_valid(value) for value in values] == [True, False, False, True]


def test_a_value_is_read_as_words() -> None:
    values = [None, True, "x", 2, ["a", None]]
    assert run("answer.js", "v.map(m.inWords)", v=values) == ["none", "yes", "x", "2", "a; none"]


def test_nothing_that_is_streamed_is_announced_and_the_schema_holds_by_default() -> None:
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert 'id="log" class="log" tabindex="0" role="log" aria-live="off"' in page
    assert '<input type="checkbox" id="hold" checked>' in page


class TestAnAnswersText:
    def test_is_not_tidied_up(self) -> None:
        tokenizer = "({ decode: (ids, how) => JSON.stringify([ids, how]) })"
        told = json.loads(run("prompt.js", f"m.plain({tokenizer}, [1, 2])"))
        assert told[1] == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}

    def test_of_no_tokens_is_empty(self) -> None:
        assert run("prompt.js", "m.plain(null, [])") == ""

    def test_is_shown_with_the_digits_that_stand_in_it(self) -> None:
        text = '{"account": 12345678901234567890, "rate": 1.0, "list": [2.50]}'
        shown = "Object.values(m.asWritten(text)).map(m.inWords)"
        found = run("answer.js", shown, flags=["--harmony-json-parse-with-source"], text=text)
        assert found == ["12345678901234567890", "1.0", "2.50"]
        assert run("answer.js", shown, text='{"a": 1, "b": "x"}') == ["1", "x"]


def test_a_long_gap_in_a_document_takes_no_time_and_ends_are_trimmed_alike() -> None:
    ends, count = ("\ufeff\x1c \u2028a", "b\r\nc\u00a0\x85"), 300_000
    gap = " " * count
    assert as_text(gap.join(ends), []) == f"a{gap}b\nc"
    call = "m.asText(ends.join(' '.repeat(count)), []).length"
    assert run("prompt.js", call, ends=ends, count=count) == count + 4
