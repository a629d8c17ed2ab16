// Answers of a folder held to grammars by the page's own code, in Node: `node held.mjs JOB`. JOB has
// modules, page, folder, dtype, max_new_tokens and, by name, { grammar, prompts }; prints { name: [ids] }.
import { readFileSync } from "node:fs";
import { transformers } from "./transformers.mjs";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { AutoModelForCausalLM, Tensor } = await transformers(job);
const { compile, hold } = await import(`${job.page}/grammar.js`);

const read = (name) => JSON.parse(readFileSync(`${job.folder}/${name}`, "utf8"));
const stop = [read("generation_config.json").eos_token_id].flat();
const model = await AutoModelForCausalLM.from_pretrained("model", { device: "wasm", dtype: job.dtype });
const answers = {};
for (const [name, { grammar, prompts }] of Object.entries(job.domains)) {
  const compiled = await compile(await loadXgrammar(job.modules), grammar, read("tokenizer.json"), stop);
  answers[name] = [];
  for (const ids of prompts) {
    const shape = [1, ids.length];
    const output = await model.generate({
      inputs: new Tensor("int64", BigInt64Array.from(ids, BigInt), shape),
      attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), shape),
      max_new_tokens: job.max_new_tokens,
      do_sample: false,
      repetition_penalty: 1,
      ...(await hold(compiled)),
    });
    answers[name].push(Array.from(output.data, Number).slice(ids.length));
  }
}
console.log(JSON.stringify(answers));
