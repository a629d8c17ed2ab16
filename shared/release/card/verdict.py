"""The card's first screen: the verdict in words, and one table of this model beside its base.

All of it comes from the measurements in the mode that they recommend, so that no figure is typed by
hand; what is missing is said with its reason. What stands here (`shown_first`) stands nowhere below.
"""

from collections.abc import Mapping
from typing import Any

from shared.base.manifest import Measurement
from shared.base.tables import shown, words
from shared.evaluate.scoring.measurements import better_mode, is_above
from shared.evaluate.scoring.statistics import NO_DIFFERENCE
from shared.evaluate.systems import Mode
from shared.release.card.quality import FIRST, MODE_WORDS, first_table, measured
from shared.release.model import Release

SIZES = ("package.q4f16_bytes", "package.q4_bytes")
SCORED_BY = " This model's scores above are of onnxruntime-genai on the CPU."
NO_BROWSER = "No browser was at hand."
GIGABYTE = 1_000_000_000
SPEED = "bench.decode_tokens_per_second"
AGAINST_BASE = {
    "better": "better than",
    "worse": "worse than",
    NO_DIFFERENCE: "not shown to differ from",
}
FOUR_BITS = {
    "better": "makes it better",
    "worse": "makes it worse",
    NO_DIFFERENCE: "is not shown to change it",
}


def of_check(release: Release) -> dict[str, Measurement]:
    """The check's measurements, by their names in that stage."""
    start = "check."
    found = release.measurements.items()
    return {name.removeprefix(start): m for name, m in found if name.startswith(start)}


def shown_first(release: Release) -> set[str]:
    """Names of the measurements on the first screen, as release.json has them."""
    mode = better_mode(of_check(release))
    pairs = {f"check.release_vs_{other}.{mode}.field_score" for other in ("base", "parent")}
    systems = {f"check.{name}.{mode}.{metric}" for name in ("base", "release") for metric in FIRST}
    floors = {f"check.floor.{metric}" for metric in FIRST}
    return {*SIZES, SPEED, *pairs, *systems, *floors}


def verdict(release: Release) -> str:
    """Better than its base or not, what 4 bits cost, and what the score is worth: in plain words."""
    found, facts = of_check(release), release.facts.get("check", {})
    mode = better_mode(found)
    forced = " (the schema forces the form of an answer, not what stands in it)"
    base = "its base without the prompt" if release.prompt_only else "its base"
    return (
        f"{MODE_WORDS[mode]}, on {words(str(facts.get('origin', 'held-out records')))}, it is "
        f"{_against_base(found, mode, base)}. {_of_four_bits(found, mode)}. "
        f"{_against_one_answer(found, mode)}. The field score is the mean of how right the fields are "
        "that a record asks for: 0 or 1, of a text the share that is right"
        f"{forced * (mode == 'constrained')}. In brackets: 95 % intervals."
    )


def _against_base(found: Mapping[str, Measurement], mode: Mode, base: str) -> str:
    pair = found.get(f"release_vs_base.{mode}.field_score")
    if not measured(pair):
        return f"not compared with {base}: {_why(pair)}"
    how = AGAINST_BASE.get(pair.how, "compared with")
    return f"**{how} {base}** in the field score: {shown(pair)}"


def _of_four_bits(found: Mapping[str, Measurement], mode: Mode) -> str:
    pair = found.get(f"release_vs_parent.{mode}.field_score")
    if not measured(pair):
        return f"What quantising to 4 bits costs is not measured: {_why(pair)}"
    return f"Quantising to 4 bits {FOUR_BITS.get(pair.how, 'changes it')}: {shown(pair)}"


def _against_one_answer(found: Mapping[str, Measurement], mode: Mode) -> str:
    """Whether the field score lies above what one fixed answer to all records would reach."""
    ours, floor = found.get(f"release.{mode}.field_score"), found.get("floor.field_score")
    above = above_floor(ours, floor)
    how = {True: "is above", False: "is below", None: "is not shown to be above"}[above]
    if not measured(ours) or not measured(floor):
        return "Whether it does better than one fixed answer to all: not measured"
    return f"It {how} what one fixed answer to all of them would score"


def above_floor(ours: Measurement | None, floor: Measurement | None) -> bool | None:
    """True or False where the whole interval lies on one side of the fixed answer's score."""
    if not measured(ours) or not measured(floor):
        return None
    return is_above(ours, float(floor.value or 0))


def _why(pair: Measurement | None) -> str:
    return words(pair.reason or "no reason is known") if pair else "not asked for"


def quality(release: Release) -> str:
    """The table of base and this model in the recommended mode; empty where nothing was answered."""
    found, facts = of_check(release), release.facts.get("check", {})
    return first_table(found, facts, better_mode(found))


def footprint(release: Release) -> str:
    """What is downloaded, how fast it writes, and where that was measured."""
    large, small = (_size(release.measurements.get(name)) for name in SIZES)
    speed = words(shown(release.measurements.get(SPEED)))
    return (
        f"**Size**: {large} to download as q4f16, or {small} as q4 where the GPU lacks shader-f16. "
        f"{_shared(release)}"
        f"**Speed** of decoding in the browser: {speed}. "
        f"{_seen_in(release)}{_scored_by(release)}"
    )


def _scored_by(release: Release) -> str:
    found = of_check(release)
    scored = measured(found.get(f"release.{better_mode(found)}.field_score"))
    return SCORED_BY if scored else ""


def _seen_in(release: Release) -> str:
    at_hand = "browser" in release.facts.get("bench", {})
    return f"The browser's figures are of {where(release)}." if at_hand else NO_BROWSER


def _size(size: Measurement | None) -> str:
    """In MB below one GB, so that two sizes are in one unit."""
    if size and isinstance(size.value, int) and size.value < GIGABYTE:
        return f"{size.value / 1e6:.1f} MB"
    return shown(size)


def _shared(release: Release) -> str:
    """What of it other domains of its family have byte for byte; empty where it is of none."""
    if not (told := release.facts.get("family")):
        return ""
    own = (
        shown(release.measurements.get(f"package.{dtype}_own_bytes")) for dtype in ("q4f16", "q4")
    )
    name = words(f"{release.repository.split('/')[0]}/{told['name']}")
    return (
        f"**Shared**: all but {' or '.join(own)} of it is the base of the family "
        f"[{name}](https://huggingface.co/{name}), the same bytes in each of its domains. "
    )


def where(release: Release) -> str:
    """Adapter and browser of the benchmark."""
    facts: dict[str, Any] = release.facts.get("bench", {})
    if "browser" not in facts:
        return NO_BROWSER.lower().rstrip(".")
    return words(f"{release.measurements['bench.loads'].where}; {facts['browser']}")
