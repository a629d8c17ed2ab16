"""The grammar of an answer: schema.json → EBNF, the one text that check, page and card read."""

from shared.domain.grammar.schema import grammar

__all__ = ["grammar"]
