// Answers by the page's own loop beside Transformers.js's `generate`, in Node: `node decode.mjs JOB`. JOB
// has modules, page, folder, dtype, most and cases of { ids, prefix, grammar?, min_new_tokens? }; prints for
// each { theirs, ours, runs, positions }: the ids, how often the model ran and how many tokens it read.
import { readFileSync } from "node:fs";
import { holdByMasks } from "./hold.mjs";
import { transformers } from "./transformers.mjs";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { AutoModelForCausalLM, Tensor } = await transformers(job);
const { Decoder, write } = await import(`${job.page}/decode.js`);
const page = await import(`${job.page}/grammar.js`);
const { Forcing } = await import(`${job.page}/forced.js`);

const read = (name) => JSON.parse(readFileSync(`${job.folder}/${name}`, "utf8"));
const eos = new Set([read("generation_config.json").eos_token_id].flat());
const model = await AutoModelForCausalLM.from_pretrained("model", { device: "wasm", dtype: job.dtype });
const tensor = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
const session = model.sessions.model;
const decoder = new Decoder({ session, Tensor: tensor([0]).ort_tensor.constructor });
let positions = 0;
let spoilt = false; // scores that are no numbers
const counted = {
  run: async (feeds, ...rest) => {
    positions += feeds.input_ids.dims[1];
    const outputs = await session.run(feeds, ...rest);
    if (spoilt) outputs.logits.data.fill(NaN);
    return outputs;
  },
};
decoder.session = Object.assign(Object.create(session, { inputNames: { value: session.inputNames }, outputNames: { value: session.outputNames } }), counted);

const compiled = new Map();
async function options({ grammar, min_new_tokens }, hold) {
  if (!grammar) return min_new_tokens ? { min_new_tokens } : {};
  if (!compiled.has(grammar)) compiled.set(grammar, await page.compile(await loadXgrammar(job.modules), grammar, read("tokenizer.json"), [...eos]));
  return hold(compiled.get(grammar));
}

async function generate(ids, more) {
  const ones = tensor(ids.map(() => 1));
  const output = await model.generate({ inputs: tensor(ids), attention_mask: ones, max_new_tokens: job.most, do_sample: false, repetition_penalty: 1, ...more });
  return Array.from(output.data, Number).slice(ids.length);
}

const answers = [];
for (const { ids, prefix, piece, halt, after = 0, nan, ...asked } of job.cases) {
  let questions = 0;
  const shouldHalt = () => (questions++ >= after ? (halt ?? null) : null);
  if (piece) decoder.piece = piece;
  const theirs = await generate(ids, await options(asked, (compiled) => holdByMasks(page, compiled)));
  const run = { output_ids: [], ttft_ms: null, decode_ms: [] };
  positions = 0;
  spoilt = Boolean(nan);
  let said = null;
  await write(decoder, run, { input_ids: ids, most: job.most, eos, prefix, shouldHalt, more: await options(asked, async (compiled) => ({ held: await new Forcing(compiled, null, false).start() })) }).catch((error) => (said = error.message));
  const { output_ids: ours, model_runs: runs, read_tokens, stopped_by, decode_ms } = run;
  answers.push({ theirs, ours, runs, positions, read_tokens, stopped_by, timed: decode_ms.length + 1, said });
}
console.log(JSON.stringify(answers));
