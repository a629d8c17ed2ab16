"""The chat template that ships: the folder's own with its options settled, or its text spelt out.

Transformers.js and onnxruntime-genai take no options and know a part of Jinja only. What they make
of either is compared with the folder's own template (shared.prompt.stage).
"""

import json
from collections.abc import Iterator
from typing import Any

from shared.source.tokenizer import OPTIONS, chat_text

SYSTEM, USER = "⟦system⟧", "⟦user⟧"
"""What is rendered to find the text around them; no template writes these."""


def candidates(tokenizer: Any, template: str) -> Iterator[str]:
    """Templates to try, the one nearest to the folder's first; but one that writes the day would be
    another tomorrow, so its text as it is today comes before it."""
    own, plain = settled(template), spelt_out(tokenizer)
    dated = "strftime_now" in template
    yield from filter(None, (plain, own) if dated else (own, plain))


def settled(template: str) -> str:
    """The template with OPTIONS set at its beginning, those that it knows; else the same text."""
    known = {name: value for name, value in OPTIONS.items() if name in template}
    lines = (f"{{%- set {name} = {json.dumps(value)} -%}}" for name, value in known.items())
    return "".join(lines) + template


def spelt_out(tokenizer: Any) -> str | None:
    """A template of nothing but the text that stands around a system prompt and one question.

    It depends on nothing: a date that the template writes is the build's. None where the template
    changes the text, or tells these two apart in another way.
    """
    whole = chat_text(tokenizer, SYSTEM, USER)
    alone = chat_text(tokenizer, None, USER)
    before, found_system, rest = whole.partition(SYSTEM)
    between, found_user, after = rest.partition(USER)
    start, found_alone, end = alone.partition(USER)
    once = SYSTEM not in after and USER not in after + end
    if not (found_system and found_user and found_alone and once) or end != after:
        return None
    return (
        "{%- if messages[0]['role'] == 'system' -%}"
        f"{{{{ {_quoted(before)} + messages[0]['content'] + {_quoted(between)}"
        f" + messages[1]['content'] + {_quoted(after)} }}}}"
        "{%- else -%}"
        f"{{{{ {_quoted(start)} + messages[0]['content'] + {_quoted(after)} }}}}"
        "{%- endif -%}"
    )


def _quoted(text: str) -> str:
    """A Jinja string, in the escapes that every renderer knows."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
