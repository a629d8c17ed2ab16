"""The parity gate's arithmetic: what is called agreement, and that the divergence is a lower bound."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from shared.domain.domain import domain_names, load_domain
from shared.domain.records import Record
from shared.evaluate.models.chat import Chat
from shared.evaluate.token_windows import held_out, windows_of
from shared.webgpu_bench import parity
from shared.webgpu_bench.parity import Summary
from shared.webgpu_bench.result import Parity, ParityPiece

VOCAB = 500
RNG = np.random.default_rng(0)


def summary(logits: np.ndarray, count: int) -> Summary:
    """What page/parity.js makes of logits [tokens, vocab]."""
    ids = np.argsort(-logits, axis=-1)[:, :count].astype(np.int32)
    kept = np.take_along_axis(logits, ids, axis=-1).astype(np.float32)
    return Summary(ids, kept, np.log(np.exp(logits).sum(axis=-1)))


def exact_divergence(p_logits: np.ndarray, q_logits: np.ndarray) -> np.ndarray:
    p = p_logits - np.log(np.exp(p_logits).sum(axis=-1, keepdims=True))
    q = q_logits - np.log(np.exp(q_logits).sum(axis=-1, keepdims=True))
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


class TestOnePosition:
    LOGITS = RNG.normal(scale=3, size=(20, VOCAB))

    def test_the_same_logits_agree_and_diverge_by_nothing(self) -> None:
        divergence, agreement, *_ = parity.compare_position(self.LOGITS, summary(self.LOGITS, 64))
        assert agreement.all()
        assert divergence.max() < 1e-6

    def test_over_all_tokens_it_is_the_kl_divergence(self) -> None:
        other = self.LOGITS + RNG.normal(size=self.LOGITS.shape)
        found = parity.compare_position(self.LOGITS, summary(other, VOCAB))[0]
        assert found == pytest.approx(exact_divergence(self.LOGITS, other), abs=1e-4)

    def test_over_a_few_tokens_it_is_a_lower_bound_and_near(self) -> None:
        other = self.LOGITS + RNG.normal(scale=0.3, size=self.LOGITS.shape)
        found, _, merged, _ = parity.compare_position(self.LOGITS, summary(other, 64))
        exact = exact_divergence(self.LOGITS, other)
        assert (found <= exact + 1e-6).all()
        assert found.mean() > exact.mean() / 2
        assert 0 < merged.mean() < 0.5

    def test_another_likeliest_token_is_no_agreement(self) -> None:
        other = self.LOGITS.copy()
        other[3, (int(self.LOGITS[3].argmax()) + 1) % VOCAB] += 50
        _, agreement, _, error = parity.compare_position(self.LOGITS, summary(other, 64))
        assert error[3] > 1 and np.delete(error, 3).max() < 1e-6
        assert agreement.sum() == len(self.LOGITS) - 1 and agreement[3] == 0

    def test_a_token_that_is_never_likely_is_seen_in_all_logits_of_one_position(self) -> None:
        ours = self.LOGITS.copy()
        ours[:, 7] -= 20
        other = ours.copy()
        other[:, 7] -= 0.01
        theirs = summary(other, 64)
        assert parity.compare_position(ours, theirs)[3].max() < 1e-6
        error = parity.compare_position(ours, replace(theirs, whole=other[-1]))[3]
        assert error[-1] == pytest.approx(0.01 / np.abs(ours[-1]).max(), rel=1e-3)
        other[-1, 7] = np.inf
        error = parity.compare_position(ours, replace(theirs, whole=other[-1]))[3]
        assert math.isinf(error[-1])

    def test_what_is_not_a_number_never_agrees(self) -> None:
        theirs = summary(self.LOGITS, 64)
        theirs.log_sums[0] = np.nan
        compared = parity.Comparison(*parity.compare_position(self.LOGITS, theirs))
        assert math.isinf(compared.divergence[0]) and compared.agreement[0] == 0
        assert math.isinf(compared.error[0])
        found = parity.measurements(compared, 20, "", True)
        assert found["parity_finite"].value == 0.95
        assert found["parity_kl_divergence"].value is None
        assert "not numbers" in str(found["parity_kl_divergence"].reason)


class TestMeasurements:
    def test_carry_their_errors_and_the_number_of_positions(self) -> None:
        agreement = np.array([1.0] * 99 + [0.0])
        read = parity.Comparison(np.linspace(0, 1, 100), agreement, *np.zeros((2, 100)))
        found = parity.measurements(read, 512, "here", False)
        share = found["parity_agreement"]
        assert (share.value, share.n) == (0.99, 100)
        assert share.standard_error == pytest.approx(math.sqrt(0.99 * 0.01 / 100))
        assert share.low is not None and share.high is not None and share.low < 0.95 < share.high
        assert found["parity_tokens"].value == 100 and "of 512" in found["parity_tokens"].how
        assert found["parity_finite"].value == 1

    def test_the_error_is_the_worst_positions(self) -> None:
        read = parity.Comparison(*np.zeros((3, 3)), np.array([0.0, 3e-5, 1e-6]))
        assert parity.measurements(read, 3, "", True)["parity_logits_error"].value == 3e-5

    def test_what_a_software_adapter_had_no_time_for_is_not_measured_yet(self) -> None:
        read = parity.Comparison(*np.zeros((4, 24)))
        found = parity.measurements(read, 512, "", True)
        assert found["parity_tokens"].value is None
        assert "only 24 of 512 positions" in str(found["parity_tokens"].reason)
        assert found["parity_kl_divergence"].value == 0

    def test_of_nothing_say_so(self) -> None:
        nothing = parity.Comparison(*np.zeros((4, 0)))
        soft = parity.measurements(nothing, 512, "", True)
        assert {m.value for m in soft.values()} == {None}
        found = parity.measurements(nothing, 512, "", False)
        assert found.pop("parity_tokens").value == 0, "known, and too few"
        assert {m.value for m in found.values()} == {None}
        assert "time budget" in str(found["parity_agreement"].reason)


class Bytes:
    """A chat whose tokens are the text's bytes."""

    class tokenizer:
        @staticmethod
        def encode(text: str, add_special_tokens: bool) -> list[int]:
            return list(text.encode())

    def prompt_ids(self, system: str | None, user: str) -> list[int]:
        return list(f"{system}{user}".encode())


