"""The snippets a reader copies, and the JavaScript module of the release that they import.

tests/test_package.py and tests/test_release.py run them as they stand.
"""

import re
from pathlib import Path

from shared.base import paths
from shared.evaluate.systems import Mode
from shared.release.model import MODULE_FILE, PAGE_PARTS

PACKAGES = "@huggingface/transformers@4.3.1 @mlc-ai/web-xgrammar@0.1.27"
"""As shared/webgpu_bench/package.json pins them, with which the answers were compared."""

INSTALL = """\
npm i {packages}
curl -LO https://huggingface.co/{name}/resolve/main/{module}"""

FIRST: dict[Mode, str] = {
    "constrained": """\
import {{ open }} from "./{module}";

const model = await open("{name}");
const answer = await model.ask("…your document…"); // held to schema.json
console.log(answer.whole ? JSON.parse(answer.text) : "cut off");""",
    "free": """\
import {{ open }} from "./{module}";

const model = await open("{name}");
const answer = await model.ask("…your document…", {{ held: false }});
console.log(answer.text); // free text: it need not be JSON""",
}
SECOND: dict[Mode, tuple[str, str]] = {
    "constrained": (
        "Free, not held to the schema:",
        """\
const free = await model.ask("…your document…", { held: false });
console.log(free.text); // free text: it need not be JSON""",
    ),
    "free": (
        "Held to `schema.json`, by XGrammar:",
        """\
const held = await model.ask("…your document…");
console.log(held.whole ? JSON.parse(held.text) : "cut off");""",
    ),
}
"""By the mode that came first: what the other is, and its code, which goes on from the first."""

PYTHON = """\
import json, pathlib, re
import onnxruntime_genai as og
from tokenizers import Tokenizer

folder = pathlib.Path("{name}")  # hf download … --local-dir {name}
model = og.Model(str(folder))
tokenizer = og.Tokenizer(model)
document = "…your document…"
while document != (document := document.strip().strip("\\ufeff")): pass
document = document.replace("\\r\\n", "\\n").replace("\\r", "\\n")
# What a document says is text: the name of a control token in it is written apart.
for token in json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]:
    name = token["content"]
    if len(name) > 1 and (token["special"] or re.fullmatch(r"<.+>|\\[.+\\]", name, re.S)):
        document = document.replace(name, f"{{name[0]}} {{name[1:]}}")
messages = [
    {{"role": "system", "content": (folder / "prompt.md").read_text("utf-8").strip()}},
    {{"role": "user", "content": document}},
]
text = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
file = Tokenizer.from_file(str(folder / "tokenizer.json"))
file.no_truncation(), file.no_padding()
ids = file.encode(text, add_special_tokens=False).ids
context = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["context_length"]
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=min(len(ids) + {most}, context), do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(ids)
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)[len(ids):]))"""

MODULE_TOKENS, PYTHON_TOKENS = 512, 256
"""Of an answer, at most: what docintel.mjs takes by itself, and what PYTHON says."""

AMONG_PARTS = re.compile(r'^import .* from "\./.*";\n+', re.MULTILINE)
"""What one of the page's files takes from another: in docintel.mjs they are one file."""

VERIFY = """\
./inv verify {name}
./inv verify {name} --public-key publisher.pem  # who signed it"""


def module() -> str:
    """docintel.mjs of every release: the page's own code in one file, and what asks with it."""
    parts = [paths.REPOSITORY / part for part in PAGE_PARTS]
    asks = Path(__file__).with_name("docintel.mjs")
    text = "".join(part.read_text(encoding="utf-8") for part in (*parts, asks))
    return AMONG_PARTS.sub("", text)


def usage_install(name: str) -> str:
    """What to fetch before `usage_js`: two packages, and the release's own module."""
    return INSTALL.format(packages=PACKAGES, name=name, module=MODULE_FILE)


def usage_js(name: str, mode: Mode, most: int = 0) -> tuple[str, str, str]:
    """Asking `org/name` in a page in `mode`; what the other mode is; the other mode, going on.

    `most`: the tokens of an answer that it was measured with, told where the module would take fewer.
    """
    (what, second), first = SECOND[mode], FIRST[mode].format(name=name, module=MODULE_FILE)
    return _with_room(first, most), what, _with_room(second, most)


def _with_room(code: str, most: int) -> str:
    if most <= MODULE_TOKENS:
        return code
    code = code.replace("{ held: false }", f"{{ held: false, max_new_tokens: {most} }}")
    return code.replace('document…")', f'document…", {{ max_new_tokens: {most} }})')


def usage_python(folder: str, most: int = 0) -> str:
    """Loading a downloaded folder with onnxruntime-genai on the CPU; `most`: as in `usage_js`."""
    return PYTHON.format(name=folder, most=max(PYTHON_TOKENS, most))


def usage_verify(name: str) -> str:
    """Checking `org/name` from a checkout of this repository."""
    return VERIFY.format(name=name)
