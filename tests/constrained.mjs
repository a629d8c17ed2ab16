// Which tokens may come first under each schema: `node constrained.mjs MODULES TOKENIZER SCHEMA…`
import { readFileSync } from "node:fs";

const [modules, folder, ...schemas] = process.argv.slice(2);
const load = (path) => import(`${modules}/@huggingface/${path}`);
const { StructuredOutputProcessor } = await load("transformers-structured-output/dist/index.js");
const { AutoTokenizer, env } = await load("transformers/dist/transformers.node.mjs");
env.allowRemoteModels = false;
env.localModelPath = "/";

const tokenizer = await AutoTokenizer.from_pretrained(folder);
const size = 49152;
for (const path of schemas) {
  const json_schema = JSON.parse(readFileSync(path, "utf8"));
  const held = new StructuredOutputProcessor(tokenizer, { type: "json_schema", json_schema });
  const logits = { type: "float32", data: new Float32Array(size), dims: [1, size] };
  const allowed = [...held([[1n, 2n]], logits).data.entries()].filter(([, value]) => value === 0);
  const starts = allowed.map(([id]) => tokenizer.decode([id]).trim()[0] ?? "");
  console.log(JSON.stringify([...new Set(starts)]));
}
