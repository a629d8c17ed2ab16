// Answers of a folder held to grammars by the page's own code, in Node: `node held.mjs JOB`. JOB has
// modules, page, folder, dtype, max_new_tokens and, by name, { grammar, prompts }; prints { name: [ids] }.
import { readFileSync } from "node:fs";
import { transformers } from "./transformers.mjs";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { AutoModelForCausalLM, AutoTokenizer, Tensor } = await transformers(job);
const { compile } = await import(`${job.page}/grammar.js`);
const { Decoder, write } = await import(`${job.page}/decode.js`);
const { Forcing } = await import(`${job.page}/forced.js`);

const read = (name) => JSON.parse(readFileSync(`${job.folder}/${name}`, "utf8"));
const stop = [read("generation_config.json").eos_token_id].flat();
const tokenizer = await AutoTokenizer.from_pretrained("model");
const encode = (text) => tokenizer.encode(text, { add_special_tokens: false });
const model = await AutoModelForCausalLM.from_pretrained("model", { device: "wasm", dtype: job.dtype });
const decoder = new Decoder({ session: model.sessions.model, Tensor: new Tensor("int64", [0n], [1]).ort_tensor.constructor });
const answers = {};
for (const [name, { grammar, prompts }] of Object.entries(job.domains)) {
  const forcing = new Forcing(await compile(await loadXgrammar(job.modules), grammar, read("tokenizer.json"), stop), encode);
  answers[name] = [];
  for (const input_ids of prompts) {
    const more = { held: await forcing.start() };
    answers[name].push(await write(decoder, { output_ids: [], decode_ms: [] }, { input_ids, most: job.max_new_tokens, eos: new Set(stop), more }));
  }
}
console.log(JSON.stringify(answers));
