"""The card of a family: what its domains share, the bytes of each adapter, and how to switch.

A function of family.json alone, as a release's card is one of release.json; so `./inv verify` makes it
again and compares. What a domain's model knows is told by that domain's own card.
"""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.tables import table, words
from shared.release.card.front_matter import problems
from shared.release.card.sandbox import fill_in
from shared.release.card.usage import PYTHON_TOKENS, usage_install, usage_js, usage_verify
from shared.release.model import FamilyRelease

TEMPLATE = Path(__file__).with_name("family.md")
LARGE = re.compile(r"onnx/model_(\w+)\.onnx_data(?:_\d+)?")
DTYPES = ("q4f16", "q4")
DTYPE = DTYPES[0]

PYTHON = """\
import json, pathlib, re
import onnxruntime_genai as og
from tokenizers import Tokenizer

folder = pathlib.Path("{name}")  # hf download … --local-dir {name}
config = og.Config(str(folder))
config.overlay(json.dumps({{"model": {{"decoder": {{"filename": "onnx/swap_{dtype}.onnx"}}}}}}))
model = og.Model(config)
tokenizer = og.Tokenizer(model)
context = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["context_length"]
adapters = og.Adapters(model)
for file in (folder / "adapters").glob("*.onnx_adapter"):
    adapters.load(str(file), file.stem)

def as_text(document):
    while document != (document := document.strip().strip("\\ufeff")): pass
    document = document.replace("\\r\\n", "\\n").replace("\\r", "\\n")
    # What a document says is text: the name of a control token in it is written apart.
    for token in json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]:
        name = token["content"]
        if len(name) > 1 and (token["special"] or re.fullmatch(r"<.+>|\\[.+\\]", name, re.S)):
            document = document.replace(name, f"{{name[0]}} {{name[1:]}}")
    return document

def ask(domain, document):
    prompt = (folder / "domains" / domain / "prompt.md").read_text("utf-8").strip()
    messages = [
        {{"role": "system", "content": prompt}},
        {{"role": "user", "content": as_text(document)}},
    ]
    text = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    file.no_truncation(), file.no_padding()
    ids = file.encode(text, add_special_tokens=False).ids
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=min(len(ids) + {most}, context), do_sample=False)
    generator = og.Generator(model, parameters)
    generator.set_active_adapter(adapters, domain)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return tokenizer.decode(generator.get_sequence(0)[len(ids):])

for domain in {domains}:
    print(ask(domain, "…your document…"))"""


def render_family_card(family: FamilyRelease) -> str:
    """README.md of the family; UserError where the Hub would refuse it."""
    text = TEMPLATE.read_text(encoding="utf-8")
    return f"---\n{_front_matter(family)}\n---\n\n{fill_in(text, _places(family), TEMPLATE.name)}"


def _front_matter(family: FamilyRelease) -> str:
    named: dict[str, Any] = {
        "license_name": family.licence_name,
        "license_link": family.licence_link,
    }
    data = ModelCardData(
        license=family.licence,
        library_name="transformers.js",
        pipeline_tag="text-generation",
        tags=["onnx", "webgpu", "lora", "structured-output", "docintel", *family.domains],
        base_model=family.base,
        base_model_relation="quantized",
        model_name=family.repository.split("/")[-1],
        **{key: value for key, value in named.items() if value},
    )
    if problem := next(iter(problems(data.to_dict())), None):
        raise UserError(f"{family.name}: {problem}")
    return str(data.to_yaml(line_break="\n")).strip()


def _places(family: FamilyRelease) -> dict[str, Any]:
    org, _, title = family.repository.partition("/")
    first = next(iter(family.domains))
    model = f"{org}/{family.domains[first].model}"
    state = {True: "", False: ", with changes not committed", None: ""}[family.git_clean]
    rows = [
        ("base", family.base),
        ("calibrated on the texts of", ", ".join(family.calibrated)),
        ("adapters stored in", family.precision),
        ("code", f"{family.git_commit or 'not in git'}{state}"),
    ]
    return {
        "title": words(title),
        "summary": _summary(family),
        "notices": ""
        if family.commercial_use
        else "> **Non-commercial**: the base model's licence forbids commercial use.",
        "shared_table": _shared_table(family),
        "domains_table": _domains_table(family, org),
        "usage_install": usage_install(model),
        "usage_js": usage_js(model, "constrained", family.domains[first].max_new_tokens)[0],
        "usage_python": PYTHON.format(
            name=title, dtype=DTYPE, domains=sorted(family.domains), most=_most_tokens(family)
        ),
        "usage_verify": usage_verify(family.repository),
        "provenance": table(("what", "which"), rows),
    }


def _most_tokens(family: FamilyRelease) -> int:
    """Of an answer: no fewer than any domain was measured with."""
    return max(PYTHON_TOKENS, *(member.max_new_tokens for member in family.domains.values()))


def _summary(family: FamilyRelease) -> str:
    """How many domains, and what they take in a page together."""
    count = len(family.domains)
    base = sum(_bytes(family, DTYPE)[:2])
    own = sum(_adapter(family, name, ".safetensors") for name in family.domains)
    many = f"{count} domains" if count > 1 else "One domain"
    return (
        f"{many} on one 4-bit {words(family.base)}: {number(base + own, 'B')} to download as {DTYPE}, "
        f"{number(base, 'B')} of them once for all."
    )


def _bytes(family: FamilyRelease, dtype: str) -> tuple[int, int, int]:
    """Of the base's data, the graph that takes adapters, and the base's own graph."""
    sizes = {name: record.bytes for name, record in family.shared.items()}
    data = sum(b for name, b in sizes.items() if (m := LARGE.fullmatch(name)) and m[1] == dtype)
    graphs = (sizes.get(f"onnx/{kind}_{dtype}.onnx", 0) for kind in ("swap", "model"))
    return (data, *graphs)  # type: ignore[return-value]


def _shared_table(family: FamilyRelease) -> str:
    columns = [_bytes(family, dtype) for dtype in DTYPES]
    names = ("data of the base", "graph that takes an adapter", "graph of the base alone")
    rows = [(name, *(number(sizes[at], "B") for sizes in columns)) for at, name in enumerate(names)]
    return table(("shared by all", *DTYPES), rows)


def _domains_table(family: FamilyRelease, org: str) -> str:
    rows = [
        (
            name,
            number(_adapter(family, name, ".safetensors"), "B"),
            number(_adapter(family, name, ".onnx_adapter"), "B"),
            f"{org}/{member.model}",
        )
        for name, member in sorted(family.domains.items())
    ]
    heads = ("domain", "its adapter, for a page", "for onnxruntime-genai", "its repository")
    return table(heads, rows)


def _adapter(family: FamilyRelease, domain: str, kind: str) -> int:
    found = family.adapters[domain].files.get(f"adapters/{domain}{kind}")
    return found.bytes if found else 0
