"""Schema-constrained decoding: at every step only tokens that keep the answer within the schema.

The grammar is llguidance's, which onnxruntime-genai carries inside; for PyTorch the same library
masks the logits. White space is fixed to what `json.dumps` writes, so that no answer is spent on
blank lines.
"""

import json
from typing import Any

STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def grammar(schema: dict[str, Any]) -> str:
    """The schema as JSON text for either runtime, with llguidance's own key for white space."""
    return json.dumps(schema | {"x-guidance": STYLE})


class Masks:
    """One matcher a row; logits [rows, vocab] are masked in place."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop: list[int], schema: str) -> None:
        import llguidance.hf

        self._tokens = llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=vocabulary, eos_token=list(stop)
        )
        self._grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
        self._matcher = llguidance.LLMatcher
        fault = self._matcher.validate_grammar(self._grammar, self._tokens)
        if fault:
            raise ValueError(f"schema.json cannot be made a grammar: {fault}")

    def start(self, rows: int) -> list[Any]:
        """A fresh matcher for each row."""
        return [self._matcher(self._tokens, self._grammar) for _ in range(rows)]

    def apply(self, matchers: list[Any], logits: Any) -> None:
        """Put what the grammar forbids at minus infinity. `logits`: float tensor [rows, vocab].

        llguidance's own function for torch is compiled on first use, which takes a C++ compiler.
        """
        import llguidance.numpy
        import numpy as np
        import torch

        bits = llguidance.numpy.allocate_token_bitmask(len(matchers), logits.shape[-1])
        for row, matcher in enumerate(matchers):
            llguidance.numpy.fill_next_token_bitmask(matcher, bits, row)
        allowed = np.unpackbits(bits.view(np.uint8), axis=-1, bitorder="little")
        forbidden = torch.from_numpy(allowed[:, : logits.shape[-1]] == 0)
        logits.masked_fill_(forbidden, -torch.inf)
