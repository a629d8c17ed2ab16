"""Under a grammar the page chooses the token that mask and argmax would, mostly without a mask."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from shared.base.paths import REPOSITORY
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from tests.tiny import FEW_TOKENS, first_tokens

BENCH = REPOSITORY / "shared" / "webgpu_bench"
STOP = [0, 2]
ORDINARY = " vaccine"
"""A token of text that ends answers here, as a package's generation_config.json can say."""


@pytest.fixture(scope="module")
def tokenizer(embedded: Path, new_folder: Callable[[str], Path]) -> Path:
    """Of the first tokens: a mask of all takes a second in some strings."""
    file = new_folder("fewer") / "tokenizer.json"
    file.write_text(first_tokens(embedded, FEW_TOKENS))
    return file


@pytest.mark.parametrize("name", ["legal", "contracts", "financial", "medical"])
def test_along_gold_answers_it_is_the_token_of_mask_and_argmax(
    tokenizer: Path, name: str, tmp_path: Path
) -> None:
    """Whatever the scores: ties, forbidden tokens before all others, rows of no token, nothing."""
    domain, tokens = load_domain(name), Tokenizer.from_file(str(tokenizer))
    gold = [min((json.dumps(r.gold, ensure_ascii=False) for r in domain.records), key=len)]
    answers = [tokens.encode(text, add_special_tokens=False).ids for text in gold]
    ending = tokens.encode(ORDINARY, add_special_tokens=False).ids[0]
    assert not any(ending in ids for ids in answers)
    job = {
        "modules": str(BENCH / "node_modules"),
        "page": str(BENCH / "page"),
        "tokenizer": str(tokenizer),
        "stop": [*STOP, ending],
        "width": FEW_TOKENS + 32,
        "cases": [{"grammar": grammar(domain.schema), "answers": answers}],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("choices.mjs")
    command = ["node", str(script), str(tmp_path / "job.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "WARNING" not in run.stderr, "XGrammar is asked about tokens that it knows"
    (found,) = json.loads(run.stdout)
    assert found["wrong"] == []
    assert found["steps"] == sum(map(len, answers)) + len(answers)
    assert found["ending"] == [0, [3]], "it can end after the answer, and do nothing else"
    masks = found["masks"]
    assert (masks["likeliest"], masks["lastTried"]) == (0, 0), "one of the likeliest fits: no mask"
    assert masks["manyForbidden"] == found["steps"], "as before where none of the likeliest fits"
