"""Along the gold answers, without a model: what is forced, and so how often a model would run."""

from __future__ import annotations

import json

from benchmarks.forced.rows import Case, Rows
from shared.base.code import code_hash
from shared.domain.records import Record
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.forced import Forced

RULE = "shared.evaluate.models.forced"


def gold_key(case: Case) -> str:
    """Of the rule that tells what is forced, too."""
    return f"gold/{code_hash(RULE)[:8]}/{case.key}"


def measure(case: Case, rows: Rows) -> None:
    """How many of the domain's gold answers the grammar takes, their tokens, and the runs they need."""
    rows.once(gold_key(case), lambda: _count(case))


def _count(case: Case) -> dict[str, int]:
    chat = Chat(case.package)
    forced = Forced.under(case.grammar, chat, case.stop)
    found = [runs for record in case.domain.records if (runs := gold_runs(forced, chat, record))]
    tokens = sum(len(run) for runs in found for run in runs)
    return {"records": len(found), "tokens": tokens, "runs": sum(map(len, found))}


def gold_runs(forced: Forced, chat: Chat, record: Record) -> list[list[int]]:
    """See `along`; [] where the grammar writes the gold answer otherwise."""
    text = json.dumps(record.gold, ensure_ascii=False)
    (matcher,) = forced.masks.start(1)
    return along(forced, chat, text) if matcher.accept_string(text) else []


def along(forced: Forced, chat: Chat, text: str) -> list[list[int]]:
    """The tokens of `text` as a model chooses them that writes it as the tokenizer does, each with
    those forced after it: as many runs, the prompt's the first."""
    (matcher,) = forced.masks.start(1)
    stop, left, runs = forced.masks.stop, text.encode(), list[list[int]]()
    while not (runs and runs[-1][-1] in stop):
        token = chat.encode(left.decode())[0] if left else stop[0]
        runs.append(forced.turn(matcher, token, len(text) + 1))
        left = left[sum(len(forced.masks.tokens[token]) for token in runs[-1]) :]
    return runs
