"""Thirty schemas as people have them: refused by keyword, or equal masks in Python and in the page."""

from __future__ import annotations

import datetime
import enum
import json
import subprocess
import uuid
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, EmailStr, Field
from tokenizers import Tokenizer

from shared.base.errors import UserError
from shared.base.paths import REPOSITORY
from shared.domain.domain import load_domain
from shared.domain.grammar.schema import grammar
from shared.evaluate.models.masks import Masks
from tests.tiny import FEW_TOKENS, VOCABULARY, first_tokens

BENCH = REPOSITORY / "shared" / "webgpu_bench"
PADDING = 32
"""Some rows more than the vocabulary has, as in models whose table is padded."""
STOP = [0, 2]


class Colour(enum.Enum):
    red = "rouge"
    blue = "синий"
    quoted = 'a "b" \\ c'


class Address(BaseModel):
    street: str
    zip: Annotated[str, Field(pattern=r"^\d{5}(-\d{4})?$")]


class Person(BaseModel):
    """Nested, optional, with a date."""

    name: Annotated[str, Field(min_length=1)]
    born: datetime.date | None = None
    home: Address | None
    former: list[Address] = []


class Invoice(BaseModel):
    number: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d+$")]
    issued: datetime.datetime
    total: Annotated[float, Field(ge=0, lt=1000)]
    items: Annotated[int, Field(gt=0, le=120)]
    currency: Literal["EUR", "USD", "円"]


