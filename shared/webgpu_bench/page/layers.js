// One piece of a model that was cut at layer boundaries, on WebGPU: its outputs for given inputs.

import * as ort from "onnxruntime-web/webgpu";
import { describeAdapter, failure, unlessLost, useBuild } from "./engine.js";

const gpu = window.docintelGpu;
const TYPES = { int64: BigInt64Array, int32: Int32Array, float32: Float32Array, bool: Uint8Array };
let open = null; // onnxruntime-web lets the device go with its last session

/** The session of a graph in base64; `data`: { path, url } of its data file, or null. */
const load = (graph, data) =>
  ort.InferenceSession.create(Uint8Array.fromBase64(graph), {
    executionProviders: ["webgpu"],
    externalData: data ? [{ path: data.path, data: data.url }] : [],
  });

const tensor = ({ type, dims, base64 }) =>
  new ort.Tensor(type, new TYPES[type](Uint8Array.fromBase64(base64).buffer), dims);

const packed = ({ type, dims, data }) => ({
  type,
  dims,
  base64: new Uint8Array(data.buffer, data.byteOffset, data.byteLength).toBase64(),
});

const each = (object, change) => Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));

/**
 * Run a piece once. `smallest`: a graph whose session stays open, so that the device does. Never
 * throws: the answer has `outputs`, or the outcome and the error.
 */
export async function runPiece({ graph, data, smallest, inputs }) {
  const answer = { outputs: {}, outcome: "ok", error: null, adapter: null, live_bytes: 0 };
  let session = null;
  try {
    useBuild("webgpu");
    open ??= await unlessLost(load(smallest, null));
    session = await unlessLost(load(graph, data));
    answer.outputs = each(await unlessLost(session.run(each(inputs, tensor))), packed);
    if (gpu.uncaptured_errors.length) throw failure(new Error(gpu.uncaptured_errors[0]), "run_failed");
  } catch (error) {
    const failed = failure(error, session ? "run_failed" : "load_failed");
    Object.assign(answer, { outcome: failed.outcome, error: failed.message });
  }
  await session?.release().catch(() => {});
  answer.adapter = await describeAdapter();
  answer.live_bytes = gpu.live_bytes;
  return answer;
}
