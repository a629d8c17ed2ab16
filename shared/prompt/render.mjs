// {folder, system, texts} on stdin → {renderer: [ids or words]} on stdout: the page's code, and the card's pipeline.

import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { asText, controlTokens, promptIds } from "../webgpu_bench/page/prompt.js";

// Only onnxruntime-web is installed; a pipeline wants some runtime's Tensor, and no more of it.
globalThis[Symbol.for("onnxruntime")] = await import("../webgpu_bench/node_modules/onnxruntime-web/dist/ort.node.min.mjs");
const transformers = "../webgpu_bench/node_modules/@huggingface/transformers/dist/transformers.node.mjs";
const { AutoTokenizer, TextGenerationPipeline, env } = await import(transformers);

const { folder, system, texts } = JSON.parse(readFileSync(0, "utf-8"));
env.allowRemoteModels = false;
env.localModelPath = `${dirname(folder)}/`;
const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
const controls = controlTokens(JSON.parse(readFileSync(`${folder}/tokenizer.json`, "utf-8")));

let seen;
const model = {
  generate: async ({ input_ids }) => {
    seen = Array.from(input_ids.data, Number);
    return input_ids;
  },
};
const generate = new TextGenerationPipeline({ task: "text-generation", model, tokenizer });
const words = (error) => (error.message ?? String(error)).split("\n")[0].slice(0, 300);

const page = [];
const card = [];
for (const text of texts) {
  try {
    page.push(promptIds(tokenizer, controls, system, text));
  } catch (error) {
    page.push(words(error));
  }
  try {
    await generate([{ role: "system", content: system }, { role: "user", content: asText(text, controls) }]);
    card.push(seen);
  } catch (error) {
    card.push(words(error));
  }
}
process.stdout.write(JSON.stringify({ "the page": page, "the card's JavaScript": card }));