def record(text: str) -> Record:
    return Record(id=text[:8], input=text, gold={"a": 1})


class TestTheText:
    RECORDS = tuple(record(f"{n:08d}" + "x" * (40 + n)) for n in range(10))
    SHARED = b"p0000000"

    def rows(self, tokens: int, longest: int, count: int = 10) -> list[list[int]]:
        return windows_of(Bytes(), held_out("p", self.RECORDS[:count]), tokens, longest)

    def stream(self) -> bytes:
        whole = [f'{r.input}{{"a": 1}}'.encode() for r in self.RECORDS]
        return b"".join(text[len(self.SHARED) - 1 :] for text in whole)

    def test_is_as_many_windows_of_one_length_as_the_tokens_need(self) -> None:
        assert [len(row) for row in self.rows(200, 50)] == [50] * 4
        assert [len(row) for row in self.rows(201, 50)] == [50] * 5

    def test_are_consecutive_pieces_of_the_chats_without_what_all_begin_with(self) -> None:
        rows = self.rows(10_000, 50)
        assert len(rows) == len(self.stream()) // 50
        assert b"".join(map(bytes, rows)) == self.stream()[: 50 * len(rows)]

    def test_comes_from_everywhere_in_the_chats(self) -> None:
        places = [self.stream().index(bytes(row)) for row in self.rows(200, 50)]
        assert places == sorted(places) and places[0] == 0
        assert places[-1] > len(self.stream()) / 2

    def test_has_no_window_twice(self) -> None:
        rows = self.rows(10_000, 8)
        assert len({tuple(row) for row in rows}) == len(rows)
        assert len(rows) < len(self.stream()) // 8, "the x repeat themselves"

    def test_takes_all_there_is_where_that_is_less(self) -> None:
        [row] = self.rows(4000, 1000, count=1)
        assert bytes(row).startswith(b"p") and bytes(row).endswith(b'{"a": 1}')

    def test_stays_under_the_software_adapters_fault(self) -> None:
        for size in (100_000_000, 2_000_000_000):
            how = parity.batching(512, size, hardware=False)
            assert how.piece < 32 and how.longest > how.piece, "the cache is read too"

    def test_of_a_large_model_is_read_row_by_row_on_a_software_adapter(self) -> None:
        assert parity.batching(512, 2_000_000_000, hardware=False).batch == 1

    @pytest.mark.parametrize("name", domain_names())
    @pytest.mark.parametrize("hardware", [False, True])
    def test_of_every_domain_is_enough_for_the_gate(
        self, embedded: Path, name: str, hardware: bool
    ) -> None:
        domain = load_domain(name)
        how = parity.batching(512, 100_000_000, hardware=hardware)
        text = held_out(domain.prompt, domain.records)
        rows = windows_of(Chat(embedded), text, how.tokens, how.longest)
        assert len({tuple(row) for row in rows}) * how.longest >= 512


@dataclass
class Memory:
    """A CPU whose logits depend on all it has read since `reset`."""

    total: int = 0

    def reset(self) -> None:
        self.total = 0

    def feed(self, ids: list[int]) -> np.ndarray:
        out = []
        for token in ids:
            self.total += token
            out.append(np.roll(np.linspace(0, 9, VOCAB), self.total))
        return np.array(out)


