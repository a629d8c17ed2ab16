"""The grammar of an answer: schema.json → EBNF, the one text that check, page and card read."""
