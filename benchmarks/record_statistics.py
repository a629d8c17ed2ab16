"""What held-out records give away, how alike two sets of texts are, and how far two labellers agree."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from statsmodels.stats.inter_rater import cohens_kappa

from shared.base.parsing import loads_strictly, read_text
from shared.domain.domain import Domain
from shared.domain.records import Record
from shared.domain.settings import FieldScoring
from shared.evaluate.scoring.field_score import dangers, score

GIVE_AWAY = 0.35
"""So much above the majority class, and the words alone decide a field; so does `SURE`."""
SURE = 0.95
SMOOTHING = (0.01, 0.1, 1.0)
"""Tried in turn; the best counts, so that no give-away hides behind a bad choice."""
TOO_ALIKE = 0.25
"""From here on a calibration text tells what a held-out one tells; see `alike`."""
TRAINING_TOO_ALIKE = 0.4
"""The same for text that others wrote in the same form, against which ours cannot be reworded."""
TEXTS = ("token_f1", "clinical", "verbatim")
"""Metrics of free text: two labellers agree by degrees, and there is no chance to correct for."""

OTHER = {"left": "right", "right": "left", "mcg": "mg", "mg": "g",
         "days": "weeks", "weeks": "months", "months": "years"}  # fmt: skip
PLANTED: dict[str, tuple[str, Callable[[str], str]]] = {
    "a number tenfold": (r"\b\d+(?:\.\d+)?\b", lambda number: f"{float(number) * 10:.10g}"),
    "another unit": (r"\b(?:mcg|mg|days|weeks|months)\b", OTHER.__getitem__),
    "the other side": (r"(?i)\b(?:left|right)\b", lambda side: OTHER[side.lower()]),
    "a negation lost": (r"(?i)\b(?:no|not|never|without|denies) ", lambda _: ""),
}
"""Kind of error → what is replaced, and by what."""

Features = Callable[[str], Sequence[str]]


class GivenAway(NamedTuple):
    """How right words alone are on a field, leave-one-out, beside the largest class."""

    n: int
    classes: int
    majority: float
    bayes: float
    keywords: float

    @property
    def bound(self) -> float:
        return min(self.majority + GIVE_AWAY, SURE)


class Nearest(NamedTuple):
    """Two texts: how alike, by which measure how much, and their ids."""

    value: float
    characters: float
    words: float
    one: str
    other: str


class Resolved(NamedTuple):
    """A record read again after the second labelling; `gold`: what it had before.

    `changed`: its text, gold or quote, or nothing where gold stands; `again`: of a changed text, a
    label given to it as it is now, as blind as the second one.
    """

    id: str
    gold: dict[str, Any]
    changed: str
    why: str
    again: dict[str, Any] | None = None

    @property
    def other_text(self) -> bool:
        """Whether the labels were given for another input than today's."""
        return "text" in self.changed.split()


@dataclass(frozen=True)
class Agreement:
    """Two labellings of one field; `kappa` is Cohen's, None for free text."""

    n: int
    agreement: float
    kappa: float | None
    low: float | None = None
    high: float | None = None
    dangerous: int | None = None


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def pieces(text: str) -> list[str]:
    """All runs of three to five characters within a word and the spaces around it."""
    padded = [f" {word} " for word in words(text)]
    return [w[i : i + n] for w in padded for n in (3, 4, 5) for i in range(len(w) - n + 1)]


def class_fields(domain: Domain) -> list[str]:
    """The fields whose values are a closed list: enums and booleans."""
    fields = domain.schema["properties"]
    return [
        name
        for name, field in fields.items()
        if "enum" in field or "boolean" in np.atleast_1d(field.get("type", ""))
    ]


def judged(domain: Domain, field: str) -> list[Record]:
    """The records on which a field is scored."""
    how = domain.chain.metrics[field]
    return [record for record in domain.records if how.judges(record.gold)]


def given_away(texts: Sequence[str], labels: Sequence[Any]) -> GivenAway:
    """How well the words alone tell the label, each text judged by all the others."""
    names = [json.dumps(label) for label in labels]
    classes = sorted(set(names))
    own = np.array([classes.index(name) for name in names])
    counts = np.bincount(own)
    there = (_counts(texts, words)[0] > 0).toarray().astype(float)
    seen = np.zeros((len(classes), there.shape[1]))
    np.add.at(seen, own, there)
    right = np.zeros(len(SMOOTHING) + 1)
    for i, label in enumerate(own):
        of_class, n = seen.copy(), counts.astype(float)
        of_class[label] -= there[i]
        n[label] -= 1
        told = [_bayes(there[i], of_class, n, s) for s in SMOOTHING]
        right += np.array([*told, _keyword(there[i], of_class, n)]) == label
    shares = right / len(texts)
    majority = float(counts.max() / len(texts))
    return GivenAway(
        len(texts), len(classes), majority, float(shares[:-1].max()), float(shares[-1])
    )