def coded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def piece(rows: list[list[int]], row: int, start: int, end: int) -> ParityPiece:
    """The browser's answer for rows[row:] of a model that is `Memory` itself."""
    found: list[Any] = []
    for ids in rows[row:]:
        memory = Memory()
        memory.feed(ids[:start])
        found.append(summary(memory.feed(ids[start:end]), 8))
    return ParityPiece(
        row=row,
        start=start,
        rows=len(found),
        tokens=end - start,
        ids=coded(np.array([f.ids for f in found], np.int32)),
        logits=coded(np.array([f.logits for f in found], np.float32)),
        log_sums=coded(np.array([f.log_sums for f in found], np.float32)),
        ms=1.0,
    )


class TestSideBySide:
    ROWS: ClassVar = [[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]]

    def test_every_row_continues_its_own_text(self) -> None:
        pieces = [piece(self.ROWS, 0, 0, 3), piece(self.ROWS, 0, 3, 5)]
        found = parity.compare(Memory(), self.ROWS, Parity(pieces=pieces))
        assert len(found.agreement) == 10 and found.agreement.all()
        assert found.divergence.max() < 1e-5

    def test_what_the_browser_did_not_reach_is_not_counted(self) -> None:
        found = parity.compare(Memory(), self.ROWS, Parity(pieces=[piece(self.ROWS, 0, 0, 3)]))
        assert len(found.agreement) == 6

    def test_no_piece_is_no_position(self) -> None:
        assert len(parity.compare(Memory(), self.ROWS, Parity()).agreement) == 0


class TestRounding:
    """Both compute in float32, and a model may amplify what that rounds away, at single positions."""

    ROWS: ClassVar = [[1, 2, 3, 4, 5] * 2, [9, 8, 7, 6, 5] * 2]

    def worst(self, large: int, error: float, n: int = 512) -> tuple[float, int]:
        errors = np.where(np.arange(n) < large, error, 1e-6)
        return parity.Comparison(*np.zeros((3, n)), errors).worst_error

    def test_is_left_out_where_it_is_amplified(self) -> None:
        """As a release of the example's did: 1.4e-4 at the second token, 2e-5 at six others."""
        assert self.worst(7, 1.4e-4) == (1e-6, 10)

    def test_of_many_positions_is_none(self) -> None:
        assert self.worst(11, 5e-5) == (5e-5, 10)

    def test_that_is_far_greater_is_none(self) -> None:
        assert self.worst(1, 5e-3) == (5e-3, 0)

    def test_is_one_position_of_a_short_text(self) -> None:
        """A 3B is read at 24."""
        assert self.worst(1, 1e-4, n=24) == (1e-6, 1) and self.worst(2, 1e-4, n=24) == (1e-4, 1)

    def test_that_is_no_number_counts(self) -> None:
        errors = np.array([1e-6] * 40 + [np.inf])
        assert parity.Comparison(*np.zeros((3, 41)), errors).worst_error == (np.inf, 0)
        assert self.worst(1, 1e-4, n=19) == (1e-4, 0)

    def test_is_told(self) -> None:
        found = piece(self.ROWS, 0, 0, 10)
        logits = np.frombuffer(base64.b64decode(found.logits), np.float32).reshape(2, 10, -1).copy()
        logits[0, 1] += 5e-5 * np.abs(logits[0, 1]).max()
        shifted = found.model_copy(update={"logits": coded(logits)})
        read = parity.compare(Memory(), self.ROWS, Parity(pieces=[shifted]))
        told = parity.measurements(read, 20, "", True)["parity_logits_error"]
        assert float(told.value or 0) < 1e-6 and "without the 1 largest of 20" in told.how


class TestWhatWasReadBefore:
    ROWS: ClassVar = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]

    def read(self, row: int, start: int, end: int) -> ParityPiece:
        whole = piece(self.ROWS, row, start, end)
        return whole.model_copy(update={"rows": 1})

    def test_counts_by_whole_rows(self) -> None:
        pieces = [self.read(0, 0, 2), self.read(0, 2, 3), self.read(1, 0, 2)]
        assert parity.whole_rows(pieces, self.ROWS) == (pieces[:2], 1)

    def test_is_nothing_where_no_row_was_finished(self) -> None:
        assert parity.whole_rows([self.read(0, 0, 2)], self.ROWS) == ([], 0)

    def test_is_not_asked_for_again(self) -> None:
        how = parity.Batching(9, batch=1, piece=2, longest=3)
        asked = parity.request(self.ROWS, how, 2)
        assert (asked["rows"], asked["offset"]) == ([[7, 8, 9]], 2)
