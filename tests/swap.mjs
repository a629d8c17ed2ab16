// A family's domains in one session, and each by its own package, in Node: `node swap.mjs JOB`. JOB has
// modules, page, family (folder), packages { domain: folder }, dtype, most, ids and turns (domains in
// order). Prints { alone: { domain: ids }, turns: [{ ids, fetched }], errors, two }: what was read for each
// turn, and the data files of a base that has two.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { transformers } from "./transformers.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { AutoModelForCausalLM, Tensor, env } = await transformers({ modules: job.modules, folder: job.family });
const { Adapters, swapOptions } = await import(`${job.page}/swap.js`);

let folder, fetched;
const read = (path) => (fetched.push(path), readFileSync(`${folder}/${path}`));
env.customCache = {
  match: async (key) => {
    const path = key.replace(/^.*\/model\/(resolve\/main\/)?/, "");
    return existsSync(`${folder}/${path}`) ? new Response(read(path)) : undefined;
  },
  put: async () => {},
};

async function load(from, options) {
  [folder, fetched] = [from, []];
  return AutoModelForCausalLM.from_pretrained("model", { device: "wasm", dtype: job.dtype, ...options });
}

async function answer(model) {
  const inputs = new Tensor("int64", BigInt64Array.from(job.ids, BigInt), [1, job.ids.length]);
  const attention_mask = new Tensor("int64", new BigInt64Array(job.ids.length).fill(1n), [1, job.ids.length]);
  const output = await model.generate({ inputs, attention_mask, max_new_tokens: job.most, do_sample: false });
  return Array.from(output.data, Number).slice(job.ids.length);
}

const thrown = async (work) => {
  try {
    await work();
  } catch (error) {
    return error.message;
  }
};

const alone = {};
for (const [domain, place] of Object.entries(job.packages)) {
  const model = await load(place, {});
  alone[domain] = await answer(model);
  await model.dispose();
}

const config = JSON.parse(readFileSync(`${job.family}/config.json`, "utf8"));
const model = await load(job.family, swapOptions(job.dtype, config));
const session = model.sessions.model;
const adapters = new Adapters(session, new Tensor("int64", [0n], [1]).ort_tensor.constructor);
model.sessions.model = adapters.session;
console.error = () => {};
const errors = [await thrown(() => answer(model)), await thrown(() => adapters.use("nobody"))];
const turns = [];
for (const domain of job.turns) {
  if (!adapters.known.has(domain)) adapters.add(domain, new Uint8Array(read(`adapters/${domain}.safetensors`)).buffer);
  adapters.use(domain);
  turns.push({ ids: await answer(model), fetched });
  fetched = [];
}
adapters.remove(job.turns.at(-1));
errors.push(await thrown(() => answer(model)));
const large = { "transformers.js_config": { use_external_data_format: { "model_q4.onnx": 2 } } };
const two = swapOptions("q4", large).session_options.externalData.map(({ data }) => data);
writeFileSync(1, JSON.stringify({ alone, turns, errors, two }));
