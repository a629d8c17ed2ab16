"""Forced text: what the grammar leaves no choice about is written without asking the model.

    prompt ▶ one run ▶ mask, argmax ▶ chosen token │ forced tokens ▶ one run ▶ mask, argmax ▶ …

The same rule as in page/forced.js, which writes the same tokens at the same steps: where the bytes that
come next are known, they are written as the tokenizer writes them. Their end is left to the model as
far as a longer token might begin in it, and what was chosen is never taken back. The first token is the
model's, even where its bytes are known: the prompt has to be read for one, and a model that was not
fine-tuned begins an object otherwise than the tokenizer, after which all values are others.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.evaluate.models.chat import Chat
from shared.evaluate.models.masks import Masks

FORCING = True
"""Whether answers are written so unless asked otherwise; page and card have the same FORCING."""
OTHER_SCRIPT = re.compile(r"[^\x00-\x7f]+\Z")
"""At the end of a forced text it may be cut within a character, so the model writes it."""


class Forced:
    """The forced tokens of answers under one grammar."""

    def __init__(
        self, masks: Masks, encode: Callable[[str], Sequence[int]], on: bool | None = None
    ) -> None:
        """`encode`: a text's token ids, without special tokens; `on`: FORCING if None."""
        self.masks, self._encode = masks, encode
        self.on = FORCING if on is None else on
        named = sorted((token, index) for index, token in enumerate(masks.tokens) if token)
        self._spelt, self._ids = [token for token, _ in named], np.array([i for _, i in named])
        self._longest = max(map(len, self._spelt))
        self._line = list(encode("\n"))

    @classmethod
    def under(
        cls, grammar: str, chat: Chat, stop: Sequence[int], on: bool | None = None
    ) -> "Forced":
        """The grammar for a chat's vocabulary; `stop`: the ids that may follow a whole answer."""
        return cls(Masks(chat.tokenizer_json(), stop, grammar), chat.encode, on)

    def turn(self, matcher: Any, token: int, most: int) -> list[int]:
        """A token that was chosen and those forced after it, `most` in all: the next run's."""
        if token in self.masks.stop or not matcher.accept_token(token):
            return [token]
        return [token, *self.after(matcher, token)][:most]

    def after(self, matcher: Any, last: int) -> list[int]:
        """The tokens that can only come after `last`, which `matcher` has accepted, and does these. A
        stop token ends them where nothing else may follow; no matcher accepts that one."""
        if not self.on:
            return []
        text = _forced_text(matcher)
        found, end = self._accepted(matcher, text, last) if text else ([], 0)
        return [*found, *self._ending(matcher)] if end == len(text) else found

    def writes(self, ids: Sequence[int]) -> bool:
        """Whether these are a whole answer's tokens, chosen and forced as here."""
        (matcher,), found = self.masks.start(1), list[int]()
        while len(found) < len(ids):
            token = ids[len(found)]
            if token >= len(self.masks.tokens) or not matcher.accept_token(token):
                return False
            found += [token, *([] if token in self.masks.stop else self.after(matcher, token))]
        stops = self.masks.stop  # all end it, and stand in no text
        alike = ([min(stops) if i in stops else i for i in row] for row in (found[: len(ids)], ids))
        return next(alike) == next(alike)

    def _accepted(self, matcher: Any, text: bytes, last: int) -> tuple[list[int], int]:
        """The tokens that spell the text as far as it is sure, and how many bytes they are."""
        sure, end, found = self._sure(matcher, text), 0, []
        for token in self._written(text, last):
            length = len(self.masks.tokens[token])
            if end + length > sure or not matcher.accept_token(token):
                break
            end += length
            found.append(token)
        return found, end

    def _written(self, text: bytes, last: int) -> Sequence[int]:
        """The text's tokens after `last`; as they are alone where both would be written otherwise. None
        where these spell something else."""
        before = self.masks.tokens[last]
        for first, whole in (([last], before + text), ([], text)):
            ids = self._within(whole)
            rest = ids[len(first) :]
            if ids[: len(first)] == first and text == b"".join(self.masks.tokens[i] for i in rest):
                return rest
        return []

    def _within(self, text: bytes) -> list[int]:
        """Its tokens where it does not begin a text: some tokenizers put a space before what does."""
        try:
            ids = list(self._encode("\n" + text.decode()))
        except UnicodeDecodeError:
            return []
        begins = ids[: len(self._line)] == self._line
        return ids[len(self._line) :] if begins else list(self._encode(text.decode()))

    def _sure(self, matcher: Any, text: bytes) -> int:
        """How many bytes of the text no longer token reaches into that goes on as the grammar may."""
        for place in range(max(0, len(text) - self._longest + 1), len(text)):
            longer = self._beginning(text[place:])
            if not len(longer):
                continue
            if place:
                matcher.accept_string(text[:place])
            forbidden = self._forbidden(matcher)
            if place:
                matcher.rollback(1)
            if not forbidden[longer].all():
                return place
        return len(text)

    def _beginning(self, start: bytes) -> np.ndarray:
        """The tokens that begin so and go on."""
        ends = (start, start + b"\xff" * self._longest)
        first, last = (bisect_right(self._spelt, end) for end in ends)
        found: np.ndarray = self._ids[first:last]
        return found

    def _ending(self, matcher: Any) -> list[int]:
        stop = self.masks.stop
        if not stop or not matcher.accept_token(
            stop[0]
        ):  # sooner told than the mask of a long text
            return []
        matcher.rollback(1)
        allowed = ~self._forbidden(matcher)
        ends = allowed[[token for token in stop if token < len(allowed)]].sum()
        return list(stop[:1]) if ends and ends == allowed.sum() else []

    def _forbidden(self, matcher: Any) -> np.ndarray:
        found: np.ndarray = self.masks.forbidden([matcher], len(self.masks.tokens))[0]
        return found


def _forced_text(matcher: Any) -> bytes:
    try:
        text = str(matcher.find_jump_forward_string())
    except UnicodeDecodeError as error:  # it ends within a character
        text = error.object[: error.start].decode()
    return OTHER_SCRIPT.sub("", text).encode()