class Contact(BaseModel):
    id: uuid.UUID
    mail: EmailStr
    at: datetime.time
    lasts: datetime.timedelta


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Pet(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Counts(BaseModel):
    by_name: dict[str, int]
    point: tuple[int, float]


class Tags(BaseModel):
    tags: set[str]


class Price(BaseModel):
    cents: Annotated[int, Field(multiple_of=5)]


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


DRAFT_7 = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "definitions": {"money": {"type": "number", "minimum": 0.01}},
    "type": "object",
    "properties": {"fee": {"$ref": "#/definitions/money"}, "note": {"type": ["string", "null"]}},
    "additionalProperties": False,
}
ANSWERS: list[tuple[dict[str, Any], Any]] = [
    (Person.model_json_schema(), {"name": "É", "born": None, "home": None}),
    (
        Person.model_json_schema(),
        {
            "name": "Ann",
            "born": "2024-02-29",
            "home": {"street": 'a "quoted"\nstreet', "zip": "12345-6789"},
            "former": [{"street": "", "zip": "12345"}],
        },
    ),
    (
        Invoice.model_json_schema(),
        {
            "number": "AB-12",
            "issued": "2024-01-31T23:59:59Z",
            "total": 999.5,
            "items": 120,
            "currency": "円",
        },
    ),
    (
        Contact.model_json_schema(),
        {
            "id": "123e4567-e89b-12d3-a456-426614174000",
            "mail": "a.b@example.org",
            "at": "08:30:00Z",
            "lasts": "P1DT2H",
        },
    ),
    (Pet.model_json_schema(), {"pet": {"kind": "dog", "barks": True}}),
    (Tree.model_json_schema(), {"value": -1, "children": [{"value": 0, "children": []}]}),
    (Counts.model_json_schema(), {"by_name": {"a": 1, 'q"': 2}, "point": [1, 2.5e3]}),
    (obj(url={"type": "string", "format": "uri"}), {"url": "https://a.example/b?c=d"}),
    (obj(c={"enum": [c.value for c in Colour]}), {"c": 'a "b" \\ c'}),
    (obj(c={"enum": [c.value for c in Colour]}), {"c": "синий"}),
    (obj(c={"const": {"a": [1, None]}}), {"c": {"a": [1, None]}}),
    (DRAFT_7, {"fee": 0.01, "note": "x"}),
    (DRAFT_7, {}),
    (obj(a={"type": "string", "minLength": 2, "maxLength": 5}), {"a": "日本語"}),
    (obj(a={"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3}), {"a": ["x", "y"]}),
    (obj(a={"type": "string", "pattern": "^[а-яё]+ .{2}$"}), {"a": "да 😀x"}),
    (obj(a={"anyOf": [{"type": "integer"}, {"type": "string"}]}), {"a": "7"}),
    (obj(a={"type": ["number", "null"], "exclusiveMinimum": -1}), {"a": -0.5}),
    (obj(a={}), {"a": {"b": [True, None, 1e5, "x"]}}),
    ({"type": "object", "additionalProperties": {"type": "boolean"}}, {"a": True, "b": False}),
    (obj(a={"type": "string", "format": "ipv4"}), {"a": "10.0.0.255"}),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    (Tags.model_json_schema(), "/properties/tags/uniqueItems"),
    (Price.model_json_schema(), "/properties/cents/multipleOf"),
    (Loose.model_json_schema(), "/additionalProperties"),
    (obj(a={"allOf": [{"minLength": 1}, {"maxLength": 2}]}), "/properties/a/allOf"),
    (obj(a={"not": {"const": 1}}), "/properties/a/not"),
    (obj(a={"type": "integer"}) | {"if": {}, "then": {}}, "/if"),
    (obj(a={"type": "integer"}) | {"dependentRequired": {"a": ["b"]}}, "/dependentRequired"),
    (obj(a={"$ref": "https://example.org/a.json"}), "/properties/a/$ref"),
    (obj(a={"oneOf": [{"type": "number"}, {"minimum": 2}]}), "/properties/a/oneOf"),
]


@pytest.mark.parametrize(("schema", "path"), REFUSED, ids=[path for _, path in REFUSED])
def test_what_no_grammar_says_is_refused_at_once(schema: Any, path: str) -> None:
    with pytest.raises(UserError) as error:
        grammar(schema)
    assert str(error.value).startswith(f"schema.json: {path}: ")


def shown(answer: Any) -> str:
    return json.dumps(answer, ensure_ascii=False)


def peoples() -> list[tuple[str, str]]:
    """(grammar, answer as it is written)."""
    for schema, answer in ANSWERS:
        jsonschema.validate(answer, schema)
    return [(grammar(schema), shown(answer)) for schema, answer in ANSWERS]


def ours() -> list[tuple[str, str]]:
    """A record of a domain: a mask of all tokens takes long in a bounded string."""
    legal = load_domain("legal")
    return [(grammar(legal.schema), shown(record.gold)) for record in legal.records[:1]]


def steps(masks: Masks, ids: list[int], width: int) -> list[str]:
    """The SHA-256 of which tokens are allowed, before each of `ids` and after them."""
    (matcher,) = masks.start(1)
    found = []
    for token in [*ids, None]:
        forbidden = masks.forbidden([matcher], width)[0]
        found.append(sha256((~forbidden).astype(np.uint8).tobytes()).hexdigest())
        if token is not None:
            assert not forbidden[token] and matcher.accept_token(token)
    assert (~forbidden).nonzero()[0].tolist() == STOP, "after the answer it can only end"
    return found


@pytest.mark.parametrize(("answered", "tokens"), [(peoples, FEW_TOKENS), (ours, VOCABULARY)])
def test_masks_in_python_and_in_the_page_are_equal_at_every_step(
    answered: Callable[[], list[tuple[str, str]]], tokens: int, embedded: Path, tmp_path: Path
) -> None:
    """People's with the first tokens: with all of them a minute goes by in compiling the grammars."""
    text, width = first_tokens(embedded, tokens), tokens + PADDING
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    tokenizer = Tokenizer.from_file(str(file))
    cases = [
        {"grammar": held, "ids": tokenizer.encode(answer, add_special_tokens=False).ids}
        for held, answer in answered()
    ]
    job = {
        "modules": str(BENCH / "node_modules"),
        "page": str(BENCH / "page"),
        "tokenizer": str(file),
        "stop": STOP,
        "width": width,
        "cases": cases,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("masks.mjs")
    run = subprocess.run(
        ["node", str(script), str(tmp_path / "job.json")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    here = [steps(Masks(text, STOP, str(c["grammar"])), list(c["ids"]), width) for c in cases]
    assert here == json.loads(run.stdout)
