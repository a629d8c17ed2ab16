"""The page's own decoding loop: Transformers.js's tokens; what questions begin with is read once."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page_answers import end_at
from shared.base.paths import REPOSITORY
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.evaluate.models.chat import Chat, common_length

BENCH = REPOSITORY / "shared" / "webgpu_bench"
MOST = 8


def decode(folder: Path, work: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What tests/decode.mjs prints for `cases`, asked of one decoder in a row."""
    pages = {"modules": str(BENCH / "node_modules"), "page": str(BENCH / "page")}
    job = pages | {"folder": str(folder), "dtype": "q4", "most": MOST, "cases": cases}
    (work / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("decode.mjs")
    command = ["node", str(script), str(work / "job.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return list(json.loads(run.stdout))


@pytest.fixture(scope="module")
def prompts(embedded: Path) -> Iterator[list[list[int]]]:
    """Three questions of the domain, short enough for a test, of tokens that the tiny model has."""
    chat, domain = Chat(embedded), load_domain("legal")
    found = [chat.prompt_ids(domain.prompt, record.input[:120]) for record in domain.records[:3]]
    yield [[token % 8000 for token in ids] for ids in found]


def test_free_and_held_its_tokens_are_those_of_transformers_js(
    package: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    held = grammar(load_domain("legal").schema)
    cases: list[dict[str, Any]] = [{"ids": ids} for ids in prompts]
    cases += [{"ids": prompts[0], "grammar": held}, {"ids": [7], "min_new_tokens": MOST}]
    found = decode(package, tmp_path, cases)
    assert [one["ours"] for one in found] == [one["theirs"] for one in found]
    for one, case in zip(found, cases, strict=True):
        count = len(one["ours"])
        assert (one["runs"], one["timed"]) == (count, count), "a run a token"
        assert one["positions"] == len(case["ids"]) + count - 1
        assert one["stopped_by"] == ("eos" if count < MOST else "max_new_tokens")


def test_it_ends_at_any_stop_token_unless_more_tokens_are_asked_for(
    package: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    (first,) = decode(package, tmp_path, [{"ids": prompts[0]}])
    ending = tmp_path / "ending"
    ending.mkdir()
    for path in package.iterdir():
        (ending / path.name).symlink_to(path)
    end_at(ending, {first["ours"][2]})
    short, long = decode(
        ending, tmp_path, [{"ids": prompts[0]}, {"ids": prompts[0], "min_new_tokens": MOST}]
    )
    assert short["ours"] == short["theirs"] == first["ours"][: len(short["ours"])]
    assert (short["stopped_by"], len(long["ours"])) == ("eos", MOST)
    assert long["ours"] == long["theirs"]


def test_what_questions_begin_with_is_read_once_and_again_where_it_changes(
    package: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    length = common_length(prompts)
    prefix, other = prompts[0][:length], [9, *prompts[0][:length]]
    assert length > 100
    cases: list[dict[str, Any]] = [{"ids": ids, "prefix": prefix} for ids in prompts]
    cases += [
        {"ids": prompts[0]},
        {"ids": [9, *prompts[1]], "prefix": other},
        {"ids": [9, *prompts[2]], "prefix": other},
        {"ids": prompts[0], "prefix": prefix[:12]},
    ]
    found = decode(package, tmp_path, cases)
    assert [one["ours"] for one in found] == [one["theirs"] for one in found]
    read = [one["positions"] - len(one["ours"]) + 1 for one in found]
    asked, (first, second, third) = [len(case["ids"]) for case in cases], map(len, prompts)
    assert [one["read_tokens"] for one in found] == read, "what a page divides its time by"
    assert read[:3] == [first, second - length, third - length]
    assert read[3] == first, "no prefix: all is read, and nothing is kept"
    assert read[4:6] == [second + 1, third - length]
    assert read[6] == asked[6], "too short to be worth a run of its own"
    more = [one["runs"] - len(one["ours"]) for one in found]
    assert more == [1, 0, 0, 0, 1, 0, 0]


def test_a_text_whose_scores_fit_into_no_buffer_is_read_in_pieces(
    package: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    whole, pieces = (
        decode(package, tmp_path, [{"ids": prompts[0], "piece": piece}])[0] for piece in (None, 50)
    )
    assert pieces["ours"] == whole["ours"] == whole["theirs"]
    assert pieces["positions"] == whole["positions"]
    assert pieces["runs"] - whole["runs"] == math.ceil(len(prompts[0]) / 50) - 1


def test_a_text_can_be_stopped_while_it_is_read_and_leaves_nothing_behind(
    package: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    length = common_length(prompts)
    asked = {"ids": prompts[0], "prefix": prompts[0][:length], "piece": 50}
    halt = {"halt": "stopped", "after": 1}
    at_once = asked | {"halt": "stopped"}
    none, stopped, again = decode(package, tmp_path, [at_once, asked | halt, asked])
    assert (none["ours"], none["stopped_by"], none["positions"]) == ([], "stopped", 0)
    assert (stopped["ours"], stopped["stopped_by"]) == ([], "stopped")
    assert stopped["positions"] == 50 and again["ours"] == again["theirs"]
    del asked["piece"]
    stopped, again = decode(package, tmp_path, [asked | halt, asked])
    assert (stopped["positions"], stopped["stopped_by"]) == (length, "stopped")
    assert again["positions"] == len(prompts[0]) - length + len(again["ours"]) - 1


def test_scores_that_are_no_numbers_are_an_error_and_what_was_read_with_them_is_read_again(
    package: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    asked = {"ids": prompts[0], "prefix": prompts[0][:100]}
    first, spoilt, again = decode(package, tmp_path, [asked, asked | {"nan": True}, asked])
    assert (spoilt["said"], spoilt["ours"]) == ("the model's scores are no numbers", [])
    assert again["said"] is None and again["ours"] == first["ours"]
    assert again["positions"] == first["positions"], "the prefix, too"