def _bayes(there: np.ndarray, seen: np.ndarray, n: np.ndarray, smoothing: float) -> int:
    """Multinomial naive Bayes over which words occur."""
    smooth = seen + smoothing
    likely = np.log(smooth / smooth.sum(axis=1, keepdims=True))
    return int(np.argmax(likely @ there + np.log(np.maximum(n, 0.5))))


def _keyword(there: np.ndarray, seen: np.ndarray, n: np.ndarray) -> int:
    """The class that the most telling word of the text speaks for; the largest where none does."""
    precision = (seen - 1).clip(0) / np.maximum(seen.sum(axis=0), 1)  # one text alone is no rule
    strength = precision * there
    found = np.unravel_index(np.argmax(strength), strength.shape)
    return int(found[0]) if strength[found] > 0 else int(np.argmax(n))


def alike(ones: Mapping[str, str], others: Mapping[str, str], most: int = 1) -> list[Nearest]:
    """The most alike pairs of two sets (id → text): the geometric mean of two measures.

    characters: cosine of tf-idf over `pieces`, which the same form in other words raises; words:
    the idf of the words that both have over that of the words that either has, which the same
    subject raises. What every text has weighs next to nothing. A set is compared with itself
    without each text's own place.
    """
    texts = [*ones.values(), *others.values()]
    weights = _weights(texts, pieces)
    characters = (weights[: len(ones)] @ weights[len(ones) :].T).toarray()
    overlap = _overlap(texts, len(ones))
    both = np.sqrt(characters * overlap)
    if ones is others:
        both = np.triu(both, 1)
    names, theirs = list(ones), list(others)
    pairs = zip(*np.unravel_index(np.argsort(-both, axis=None)[:most], both.shape), strict=True)
    return [
        Nearest(
            float(both[i, j]), float(characters[i, j]), float(overlap[i, j]), names[i], theirs[j]
        )
        for i, j in pairs
    ]


def _overlap(texts: Sequence[str], first: int) -> np.ndarray:
    counts, idf = _counts(texts, words)
    present = (counts > 0).astype(float).multiply(idf).tocsr()
    ones, others = present[:first], present[first:]
    shared = (ones @ (others > 0).astype(float).T).toarray()
    either = ones.sum(axis=1).reshape(-1, 1) + others.sum(axis=1).reshape(1, -1) - shared
    return np.asarray(shared / np.maximum(either, 1e-9))


def _weights(texts: Sequence[str], features: Features) -> Any:
    """tf-idf rows of length 1."""
    counts, idf = _counts(texts, features)
    weights = counts.multiply(idf).tocsr()
    lengths = np.sqrt(weights.multiply(weights).sum(axis=1))
    return weights.multiply(1 / np.maximum(np.asarray(lengths).reshape(-1, 1), 1e-9)).tocsr()


def _counts(texts: Sequence[str], features: Features) -> tuple[Any, np.ndarray]:
    """How often each feature stands in each text [texts, features], and the features' idf."""
    found = [Counter(features(text)) for text in texts]
    columns = {name: i for i, name in enumerate(sorted({f for each in found for f in each}))}
    cells = [(i, columns[f], n) for i, each in enumerate(found) for f, n in each.items()]
    rows, places, values = np.array(cells, dtype=float).reshape(-1, 3).T
    counts = scipy.sparse.csr_array((values, (rows.astype(int), places.astype(int))),
                                    shape=(len(texts), len(columns)))  # fmt: skip
    in_texts = np.asarray((counts > 0).sum(axis=0)).ravel()
    return counts, np.log((1 + len(texts)) / in_texts)


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    """labels.jsonl: id → a second labeller's answer, from prompt, schema and input alone."""
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    return {one["id"]: one["label"] for one in map(loads_strictly, lines)}


def read_resolved(path: Path) -> tuple[Resolved, ...]:
    """resolved.jsonl, which is not there where no record was read again."""
    lines = read_text(path).split("\n") if path.is_file() else []
    return tuple(Resolved(**loads_strictly(line)) for line in lines if line.strip())


