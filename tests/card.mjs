// A card's JavaScript as copied, in Node: `node card.mjs JOB`. JOB has modules, folder, dtype, limit (of
// tokens) and the file of the code; prints [[ids] of each answer]. The release's own docintel.mjs lies
// beside it. Only what a browser has is made up here: the Hub's files come from the folder, WebGPU's
// adapter is one that asks for `dtype`, wasm computes, and packages come from where they lie.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const runtime = `${job.modules}/onnxruntime-web/dist/ort-wasm-simd-threaded`;
Object.defineProperty(process, "release", { value: { ...process.release, name: "page" } });
const { Tensor, pipeline, env } = await import(`${job.modules}/@huggingface/transformers/dist/transformers.web.js`);
env.useCustomCache = true;
env.customCache = { match: served, put: async () => {} };
env.backends.onnx.wasm.wasmPaths = { mjs: pathToFileURL(`${runtime}.mjs`).href, wasm: pathToFileURL(`${runtime}.wasm`).href };
env.backends.onnx.wasm.numThreads = 1;
await loadXgrammar(job.modules);

async function served(key) {
  const path = `${job.folder}/${String(key).replace(/^.*\/(resolve\/(main|[0-9a-f]{40})|acme\/x)\//, "")}`;
  return existsSync(path) ? new Response(readFileSync(path)) : undefined;
}

const features = new Set(job.dtype === "q4f16" ? ["shader-f16"] : []);
Object.defineProperty(globalThis, "navigator", { value: { gpu: { requestAdapter: async () => ({ features }) } } });
const fetched = globalThis.fetch;
const commit = async () => new Response(JSON.stringify({ sha: "c".repeat(40) }));
globalThis.fetch = async (url, ...rest) => {
  if (!String(url).startsWith("https://huggingface.co/")) return fetched(url, ...rest);
  return String(url).includes("/api/models/") ? commit() : served(url);
};

const answers = [];
globalThis.card = {
  Tensor,
  env,
  pipeline: async (task, repository, options) => {
    const made = await pipeline(task, repository, { ...options, device: "wasm" });
    const decode = made.tokenizer.decode.bind(made.tokenizer);
    made.tokenizer.decode = (ids, ...rest) => (answers.push(ids), decode(ids, ...rest));
    return made;
  },
};
const release = readFileSync(`${job.folder}/docintel.mjs`, "utf8")
  .replace('import { Tensor, env, pipeline } from "@huggingface/transformers";', "const { Tensor, env, pipeline } = globalThis.card;")
  .replace("max_new_tokens = 512", `max_new_tokens = ${job.limit}`)
  .replace('await import("@mlc-ai/web-xgrammar")', "{}");
writeFileSync(`${dirname(job.code)}/docintel.mjs`, release);
console.log = () => {};
await import(pathToFileURL(job.code).href);
process.stdout.write(JSON.stringify(answers));
