"""Forced text: the check and the page write the same tokens without asking the model, and no others."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.forced.gold import along
from shared.base.paths import REPOSITORY
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.domain.records import spread
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.forced import FORCING, Forced
from shared.evaluate.models.masks import Masks

BENCH = REPOSITORY / "shared" / "webgpu_bench"
DOMAINS = ("legal", "contracts", "financial", "medical")
STOP = [0, 2]


@pytest.fixture(scope="module")
def chat(embedded: Path) -> Chat:
    return Chat(embedded)


def in_page(chat: Chat, folder: Path, cases: list[dict[str, Any]], work: Path) -> Any:
    """What tests/forced.mjs prints for `cases`."""
    pages = {"modules": str(BENCH / "node_modules"), "page": str(BENCH / "page")}
    job = pages | {"folder": str(folder), "stop": STOP, "cases": cases}
    (work / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("forced.mjs")
    command = ["node", str(script), str(work / "job.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", DOMAINS)
def test_along_the_gold_answers_page_and_check_force_the_same_tokens(
    chat: Chat, embedded: Path, name: str, tmp_path: Path
) -> None:
    domain = load_domain(name)
    held = grammar(domain.schema)
    forced = Forced(Masks(chat.tokenizer_json(), STOP, held), chat.encode, on=True)
    gold = [json.dumps(record.gold, ensure_ascii=False) for record in domain.records]
    texts = [text for text in gold if forced.masks.start(1)[0].accept_string(text)]
    assert len(texts) > 0.9 * len(gold), "a few have what the grammar would escape"
    found = [along(forced, chat, text) for text in texts]
    cases = [{"grammar": held, "chosen": [run[0] for run in runs]} for runs in found]
    asked = spread(range(len(cases)))[:24]
    theirs = in_page(chat, embedded, [cases[i] for i in asked], tmp_path)
    assert theirs == [[run[1:] for run in found[i]] for i in asked]
    for text, runs in zip(texts, found, strict=True):
        ids = [token for run in runs for token in run]
        assert ids == [*chat.encode(text), STOP[0]], "what a fine-tuned model learnt to write"
        assert forced.writes(ids)
    assert all(runs[0][1:] for runs in found), "after the first token, which the model chooses"


def test_page_and_check_both_force_or_neither_does() -> None:
    page = (BENCH / "page" / "forced.js").read_text()
    assert f"export const FORCING = {str(FORCING).lower()};" in page
