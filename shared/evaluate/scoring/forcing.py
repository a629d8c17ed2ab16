"""What forced text changed: the release's answers beside its own, asked for token by token.

`forcing.<name>` of the check stage, names as in MEASURED. Grammar, prompt and weights are the same;
only which tokens the model is asked for differs (shared.evaluate.models.forced).
"""

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from shared.base.formatting import number
from shared.base.manifest import Measurement
from shared.evaluate.models.chat import Answer
from shared.evaluate.scoring.statistics import rate

RUNS, STEPWISE_RUNS = "model_runs", "model_runs_token_by_token"
SAME, BY_ROUNDING = "same_values", "differing_by_rounding"
MEASURED = (RUNS, STEPWISE_RUNS, SAME, BY_ROUNDING)


def measure_forcing(
    forced: Sequence[Answer], stepwise: Sequence[Answer], reason: str
) -> dict[str, Measurement]:
    """Model runs an answer with and without, the share of answers with the same value, and how many of
    the others rounding alone turned: the model chose otherwise after the very same tokens, which only
    the cut of its runs had changed. `reason`: why there are none, if so."""
    if not forced or not stepwise:
        return {name: Measurement.missing(reason) for name in MEASURED}
    pairs = list(zip(forced, stepwise, strict=True))
    same = rate([_value(one.text) == _value(other.text) for one, other in pairs])
    other = [pair for pair in pairs if _value(pair[0].text) != _value(pair[1].text)]
    runs = [fmean(answer.model_runs for answer in answers) for answers in (forced, stepwise)]
    how = "the release, held to the schema"
    found = [
        Measurement(value=value, unit="runs an answer", how=how, n=len(pairs)) for value in runs
    ]
    share = Measurement(
        value=same.value, unit="share", how=how, n=same.n, low=same.low, high=same.high
    )
    turned = sum(_by_rounding(*pair) for pair in other)
    return dict(
        zip(MEASURED, (*found, share, Measurement(value=turned, n=len(other))), strict=True)
    )


def forcing_words(found: Mapping[str, Measurement]) -> str:
    """The same in words; empty where it was not measured."""
    runs, stepwise, same, turned = (found[f"forcing.{name}"] for name in MEASURED)
    if same.value is None or same.n is None:
        return ""
    left = turned.n or 0
    why = (
        f" Of the other {left}, {turned.value} part after the very same tokens, so by rounding "
        f"alone, which each cut of the runs changes; {left - int(turned.value or 0)} where the model "
        "would have begun a forced text with another token."
    )
    return (
        "What the schema leaves no choice about is written without asking the model: "
        f"{number(runs.value, '')} model runs an answer, {number(stepwise.value, '')} token by token. "
        f"{same.n - left} of {same.n} answers have the values that they have token by token."
        f"{why * bool(left)}"
    )


def _by_rounding(forced: Answer, stepwise: Answer) -> bool:
    """Whether the first token that differs is one that the model was asked for both times."""
    pairs = zip(forced.output_ids, stepwise.output_ids, strict=False)
    place = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    return place is not None and place not in forced.forced


def _value(text: str) -> Any:
    """What an answer says; its text where it is no JSON (cut off)."""
    try:
        return json.loads(text)
    except ValueError:
        return text
