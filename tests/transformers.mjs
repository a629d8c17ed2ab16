// Transformers.js as a page has it, in Node, with the files of a folder and wasm on one thread: what the
// programs beside this one that run the page's own code begin with.
import { existsSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

export async function transformers({ modules, folder }) {
  const runtime = `${modules}/onnxruntime-web/dist/ort-wasm-simd-threaded`;
  Object.defineProperty(process, "release", { value: { ...process.release, name: "page" } });
  const loaded = await import(`${modules}/@huggingface/transformers/dist/transformers.web.js`);
  const match = async (key) => {
    const path = `${folder}/${key.replace(/^.*\/model\/(resolve\/main\/)?/, "")}`;
    return existsSync(path) ? new Response(readFileSync(path)) : undefined;
  };
  const { env } = loaded;
  env.useCustomCache = true;
  env.customCache = { match, put: async () => {} };
  env.backends.onnx.wasm.wasmPaths = { mjs: pathToFileURL(`${runtime}.mjs`).href, wasm: pathToFileURL(`${runtime}.wasm`).href };
  env.backends.onnx.wasm.numThreads = 1;
  return loaded;
}
