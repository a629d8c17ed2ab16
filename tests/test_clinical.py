"""A note that contradicts gold is worth nothing and counted; the same in other words is worth much."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from shared.base.manifest import Measurement
from shared.domain.domain import load_domain
from shared.domain.records import Record
from shared.domain.settings import FieldScoring
from shared.evaluate.scoring.clinical import contradictions
from shared.evaluate.scoring.field_score import score
from shared.evaluate.scoring.note import facts
from shared.evaluate.scoring.summary import missing, summarise
from shared.evaluate.scoring.verdict import Verdict, judge
from shared.release.card.quality import dangerous_words, quality_tables

MEDICAL = load_domain("medical")
SUMMARY = MEDICAL.chain.metrics["summary"]
SHOTS = (
    "Tetanus four years ago. Shingles vaccine, two doses, last year. Has {}received flu vaccine."
)

COPY = (
    "Swelling of the left kidney with 2 stones; right kidney normal, no stone. Left ureter dilated, "
    "right ureter not seen. First stone at age 4, last one at age 40."
)

DANGEROUS = {
    "ten times a dose that begins with its point": ("Lorazepam 5 mg.", "Lorazepam .5 mg."),
    "another age": ("45yo man.", "46yo man."),
    "another concentration": ("Potassium 25mEq.", "Potassium 20mEq."),
    "another temperature": ("Temperature 98.1F.", "Temperature 98.6F."),
    "a rate": ("Heart rate 72bpm.", "Heart rate 78bpm."),
    "a score's sign": ("T-score 2.5.", "T-score -2.5."),
    "a negation is lost": (SHOTS.format(""), SHOTS.format("never ")),
    "a habit is added": ("Smoked and drank.", "Never smoked or drank."),
    "a negation is added": ("No allergy to penicillin.", "Allergy to penicillin."),
    "denies becomes reports": ("Reports chest pain.", "Denies chest pain."),
    "reports becomes denies": ("Denies chest pain.", "Chest pain for 2 hours."),
    "none, though there is one": ("Allergies: none.", "Penicillin allergy."),
    "a test is positive": ("Strep test positive.", "Strep test negative."),
    "two symptoms change places": ("Fever, no cough.", "Cough, no fever."),
    "two drugs change places": (
        "Takes metformin, no longer takes warfarin.",
        "Takes warfarin, no longer takes metformin.",
    ),
    "a tenfold dose": ("Metformin 5000 mg twice daily.", "Metformin 500 mg twice daily."),
    "a tenfold dose without its unit": ("Metformin 5000 twice daily.", "Metformin 500 mg."),
    "mg for mcg": ("Fentanyl 50 mg.", "Fentanyl 50 mcg."),
    "daily for twice daily": ("Lisinopril 10 mg daily.", "Lisinopril 10 mg twice daily."),
    "daily for weekly": ("Methotrexate 15 mg daily.", "Methotrexate 15 mg once a week."),
    "weeks for days": ("Headache for three weeks.", "Headache for three days."),
    "two doses change places": (
        "Metformin 10 mg, lisinopril 500 mg.",
        "Metformin 500 mg, lisinopril 10 mg.",
    ),
    "another year": ("Small stroke in 2019.", "Small stroke in 2016."),
    "another blood pressure": ("BP 140/90.", "Blood pressure 104/90."),
    "a value out of nowhere": ("Cough; potassium 7.1.", "Cough."),
    "the wrong lung": ("Right lower lobe opacity.", "Left lower lobe opacity."),
    "the wrong side of another word": ("Pain in the right leg.", "Left knee pain."),
    "both sides for one": ("Bilateral hearing loss.", "Left hearing loss."),
    "one side for both": ("Left hearing loss.", "Bilateral hearing loss."),
    "no side": ("Carpal tunnel syndrome.", "Left carpal tunnel syndrome."),
    "a vaccine after all": ("Influenza vaccine given.", "Influenza vaccine not given."),
    "an allergy after all": ("Sulfa allergy.", "No sulfa allergy."),
    "the wrong lobe in letters": ("LLL pneumonia.", "Right lower lobe pneumonia."),
    "vaccinated after all": ("Vaccinated.", "Unvaccinated."),
    "smokes after all": ("Smoker.", "Nonsmoker."),
    "normal for abnormal": ("Thyroid normal.", "Abnormal thyroid."),
    "not abnormal for abnormal": ("Pap smear not abnormal.", "Pap smear abnormal."),
    "benign for malignant": ("Benign polyp.", "Polyp was malignant."),
    "high for low": ("Potassium high.", "Low potassium."),
    "elevated for low": ("Elevated potassium.", "Potassium low."),
    "tolerated for allergic": ("Tolerates penicillin.", "Allergic to penicillin."),
    "one side of many in a copy": (
        COPY.replace("right kidney", "left kidney"),
        COPY,
    ),
    "a side of many that is lost in a copy": (COPY.replace("right kidney", "kidney"), COPY),
    "one negation of many lost in a copy": (COPY.replace("no stone", "stone"), COPY),
    "one negation more in a copy": (COPY.replace("ureter dilated", "ureter not dilated"), COPY),
    "sides changed in a copy": (
        COPY.replace("left kidney", "x")
        .replace("right kidney", "left kidney")
        .replace("x", "right kidney"),
        COPY,
    ),
    "a number that stands elsewhere too in a copy": (COPY.replace("age 4", "age 40"), COPY),
    "what the mother denies": ("Fever.", "Mother denies fever."),
    "a relative's illness becomes the patient's": (
        "Breast cancer at 50.",
        "Mother had breast cancer at 50.",
    ),
    "the patient's illness becomes a relative's": (
        "Father with gout.",
        "Gout since 2010.",
    ),
}

HARMLESS = {
    "a dash before a dose": ("Lisinopril -10 mg daily.", "Lisinopril 10 mg daily."),
    "no space behind a sentence": (
        "Denies fever.3 days of cough.",
        "Denies fever. 3 days of cough.",
    ),
    "a dose that begins with its point": ("Digoxin .25 mg.", "Digoxin 0.25 mg."),
    "a letter behind the degrees": ("Temperature 98.6F.", "Temperature 98.6 F."),
    "a unit that is not known": ("Potassium 20mEq.", "Potassium 20 mEq."),
    "years old": ("45yo man.", "45 year old man."),
    "a synonym": ("Heart attack in 2016.", "Myocardial infarction in 2016."),
    "the other verb for no": ("No chest pain.", "Denies chest pain."),
    "a negation that comes after": ("Chest pain denied.", "Denies chest pain."),
    "numbers in words": ("Metformin five hundred milligrams bid.", "Metformin 500 mg twice daily."),
    "another unit of the same amount": (
        "Metformin 0.5 g every 12 hours.",
        "Metformin 500 mg two times a day.",
    ),
    "hours between doses": (
        "Ibuprofen 400mg q8h.",
        "Ibuprofen 400 mg three times a day.",
    ),
    "a range": ("3-4 days of cough.", "Cough for three to four days."),
    "a year ago": ("Shingles vaccine a year ago.", "Shingles vaccine last year."),
    "the side elsewhere": ("Pain in the left knee.", "Left knee pain."),
    "the side behind": ("Left-sided weakness.", "Weakness on the left."),
    "two sides in another order": (
        "Right hip pain and pain in the left knee.",
        "Left knee pain and right hip pain.",
    ),
    "a relative behind": ("Breast cancer in mother.", "Mother: breast cancer."),
    "a relative who is only lived with": (
        "Asthma. Lives with her mother.",
        "Lives with mother, has asthma.",
    ),
    "no family history": (
        "No family history of colon cancer.",
        "Family history negative for colon cancer.",
    ),
    "a list that is denied": ("No fever, chills, or cough.", "Denies cough, fever and chills."),
    "what helped and what did not": (
        "Dark room helps. Ibuprofen did not help.",
        "Relieved by a dark room, not by ibuprofen.",
    ),
    "what did not help": ("No relief from ibuprofen.", "Ibuprofen without relief."),
    "a habit after a negation": (
        "Two beers a week. Never smoked.",
        "Never smoked, 2 beers weekly.",
    ),
    "what is taken out of the negation": ("No knee injection.", "Knee: no injection yet."),
    "what is refused": ("Diet: no meat.", "Refuses meat."),
    "a vaccine not given": (
        "Up to date. Influenza vaccine not given.",
        "Up to date. Has not received the influenza vaccine.",
    ),
    "what was prescribed and not taken": (
        "Oxycodone prescribed, never taken.",
        "Oxycodone never taken.",
    ),
    "one film of two is negative": (
        "Hip x-ray: no fracture. Wrist: no fracture.",
        "Hip x-ray: no fracture. Wrist x-ray negative.",
    ),
    "what a relative declined": ("Rectal exam: mother declined.", "Rectal exam declined."),
    "a relative with an age": (
        "Brother, 40, colon cancer at 38.",
        "Brother, 40, had colon cancer at 38.",
    ),
    "when a relative fell ill": (
        "Quit vaping at brother's diagnosis.",
        "Quit vaping after brother's diagnosis.",
    ),
    "what is related and no relative": (
        "Bleeding ulcer from ibuprofen.",
        "Ibuprofen-related bleeding ulcer.",
    ),
    "who left": ("Leaving against advice at 4:10.", "Left against advice at 4:10."),
    "nothing severe": ("Likely drug reaction.", "No sign of a severe reaction."),
    "what follows a colon": (
        "Asthma not well controlled: night cough.",
        "Asthma, not well controlled, with night cough.",
    ),
    "what was given up": ("No longer drives.", "Gave up driving."),
    "none since then": ("No admission since age 2.", "Admissions as a baby, none since age 2."),
    "a fraction": ("Menarche at 11.5.", "Menarche at 11½."),
    "half an hour": ("Upright for 30 minutes.", "Upright for half an hour."),
    "a smoker": ("Smoker.", "Smokes."),
    "a lobe in letters": ("RLL pneumonia.", "Pneumonia of the right lower lobe."),
    "an opposite of another thing": ("Low potassium.", "High glucose, low potassium."),
    "an opposite denied": ("Thyroid normal.", "Thyroid not abnormal."),
    "an allergy and what is tolerated": (
        "Penicillin allergy. Tolerates cephalexin.",
        "Allergic to penicillin, tolerates cephalexin.",
    ),
    "a copy with its sentences in another order": (
        "Right hip pain, no swelling. Left knee pain for 3 days, worse at night. No fever, cough.",
        "Left knee pain for 3 days, worse at night. Right hip pain, no swelling. No fever, cough.",
    ),
    "a copy with a negation for each": (
        "Left knee pain for 3 days, worse at night, since a fall on the ice. No fever, no chills.",
        "Left knee pain for 3 days, worse at night, since a fall on the ice. No fever or chills.",
    ),
    "half of it": ("Metformin.", "Metformin 500 mg twice daily. No fever. Left knee pain."),
}


def dangers(found: str, gold: str) -> list[str]:
    return contradictions(found, gold, gold, SUMMARY.variants)


def worth(found: str, gold: str, text: str = "") -> float:
    return score(SUMMARY, found, gold, text)


@pytest.mark.parametrize(("found", "gold"), DANGEROUS.values(), ids=DANGEROUS)
def test_a_contradiction_is_found_and_worth_nothing(found: str, gold: str) -> None:
    assert dangers(found, gold)
    assert worth(found, gold) == 0.0


@pytest.mark.parametrize(("found", "gold"), HARMLESS.values(), ids=HARMLESS)
def test_the_same_in_other_words_is_no_contradiction(found: str, gold: str) -> None:
    assert dangers(found, gold) == []
    assert worth(found, gold, gold) > 0.2


@pytest.mark.parametrize("record", MEDICAL.records, ids=lambda record: record.id)
class TestARecordOfOurs:
    def test_does_not_contradict_itself(self, record: Record) -> None:
        assert score(SUMMARY, record.gold["summary"], record.gold["summary"], record.input) == 1.0

    def test_is_not_answered_by_its_dialogue(self, record: Record) -> None:
        spoken = re.sub(r"(?m)^\w+: ", "", record.input)
        for copy in (record.input, spoken):
            assert worth(copy, record.gold["summary"], record.input) < 0.2


class TestTheScore:
    def test_of_a_right_synonym_is_full_marks(self) -> None:
        assert worth("High blood pressure.", "Hypertension.") == 1.0

    def test_falls_with_what_is_missing_and_with_what_is_too_much(self) -> None:
        gold = "Cough and fever for two days."
        assert 0 < worth("Cough.", gold) < worth("Cough and fever.", gold) < 1
        longer = "Cough and fever for two days, and he went on at length about weather and work."
        assert 0 < worth(longer, gold) < 0.5

    def test_of_nothing_or_of_no_text_is_nothing(self) -> None:
        assert worth("", "Cough.") == 0.0
        assert score(SUMMARY, ["Cough."], "Cough.", "") == 0.0

    def test_of_a_copied_passage_is_nothing_even_if_it_is_short(self) -> None:
        text = "Well, it all began on the left side while I was lifting boxes in the garage."
        gold = "Left-sided onset while lifting boxes in the garage."
        copy = "It all began on the left side while I was lifting boxes in the garage."
        assert worth(copy, gold, text) == 0.0 < 0.2 < worth(copy, gold)

    def test_takes_a_number_from_the_input(self) -> None:
        text = "Patient: The cough is bad. Doctor: And your potassium is 7.1."
        assert contradictions("Cough; potassium 7.1.", "Cough.", text) == []
        spoken = "Doctor: Pressure's one forty-two over eighty-eight, potassium five three."
        assert contradictions("BP 142/88, potassium 5.3.", "Sleeps well.", spoken) == []
        assert contradictions("BP 162/88, potassium 5.3.", "Sleeps well.", spoken)
        spoken = "Doctor: At a quarter to three she came round, on point oh five."
        assert contradictions("Alert at 2:45 on 0.05.", "Alert.", spoken) == []
        assert contradictions("Alert at 2:40 on 0.5.", "Alert.", spoken)


class TestANoteIsRead:
    def test_with_its_quantities_in_one_unit(self) -> None:
        read = facts("1 g three times a day for a fortnight, 20 mcg weekly")
        found = {(q.kind, str(q.value)) for q in read.quantities}
        assert found == {
            *(("dose", "1000"), ("dose", "1/50")),
            *(("a day", "3"), ("a day", "1/7"), ("time", "14")),
        }

    def test_with_doubt_where_a_negation_may_end(self) -> None:
        read = facts("No pain with walking. Never smoked, drinks wine.")
        denied = {stem: read.denied[stem] for stem in ("pain", "walk", "wine")}
        assert denied == {"pain": {True}, "walk": {True, False}, "wine": {False}}


SCHEMA: dict[str, Any] = {
    "properties": {"section": {"type": "string"}, "summary": {"type": "string"}},
    "required": ["section", "summary"],
}
SCORING = {"section": FieldScoring(metric="exact"), "summary": SUMMARY}
RECORD = Record(id="r1", input="x", gold={"section": "labs", "summary": "No fever."})


def verdict(answer: Any, scoring: dict[str, FieldScoring] = SCORING) -> Verdict:
    return judge(json.dumps(answer), RECORD, SCHEMA, scoring)


class TestDangerousAnswers:
    WRONG = RECORD.gold | {"summary": "Fever."}

    def test_are_kept_by_the_verdict_with_field_and_reason(self) -> None:
        assert verdict(self.WRONG).dangerous == ["summary: fever: said, gold denies it"]
        assert verdict(RECORD.gold).dangerous == [] == verdict("none").dangerous

    def test_are_counted_over_all_records(self) -> None:
        found = summarise([verdict(self.WRONG), *[verdict(RECORD.gold)] * 3], "x")["dangerous"]
        assert (found.value, found.n) == (0.25, 4)

    def test_are_not_measured_where_no_note_is_written(self) -> None:
        only = {"section": SCORING["section"]}
        assert verdict(self.WRONG, only).dangerous is None
        found = summarise([verdict(self.WRONG, only)], "x")["dangerous"]
        assert found.value is None and "clinical" in (found.reason or "")
        assert "dangerous" in missing(only, "why")

    def test_are_a_row_of_the_tables_with_the_count(self) -> None:
        found = summarise([verdict(self.WRONG), *[verdict(RECORD.gold)] * 3], "x")
        prefixed = {f"release.free.{name}": m for name, m in found.items()}
        table = quality_tables(prefixed, {"modes": ["free"]})
        assert "dangerous answers" in table and "1 of 4 (5–70 %)" in table

    def test_are_told_with_their_interval(self) -> None:
        told = Measurement(value=0.025, unit="share", n=120, low=0.0085, high=0.0709)
        assert dangerous_words(told) == "3 of 120 (0.9–7.1 %)"

    def test_stop_publishing_medicals_model(self) -> None:
        gate = next(g for g in MEDICAL.chain.gate if g.name == "dangerous answers")
        assert (gate.measurement, gate.blocks) == ("check.release.constrained.dangerous", "publish")
        assert gate.at_most is not None and gate.at_most < 0.05
