"""Constrained decoding: at every step only tokens that keep the answer within the grammar.

XGrammar does it, in the page too: npm's 0.1.27 has the core of PyPI's 0.1.29. Both read the same text
(shared.domain.grammar) and the vocabulary of tokenizer.json, so their masks are equal bit for bit.
"""

import functools
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import xgrammar

from shared.base.progress import say

SLOW = 2.0
"""Seconds from which compiling is worth a line."""


class Masks:
    """A grammar compiled for one vocabulary."""

    def __init__(self, tokenizer: str, stop: Sequence[int], grammar: str) -> None:
        """`tokenizer`: a tokenizer.json; `stop`: the ids that may follow a whole answer."""
        self.stop = tuple(stop)
        self._compiled = _compiled(tokenizer, self.stop, grammar)
        self.tokens: list[bytes] = self._compiled.tokenizer_info.decoded_vocab

    def start(self, rows: int) -> list[Any]:
        """A fresh matcher for each row; `accept_token` moves it on."""
        return [xgrammar.GrammarMatcher(self._compiled) for _ in range(rows)]

    def forbidden(self, matchers: Sequence[Any], width: int) -> np.ndarray:
        """[rows, width] of bool: the tokens that may not come next, and any without a name."""
        size = len(self.tokens)
        bits = xgrammar.allocate_token_bitmask(len(matchers), size)
        for row, matcher in enumerate(matchers):
            matcher.fill_next_token_bitmask(bits, row)
        allowed = np.unpackbits(bits.numpy().view(np.uint8), axis=-1, bitorder="little")
        found = np.ones((len(matchers), width), bool)
        found[:, : min(size, width)] = allowed[:, : min(size, width)] == 0
        return found


def vocabulary(tokenizer: dict[str, Any]) -> tuple[list[str], str]:
    """The tokens of a tokenizer.json by id, and how they stand for bytes; as page/grammar.js has them.

    Special tokens are empty: they are no part of an answer.
    """
    listed = tokenizer["model"]["vocab"]
    named = listed if isinstance(listed, dict) else {t: i for i, (t, _) in enumerate(listed)}
    tokens = {index: token for token, index in named.items()}
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = "" if added["special"] else added["content"]
    decoder = json.dumps(tokenizer["decoder"])
    kind = "raw"
    if '"ByteLevel"' in decoder:
        kind = "byte_level"
    elif '"ByteFallback"' in decoder:
        kind = "byte_fallback"
    return [tokens.get(index, "") for index in range(max(tokens) + 1)], kind


@functools.lru_cache(maxsize=2)
def _compiled(tokenizer: str, stop: tuple[int, ...], grammar: str) -> Any:
    started = time.perf_counter()
    tokens, kind = vocabulary(json.loads(tokenizer))
    info = xgrammar.TokenizerInfo(
        tokens,
        xgrammar.VocabType[kind.upper()],
        vocab_size=len(tokens),
        stop_token_ids=list(stop),
    )
    compiled = xgrammar.GrammarCompiler(info).compile_grammar(grammar)
    seconds = time.perf_counter() - started
    if seconds > SLOW:
        say(f"      the grammar of schema.json took {seconds:.0f} s to compile")
    return compiled
