"""The snippets a reader copies. tests/test_release.py runs the Python one as it stands."""

JS = """\
import {{ pipeline }} from "@huggingface/transformers";

const repository = "{name}";
const file = (path) => `https://huggingface.co/${{repository}}/resolve/main/${{path}}`;
const prompt = await (await fetch(file("prompt.md"))).text();

// q4f16 needs shader-f16; q4 runs on adapters without it.
const adapter = await navigator.gpu.requestAdapter();
const dtype = adapter.features.has("shader-f16") ? "q4f16" : "q4";

// What a document says is text: the name of a control token in it is written apart.
const {{ model, added_tokens, decoder }} = await (await fetch(file("tokenizer.json"))).json();
const steers = ({{ content, special }}) => special || /^(<.+>|\\[.+\\])$/s.test(content);
const names = added_tokens.filter(steers).map(({{ content }}) => content).filter((name) => name[1]);
const apart = (all, name) => all.replaceAll(name, () => name.replace(/^./su, "$& "));
const trimmed = (text) => text.replace(/^[\\s\\x1c-\\x1f\\x85]+|[\\s\\x1c-\\x1f\\x85]+$/gu, "");

const generate = await pipeline("text-generation", repository, {{ device: "webgpu", dtype }});
const messages = [
  {{ role: "system", content: trimmed(prompt) }},
  {{ role: "user", content: names.reduce(apart, trimmed("…your document…")) }},
];
const [{{ generated_text }}] = await generate(messages, {{ max_new_tokens: 256, do_sample: false }});
console.log(generated_text.at(-1).content); // free text: it need not be JSON"""

JS_CONSTRAINED = """\
// The package may export its classes or put them on globalThis.
const {{ TokenizerInfo, GrammarCompiler, GrammarMatcher }} = {{
  ...(await import("@mlc-ai/web-xgrammar")),
  ...globalThis.xgrammar,
}};
const tokens = [];
for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
for (const {{ id, content, special }} of added_tokens) tokens[id] = special ? "" : content;
const vocabulary = Array.from(tokens, (token) => token ?? "");
const bytes = JSON.stringify(decoder).includes("ByteLevel") ? "byte_level" : "byte_fallback";
const stop = [generate.model.generation_config.eos_token_id].flat();
const info = await TokenizerInfo.createTokenizerInfo(vocabulary, bytes, false, tokens.length, stop);
const compiler = await GrammarCompiler.createGrammarCompiler(info);
const grammar = await compiler.compileGrammar(await (await fetch(file("grammar.ebnf"))).text());

// A matcher remembers how far one answer has come: make a new one for each.
const matcher = await GrammarMatcher.createGrammarMatcher(grammar);
let started = false;
const hold = (ids, logits) => {{
  if (started) matcher.acceptToken(Number(ids[0].at(-1)));
  started = true;
  const mask = matcher.handle.GetNextTokenBitmask(tokens.length);
  const words = Array.from({{ length: mask.size() }}, (_, place) => mask.get(place));
  mask.delete();
  for (let id = 0; id < logits.data.length; id++) {{
    if (id >= tokens.length || !((words[id >> 5] >>> (id & 31)) & 1)) logits.data[id] = -Infinity;
  }}
  return logits;
}};
const [answer] = await generate(messages, {{
  max_new_tokens: 256,
  do_sample: false,
  logits_processor: [hold],
}});
console.log(answer.generated_text.at(-1).content); // JSON, unless max_new_tokens cut it off"""

PYTHON = """\
import json, pathlib, re
import onnxruntime_genai as og

folder = pathlib.Path("{name}")  # hf download … --local-dir {name}
model = og.Model(str(folder))
tokenizer = og.Tokenizer(model)
document = re.sub(r"^[\\s\\ufeff]+|[\\s\\ufeff]+\\Z", "", "…your document…")
# What a document says is text: the name of a control token in it is written apart.
for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]:
    name = token["content"]
    if len(name) > 1 and (token["special"] or re.fullmatch(r"<.+>|\\[.+\\]", name)):
        document = document.replace(name, f"{{name[0]}} {{name[1:]}}")
messages = [
    {{"role": "system", "content": (folder / "prompt.md").read_text().strip()}},
    {{"role": "user", "content": document}},
]
ids = tokenizer.encode(
    tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
)
context = json.loads((folder / "genai_config.json").read_text())["model"]["context_length"]
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=min(len(ids) + 256, context), do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(ids)
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)[len(ids):]))"""

VERIFY = """\
./inv verify {name}
./inv verify {name} --public-key publisher.pem  # who signed it"""


def usage_js(name: str) -> str:
    """Loading `org/name` in a page with Transformers.js."""
    return JS.format(name=name)


def usage_js_constrained() -> str:
    """Going on from `usage_js`: the same question, the answer held to grammar.ebnf token by token."""
    return JS_CONSTRAINED.format()


def usage_python(folder: str) -> str:
    """Loading a downloaded folder with onnxruntime-genai on the CPU."""
    return PYTHON.format(name=folder)


def usage_verify(name: str) -> str:
    """Checking `org/name` from a checkout of this repository."""
    return VERIFY.format(name=name)
