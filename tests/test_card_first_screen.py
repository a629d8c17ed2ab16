"""The card's first screen: what a visitor reads before the first fold, and nothing of it twice."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

import pytest

from shared.base import paths
from shared.base.manifest import Measurement
from shared.base.tables import shown
from shared.domain.settings import Gate
from shared.evaluate.scoring.measurements import better_mode
from shared.release.card.card import render_card
from shared.release.card.usage import PACKAGES
from shared.release.card.verdict import of_check, shown_first, verdict
from shared.release.gates import judge
from shared.release.model import Release
from tests.test_card import DOMAINS, card_of, html, measured, share, synthetic

PAIR = "check.release_vs_base.constrained.field_score"
HELD_LESS_FREE = "check.release_constrained_vs_free.field_score"


def body(card: str) -> str:
    return card.split("\n---\n", 1)[1].strip()


def parts(domain: str = "legal", **changes: Any) -> tuple[str, str]:
    """The first screen, and what is folded below it."""
    first, fold, rest = body(card_of(domain, **changes)).partition("<details>")
    return first, fold + rest


def with_measured(**changes: Measurement | None) -> Release:
    """A release with some measurements replaced, or none there."""
    found = measured() | {name.replace("__", "."): m for name, m in changes.items()}
    return synthetic("legal", measurements={n: m for n, m in found.items() if m is not None})


@pytest.mark.parametrize("domain", DOMAINS)
class TestTheFirstScreenOf:
    def test_has_sixty_lines_at_most_with_every_notice_there_is(self, domain: str) -> None:
        bench = {"software_adapter": True, "browser": "x", "dtype": "q4", "dtype_reason": "y"}
        facts = synthetic(domain).facts | {"bench": bench}
        changes = {"not_publishable_because": "a gate", "commercial_use": False, "facts": facts}
        first, _ = parts(domain, **changes)
        assert first.count("\n> ") == 3
        assert len(first.strip().splitlines()) <= 60

    def test_has_its_parts_in_the_order_in_which_they_are_wanted(self, domain: str) -> None:
        first, _ = parts(domain)
        order = (
            "quantised to 4 bits.** It helps",
            "better than its base",
            "| field score",
            "**Size**",
        )
        order += (
            "npm i @hugg",
            "JSON.parse",
            "held: false",
            "## Intended use and limits",
            "Not for",
        )
        places = [first.find(words) for words in order]
        assert places == sorted(places) and places[0] > 0, dict(zip(order, places, strict=True))

    def test_keeps_every_figure_to_itself(self, domain: str) -> None:
        first, below = parts(domain)
        found = synthetic(domain).measurements
        for name in shown_first(synthetic(domain)) & found.keys():
            m = found[name]
            if m.value is not None:
                text = shown(m)
                assert text in first and text not in below, name

    def test_is_followed_by_folds_that_a_page_closes(self, domain: str) -> None:
        page = html(card_of(domain))
        assert page.count("<details>") == page.count("</details>") == 3
        assert body(card_of(domain)).endswith("</details>")


class TestTheSample:
    """An answer that was given, so that a reader sees what comes back."""

    SAMPLE: ClassVar = {
        "fields": ["clause_type", "a`b"],
        "input": "Wilmot. " * 90,
        "answer": '{"issue": 1}',
        "gold": '{"issue": "<b>2</b>"}',
    }

    def shown(self, **sample: Any) -> str:
        return parts(facts=synthetic("legal").facts | {"sample": self.SAMPLE | sample})[0]

    def test_stands_behind_the_first_snippet_with_the_fields_and_the_document_cut(self) -> None:
        first = self.shown()
        place = first.index("one JSON object with `clause_type`, `a b`.")
        assert first.index("JSON.parse") < place < first.index("held: false")
        assert '```json\n{"issue": 1}\n```' in first
        assert "Wilmot. …”, was answered" in first and first.count("Wilmot") < 40

    def test_stands_beside_what_is_right(self) -> None:
        first = self.shown()
        assert (
            'was answered (right is {"issue": "&lt;b&gt;2&lt;/b&gt;"}; 0 of 1 fields are the same):'
            in first
        )
        assert "right is" not in self.shown(gold=None), "a release made before it was kept"

    def test_cannot_end_its_block_or_become_the_cards_own_words(self) -> None:
        card = html(self.shown(input="<b>x</b> # y", answer="```\n# Not a title\n<i>z</i>"))
        assert "<b>" not in card and "<i>" not in card and "Not a title</h1>" not in card

    def test_is_told_to_be_an_examples(self) -> None:
        first = self.shown(example=True)
        assert "> **An example**: the fine-tuned model of choice" in first
        assert "An example" not in self.shown(example=False)

    def test_has_its_fields_alone_where_nothing_was_asked(self) -> None:
        first = parts(facts=synthetic("legal").facts | {"sample": {"fields": ["issue"]}})[0]
        assert "An answer is one JSON object with `issue`." in first and "answered:" not in first


def test_a_prompt_cannot_close_a_fold() -> None:
    template = "{{ details }}"
    card = card_of("legal", card_template=template, why="x </details> y")
    assert html(card).count("</details>") == 3 and "&lt;/details&gt;" in card


class TestTheVerdict:
    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("better", "**better than its base** in the field score: +38.1 points (+33.1 to +43.1"),
            ("worse", "**worse than its base** in the field score"),
            ("no difference shown", "**not shown to differ from its base** in the field score"),
        ],
    )
    def test_says_in_a_word_how_it_does_against_its_base(self, how: str, words: str) -> None:
        assert words in verdict(with_measured(**{PAIR: share(0.381, how)}))

    def test_says_why_where_it_was_not_compared(self) -> None:
        missing = Measurement.missing("base constrained: the base could not be had", "share")
        text = verdict(with_measured(**{PAIR: missing}))
        assert (
            "it is not compared with its base: base constrained: the base could not be had." in text
        )

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("worse", "Quantising to 4 bits makes it worse: -3.0 points"),
            (
                "no difference shown",
                "Quantising to 4 bits is not shown to change it: -3.0 points",
            ),
        ],
    )
    def test_says_what_four_bits_cost(self, how: str, words: str) -> None:
        name = "check.release_vs_parent.constrained.field_score"
        assert words in verdict(with_measured(**{name: share(-0.03, how)}))

    @pytest.mark.parametrize(
        ("floor", "words"),
        [
            (0.3, "It is above what one fixed answer"),
            (0.78, "It is not shown to be above what one fixed answer"),
            (0.95, "It is below what one fixed answer"),
        ],
    )
    def test_says_what_the_score_is_worth(self, floor: float, words: str) -> None:
        assert words in verdict(with_measured(**{"check.floor.field_score": share(floor)}))

    def test_names_the_base_of_a_model_that_was_not_tuned_by_what_it_lacks(self) -> None:
        release = synthetic("legal", prompt_only=True)
        assert "than its base without the prompt**" in verdict(release)


class TestTheBetterMode:
    def test_is_held_unless_that_is_shown_to_harm(self) -> None:
        harmed = with_measured(**{HELD_LESS_FREE: share(-0.2, "worse")})
        assert better_mode(of_check(harmed)) == "free"
        assert better_mode(of_check(with_measured())) == "constrained"

    def test_is_the_one_that_was_measured(self) -> None:
        name = "check.release.constrained.schema_compliance"
        unheld = with_measured(**{name: Measurement.missing("not asked for", "share")})
        assert better_mode(of_check(unheld)) == "free"

    def test_decides_which_snippet_and_which_table_come_first(self) -> None:
        found = measured() | {HELD_LESS_FREE: share(-0.2, "worse")}
        first, below = parts(measurements=found)
        assert first.index("held: false") < first.index("JSON.parse")
        assert "| free decoding" in first and "\nHeld to the schema:" in below


def test_no_snippet_parses_what_need_not_be_json() -> None:
    first, below = parts()
    lines = [line for line in (first + below).splitlines() if "JSON.parse" in line]
    assert lines and all(".whole ? JSON.parse(" in line for line in lines)


def test_the_packages_are_those_that_the_answers_were_compared_with() -> None:
    pinned = json.loads((paths.REPOSITORY / "shared/webgpu_bench/package.json").read_text())
    for name, version in re.findall(r"(\S+)@(\S+)", PACKAGES):
        assert pinned["dependencies"][name] == version


class TestTheFrontMatter:
    def test_tells_a_tuned_model_from_one_that_was_only_quantised(self) -> None:
        assert "base_model_relation: finetune\n" in card_of("legal")
        assert "base_model_relation: quantized\n" in card_of("legal", prompt_only=True)

    def test_names_languages_and_data_sets_of_domain_and_weights(self) -> None:
        facts = synthetic("legal").facts | {
            "card": {"language": ["en", "de"], "datasets": ["acme/cases"]},
            "source": {"training": {"data sets": "acme/clauses, no name, acme/cases"}},
        }
        card = card_of("legal", facts=facts)
        assert "language:\n- en\n- de\n" in card
        assert "datasets:\n- acme/cases\n- acme/clauses\n" in card


def test_what_the_browser_did_not_prove_is_named_with_its_reason_and_nothing_else() -> None:
    gates = [
        judge(Gate(name=name, measurement=of, equals=True), Measurement.missing(why))
        for name, of, why in (
            ("placement", "bench.placement_proven", "the time was up"),
            ("better than its base", "check.better_than_base", "no base_source is named"),
        )
    ]
    facts = synthetic("legal").facts | {"bench": {"software_adapter": True}}
    card = render_card(synthetic("legal", gates=gates, facts=facts), "Answer.")
    assert "Not measured: speed on a GPU, placement (the time was up)." in card
    assert "want of time" not in card and "better than its base (" not in card.split("<details>")[0]
