
// docintel.mjs: this model in a page, on WebGPU, answering as it was measured; README.md shows how.

import { Tensor, env, pipeline } from "@huggingface/transformers";

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The page's own loop (Decoder, above) over a loaded model. */
async function decoderOf({ config, sessions }, { search = {} }) {
  const about = { session: sessions.model, context: config.max_position_embeddings };
  const decoder = new Decoder({ ...about, Tensor: new Tensor("int64", [0n], [1]).ort_tensor.constructor });
  const device = search.past_present_share_buffer && (await env.backends.onnx.webgpu?.device);
  if (!device) return decoder;
  await decoder.read([0]); // a run writes only into tensors of the class that its outputs have
  const [{ constructor }] = Object.values(decoder.cache.feeds());
  decoder.dispose();
  return new Decoder({ ...about, Tensor: constructor, device });
}

const TURN = Symbol.for("docintel.turn"); // one for all copies of this file: each release has its own

/** Do `work` after all that was asked before it, of any model: the runtime computes one thing at a time.
 * Whatever else a page asks of Transformers.js belongs in such a turn, too; what is opened, asked or closed
 * here takes a turn by itself, and would wait for ever within another. */
export function inTurn(work) {
  const mine = (globalThis[TURN] ?? Promise.resolve()).then(() => work());
  globalThis[TURN] = mine.then(() => {}, () => {}); // no answer is kept, or told to the next
  return mine;
}

/** Settle as `work` does, or reject as soon as `watch` says so; it gives back how to watch no longer. */
async function unless(watch, work) {
  let end;
  const told = new Promise((_, reject) => (end = watch(reject)));
  try {
    return await Promise.race([work, told]);
  } finally {
    end();
  }
}

/** For `unless`: an AbortSignal, or none. */
const aborted = (signal) => (reject) => {
  const tell = () => reject(signal.reason);
  if (signal?.aborted) tell();
  signal?.addEventListener("abort", tell);
  return () => signal?.removeEventListener("abort", tell);
};

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|microsoft basic render/i;

/** What a device is asked for: as in the page (gpu_budget.js), no subgroups of an adapter that computes on
 * the CPU, since onnxruntime's attention is wrong there with them. */
function fitting({ info, isFallbackAdapter }, descriptor = {}) {
  const names = [info.vendor, info.architecture, info.device, info.description].join(" ");
  if (!(info.isFallbackAdapter ?? isFallbackAdapter) && !SOFTWARE.test(names)) return descriptor;
  const wanted = [...(descriptor.requiredFeatures ?? [])];
  return { ...descriptor, requiredFeatures: wanted.filter((name) => !name.startsWith("subgroup")) };
}

/** What `load()` gives, and what the runtime's device refuses from its beginning on, most often memory:
 * onnxruntime-web goes on, and computes nothing. `lost`, for `unless`: when the device is gone. */
async function heard(load) {
  const devices = new Map();
  const hear = (device) => {
    const [refused, waiting] = [[], new Set()];
    let gone = null;
    device.addEventListener("uncapturederror", ({ error }) => refused.push(error.message));
    device.lost.then(({ reason, message }) => {
      if (reason === "destroyed") return; // by its owner: nobody waits for it
      refused.push(`the device was lost: ${message}`);
      gone = new Error(refused.at(-1));
      for (const reject of waiting) reject(gone);
    });
    const lost = (reject) => {
      if (gone) reject(gone);
      waiting.add(reject);
      return () => waiting.delete(reject);
    };
    devices.set(device, { refused, lost });
    return device;
  };
  const there = await env.backends.onnx.webgpu?.device;
  const prototype = globalThis.GPUAdapter?.prototype ?? {}; // none where something stands in for WebGPU
  const { requestDevice } = prototype;
  prototype.requestDevice = async function (descriptor) {
    return hear(await requestDevice.call(this, fitting(this, descriptor)));
  };
  try {
    if (there) hear(there);
    const loaded = await load();
    const own = devices.get(await env.backends.onnx.webgpu?.device); // a page may have others
    return { loaded, ...(own ?? { refused: [], lost: () => () => {} }) };
  } finally {
    prototype.requestDevice = requestDevice;
  }
}

/** Options that load the data files of the graph that `dtype` names, and fail where one cannot be had:
 * Transformers.js 4.3.1 waits for ever on one that is not named among the session's. */
function dataFiles(dtype, config, session_options) {
  const name = `model_${dtype.model ?? dtype}.onnx`;
  const count = Number(config["transformers.js_config"]?.use_external_data_format?.[name] ?? 0);
  const files = Array.from({ length: count }, (_, place) => `${name}_data${place ? `_${place}` : ""}`);
  const externalData = files.map((path) => ({ path, data: `onnx/${path}` }));
  return count ? { use_external_data_format: 0, session_options: { ...session_options, externalData } } : {};
}

/** Forget what Transformers.js keeps of other commits: it keeps files by their address, for ever. */
async function dropOlder(repository, revision) {
  const kept = await caches.open(env.cacheKey ?? "transformers-cache");
  const [all, ours] = [`/${repository}/resolve/`, `/${repository}/resolve/${revision}/`];
  for (const { url } of await kept.keys()) if (url.includes(all) && !url.includes(ours)) await kept.delete(url);
}

/** The commit that a branch or a tag names now. */
async function commitOf(repository, revision) {
  if (/^[0-9a-f]{40}$/.test(revision)) return revision;
  const answer = await fetch(`https://huggingface.co/api/models/${repository}/revision/${encodeURIComponent(revision)}`);
  if (!answer.ok) throw new Error(`${repository}: ${answer.status} ${answer.statusText}`);
  return (await answer.json()).sha;
}

