// Answers of a folder held to grammars by the page's own code, in Node: `node held.mjs JOB`. JOB has
// modules, page, folder, dtype, max_new_tokens and, by name, { grammar, prompts }; prints { name: [ids] }.
import { existsSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const runtime = `${job.modules}/onnxruntime-web/dist/ort-wasm-simd-threaded`;
Object.defineProperty(process, "release", { value: { ...process.release, name: "page" } });
const { AutoModelForCausalLM, Tensor, env } = await import(`${job.modules}/@huggingface/transformers/dist/transformers.web.js`);
const { compile, hold } = await import(`${job.page}/grammar.js`);
env.useCustomCache = true;
env.customCache = { match: served, put: async () => {} };
env.backends.onnx.wasm.wasmPaths = { mjs: pathToFileURL(`${runtime}.mjs`).href, wasm: pathToFileURL(`${runtime}.wasm`).href };
env.backends.onnx.wasm.numThreads = 1;

async function served(key) {
  const path = `${job.folder}/${key.replace(/^.*\/model\/(resolve\/main\/)?/, "")}`;
  return existsSync(path) ? new Response(readFileSync(path)) : undefined;
}

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