def agreements(
    domain: Domain, labels: Mapping[str, dict[str, Any]], resolved: Sequence[Resolved] = ()
) -> dict[str, Agreement]:
    """How far a second labelling agrees with gold as it was then, on the records judged for a field."""
    first = {one.id: one.gold for one in resolved}
    records = [r.model_copy(update={"gold": first.get(r.id, r.gold)}) for r in domain.records]
    return {
        field: _agreement(how, [(r, labels[r.id]) for r in records if how.judges(r.gold)], field)
        for field, how in domain.chain.metrics.items()
    }


def disagreements(
    domain: Domain, labels: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Record and field wherever one of `labels` differs from gold in a field that has a kappa."""
    for field, how in domain.chain.metrics.items():
        records = [r for r in judged(domain, field) if r.id in labels and how.metric not in TEXTS]
        for record in records:
            gold, label = record.gold.get(field), labels[record.id].get(field)
            if score(how, label, gold, record.input) < 1:
                yield record.id, field


def _agreement(
    how: FieldScoring, pairs: Sequence[tuple[Record, dict[str, Any]]], field: str
) -> Agreement:
    values = [(r.gold.get(field), other.get(field), r.input) for r, other in pairs]
    if how.metric in TEXTS:
        plain = FieldScoring(metric="token_f1") if how.metric == "verbatim" else how
        scores = [score(plain, theirs, ours, text) for ours, theirs, text in values]
        harm = [bool(dangers(how, theirs, ours, text)) for ours, theirs, text in values]
        dangerous = sum(harm) if how.metric == "clinical" else None
        return Agreement(len(values), float(np.mean(scores)), None, dangerous=dangerous)
    return _kappa([value[:2] for value in values], how)


def _kappa(pairs: Sequence[tuple[Any, Any]], how: FieldScoring) -> Agreement:
    """Values that the field's metric takes for equal are one category."""
    kinds: list[Any] = []
    for value in (value for pair in pairs for value in pair):
        if not any(score(how, value, kind, "") == 1 for kind in kinds):
            kinds.append(value)
    table = np.zeros((len(kinds), len(kinds)))
    for pair in pairs:
        table[tuple(_kind(value, kinds, how) for value in pair)] += 1
    agreement = float(np.trace(table) / len(pairs))
    if agreement == 1:  # the estimate of kappa's error is 0, or a root of less than nothing
        return Agreement(len(pairs), agreement, 1.0)
    found = cohens_kappa(table)
    low, high = float(found.kappa_low), min(1.0, float(found.kappa_upp))
    return Agreement(len(pairs), agreement, float(found.kappa), low, high)


def _kind(value: Any, kinds: Sequence[Any], how: FieldScoring) -> int:
    return next(i for i, kind in enumerate(kinds) if score(how, value, kind, "") == 1)


def planted(note: str) -> Iterator[tuple[str, str]]:
    """Kind of error → the note with one such error planted: each number, unit, side and negation."""
    for kind, (pattern, wrong) in PLANTED.items():
        for match in re.finditer(pattern, note):
            yield kind, note[: match.start()] + wrong(match[0]) + note[match.end() :]


def planted_found(domain: Domain, field: str) -> dict[str, tuple[int, int]]:
    """Kind of error → in how many notes with one planted it is found, and how many there are."""
    how, found, there = domain.chain.metrics[field], Counter[str](), Counter[str]()
    for record in judged(domain, field):
        gold = record.gold[field]
        for kind, note in planted(gold):
            there[kind] += 1
            found[kind] += bool(dangers(how, note, gold, record.input))
    return {kind: (found[kind], n) for kind, n in there.items()}


def lengths(records: Sequence[Record]) -> tuple[int, ...]:
    """Least, quartiles and most words of the inputs."""
    counts = [len(record.input.split()) for record in records]
    return tuple(round(float(q)) for q in np.percentile(counts, [0, 25, 50, 75, 100]))


def lengths_by_class(records: Sequence[Record], field: str) -> Iterator[tuple[str, int, int]]:
    """Each value of a field with its records and the median words of their inputs."""
    for value, n in Counter(json.dumps(r.gold.get(field)) for r in records).most_common():
        own = [r for r in records if json.dumps(r.gold.get(field)) == value]
        yield value.strip('"'), n, lengths(own)[2]