/** Load `org/name` from the Hub; `settings`: further options of Transformers.js's pipeline(). Weights, prompt
 * and grammar are of one commit: a browser keeps the weights of an older one under the name of a branch.
 * Models are loaded in turn, too: while one is fetched no other answers. */
export async function open(repository, settings = {}) {
  const { powerPreference = "high-performance" } = env.backends.onnx.webgpu ?? {}; // as the runtime asks
  const adapter = await globalThis.navigator?.gpu?.requestAdapter({ powerPreference });
  if (!adapter) throw new Error("this browser offers no WebGPU");
  const dtype = settings.dtype ?? (adapter.features.has("shader-f16") ? "q4f16" : "q4"); // q4 runs where shader-f16 is missing
  const revision = await commitOf(repository, settings.revision ?? "main");
  const read = async (path) => {
    const answer = await fetch(`https://huggingface.co/${repository}/resolve/${revision}/${path}`);
    if (!answer.ok) throw new Error(`${repository}/${path}: ${answer.status} ${answer.statusText}`);
    return answer;
  };
  const json = async (name) => (await read(name)).json();
  const [tokens, shared, config] = await Promise.all(["tokenizer.json", "genai_config.json", "config.json"].map(json));
  const controls = controlTokens(tokens);
  const system = asText(await (await read("prompt.md")).text(), []);
  const asked = { device: "webgpu", ...settings, dtype, revision, ...dataFiles(dtype, config, settings.session_options) };
  const mayUse = (refused) => {
    if (refused.length) throw new Error(`the GPU refused what was asked of it (${refused[0]}); reload the page`);
  };

  /** The model on the GPU, its loop, and what the GPU refuses; what was loaded of one that fails is disposed of. */
  const load = async () => {
    const { loaded, refused, lost } = await heard(() => pipeline("text-generation", repository, asked));
    const { tokenizer, model } = loaded;
    let decoder = null;
    try {
      mayUse(refused);
      const stop = [model.generation_config.eos_token_id].flat();
      const prefix = prefixIds(tokenizer, controls, system); // read once for all documents
      decoder = await unless(lost, decoderOf(model, shared));
      mayUse(refused);
      return { tokenizer, model, decoder, refused, lost, stop, prefix };
    } catch (error) {
      decoder?.dispose();
      await unless(lost, model.dispose()).catch(() => {});
      throw error;
    }
  };
  const again = (cause) => {
    const stays = "open it again, or reload the page: after one model that did not start no other does";
    throw new Error(`${repository} could not be loaded (${cause.message}); ${stays}`, { cause });
  };
  const { tokenizer, model, decoder, refused, lost, stop, prefix } = await inTurn(load).catch(again);
  const encode = (text) => tokenizer.encode(text, { add_special_tokens: false });
  let closed = false;
  if ((settings.revision ?? "main") === "main") dropOlder(repository, revision).catch(() => {}); // a page that keeps nothing has none

  const prepare = async () => {
    const module = await import("@mlc-ai/web-xgrammar"); // may export its classes or put them on globalThis
    const grammar = await (await read("grammar.ebnf")).text();
    return new Forcing(await compile({ ...module, ...globalThis.xgrammar }, grammar, tokens, stop), encode);
  };
  let compiled = null; // the grammar, once for all answers
  const anew = (error) => {
    compiled = null;
    throw error;
  };

  const mayAsk = (signal) => {
    if (closed) throw new Error(`${repository} was closed; open it again`);
    signal?.throwIfAborted();
    mayUse(refused);
  };

  const ask = async (document, { held = true, max_new_tokens = 512, signal = null } = {}) => {
    mayAsk(signal);
    const counts = Number.isInteger(max_new_tokens) || max_new_tokens === Infinity;
    if (!counts || max_new_tokens < 1) throw new RangeError(`max_new_tokens: ${max_new_tokens} is no whole number above zero`);
    const input_ids = promptIds(tokenizer, controls, system, document);
    const most = Math.min(max_new_tokens, decoder.context - input_ids.length);
    const tokens = `${input_ids.length} tokens with the prompt`;
    if (most < 1) throw new Error(`the document has ${tokens}; the model has room for ${decoder.context}, its answer among them`);
    const more = held ? { held: await (await (compiled ??= prepare().catch(anew))).start() } : {};
    const shouldHalt = () => (signal?.aborted ? "stopped" : null);
    const asked = { input_ids, most, eos: new Set(stop), prefix, more, shouldHalt };
    const writing = write(decoder, { output_ids: [], decode_ms: [] }, asked).finally(() => more.held?.dispose());
    const ids = await unless(lost, writing).catch((error) => {
      mayAsk(signal); // what the GPU said of it comes first
      throw error;
    });
    mayAsk(signal);
    const text = plain(tokenizer, ids.filter((id) => !stop.includes(id)));
    return { text, ids, whole: stop.includes(ids.at(-1)) && (!held || isJson(text)) };
  };
  const close = async () => {
    if (closed) return;
    closed = true;
    decoder.dispose();
    await model.dispose();
    (await compiled?.catch(() => null))?.dispose();
  };

  return {
    /** `text`, the answer to one document, its token `ids`, and `whole`: false where max_new_tokens cut it
     * off. Held to the schema, a whole answer is JSON that satisfies schema.json; written freely it need
     * not be. Several that are asked at once are answered one after the other; an AbortSignal (`signal`)
     * ends one, which then rejects with the signal's reason. */
    ask: (document, options = {}) => unless(aborted(options.signal), inTurn(() => ask(document, options))),
    /** Give the GPU its memory back, after what was asked before. */
    close: () => inTurn(close),
  };
}
