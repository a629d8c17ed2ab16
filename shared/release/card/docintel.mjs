
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

let turn = Promise.resolve();

/** Do `work` after all that was asked before it, of any model: the runtime computes one thing at a time. */
function inTurn(work) {
  const mine = turn.then(work);
  turn = mine.catch(() => {});
  return mine;
}

/** What the GPU refuses from now on, most often memory: onnxruntime-web goes on, and computes nothing. */
async function refusals() {
  const [found, device] = [[], await env.backends.onnx.webgpu?.device];
  device?.addEventListener("uncapturederror", ({ error }) => found.push(error.message));
  return found;
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
 * and grammar are of one commit: a browser keeps the weights of an older one under the name of a branch. */
export async function open(repository, settings = {}) {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter();
  if (!adapter) throw new Error("this browser offers no WebGPU");
  const dtype = adapter.features.has("shader-f16") ? "q4f16" : "q4"; // q4 runs where shader-f16 is missing
  const revision = await commitOf(repository, settings.revision ?? "main");
  const read = async (path) => {
    const answer = await fetch(`https://huggingface.co/${repository}/resolve/${revision}/${path}`);
    if (!answer.ok) throw new Error(`${repository}/${path}: ${answer.status} ${answer.statusText}`);
    return answer;
  };
  const [tokens, shared] = await Promise.all(["tokenizer.json", "genai_config.json"].map(async (name) => (await read(name)).json()));
  const controls = controlTokens(tokens);
  const system = asText(await (await read("prompt.md")).text(), []);
  const { tokenizer, model } = await pipeline("text-generation", repository, { device: "webgpu", dtype, ...settings, revision });
  const stop = [model.generation_config.eos_token_id].flat();
  const encode = (text) => tokenizer.encode(text, { add_special_tokens: false });
  const prefix = prefixIds(tokenizer, controls, system); // read once for all documents
  const decoder = await inTurn(() => decoderOf(model, shared));
  const refused = await refusals();
  let closed = false;
  dropOlder(repository, revision).catch(() => {}); // a page that keeps nothing has none

  const prepare = async () => {
    const module = await import("@mlc-ai/web-xgrammar"); // may export its classes or put them on globalThis
    const grammar = await (await read("grammar.ebnf")).text();
    return new Forcing(await compile({ ...module, ...globalThis.xgrammar }, grammar, tokens, stop), encode);
  };
  let compiled = null; // the grammar, once for all answers
  const again = (error) => {
    compiled = null;
    throw error;
  };

  const mayAsk = () => {
    if (closed) throw new Error(`${repository} was closed; open it again`);
    if (refused.length) throw new Error(`the GPU refused what was asked of it (${refused[0]}); reload the page`);
  };

  const ask = async (document, { held = true, max_new_tokens = 512 } = {}) => {
    mayAsk();
    const input_ids = promptIds(tokenizer, controls, system, document);
    const most = Math.min(max_new_tokens, decoder.context - input_ids.length);
    if (most < 1) throw new Error(`the document has ${input_ids.length} tokens, more than the model has room for`);
    const more = held ? { held: await (await (compiled ??= prepare().catch(again))).start() } : {};
    const asked = { input_ids, most, eos: new Set(stop), prefix, more };
    const ids = await write(decoder, { output_ids: [], decode_ms: [] }, asked).finally(() => more.held?.dispose());
    mayAsk();
    const text = plain(tokenizer, ids.filter((id) => !stop.includes(id)));
    return { text, ids, whole: stop.includes(ids.at(-1)) && (!held || isJson(text)) };
  };
  const close = async () => {
    if (closed) return;
    closed = true;
    decoder.dispose();
    await model.dispose();
  };

  return {
    /** `text`, the answer to one document, its token `ids`, and `whole`: false where max_new_tokens cut it
     * off. Held to the schema, a whole answer is JSON that satisfies schema.json; written freely it need
     * not be. Several that are asked at once are answered one after the other. */
    ask: (...asked) => inTurn(() => ask(...asked)),
    /** Give the GPU its memory back, after what was asked before. */
    close: () => inTurn(close),
  };
}
