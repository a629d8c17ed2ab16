// The page's forced tokens along given choices, in Node: `node forced.mjs JOB`. JOB has modules, page,
// folder, stop and cases of { grammar, chosen }; prints for each the ids forced after each choice.
import { readFileSync } from "node:fs";
import { transformers } from "./transformers.mjs";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { AutoTokenizer } = await transformers(job);
const { compile } = await import(`${job.page}/grammar.js`);
const { Forcing } = await import(`${job.page}/forced.js`);

const tokenizer = await AutoTokenizer.from_pretrained("model");
const file = JSON.parse(readFileSync(`${job.folder}/tokenizer.json`, "utf8"));
const encode = (text) => tokenizer.encode(text, { add_special_tokens: false });
const xgrammar = await loadXgrammar(job.modules);
const forcings = new Map();
const found = [];
for (const { grammar, chosen } of job.cases) {
  if (!forcings.has(grammar)) forcings.set(grammar, new Forcing(await compile(xgrammar, grammar, file, job.stop), encode, true));
  const held = await forcings.get(grammar).start();
  found.push(chosen.map((id) => (held.matcher.acceptToken(id) ? held.forced(id) : [])));
}
console.log(JSON.stringify(found));
