
// docintel.mjs: this model in a page, on WebGPU, answering as it was measured; README.md shows how.

import { Tensor, pipeline } from "@huggingface/transformers";

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Load `org/name` from the Hub; `settings`: further options of Transformers.js's pipeline(). */
export async function open(repository, settings = {}) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("this browser offers no WebGPU");
  const dtype = adapter.features.has("shader-f16") ? "q4f16" : "q4"; // q4 runs where shader-f16 is missing
  const read = async (path) => {
    const answer = await fetch(`https://huggingface.co/${repository}/resolve/main/${path}`);
    if (!answer.ok) throw new Error(`${repository}/${path}: ${answer.status} ${answer.statusText}`);
    return answer;
  };
  const tokens = await (await read("tokenizer.json")).json();
  const system = asText(await (await read("prompt.md")).text(), []);
  const { tokenizer, model } = await pipeline("text-generation", repository, { device: "webgpu", dtype, ...settings });
  const stop = [model.generation_config.eos_token_id].flat();

  const prepare = async () => {
    const module = await import("@mlc-ai/web-xgrammar"); // may export its classes or put them on globalThis
    return compile({ ...module, ...globalThis.xgrammar }, await (await read("grammar.ebnf")).text(), tokens, stop);
  };
  let compiled = null; // the grammar, once for all answers

  /** `text`, the answer to one document, and `whole`: false where max_new_tokens cut it off. Held to the
   * schema, a whole answer is JSON that satisfies schema.json; written freely it need not be. */
  const ask = async (document, { held = true, max_new_tokens = 512 } = {}) => {
    const ids = promptIds(tokenizer, controlTokens(tokens), system, document);
    const output = await model.generate({
      inputs: new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), [1, ids.length]),
      max_new_tokens,
      do_sample: false,
      ...(held ? await hold(await (compiled ??= prepare())) : {}),
    });
    const written = Array.from(output.data, Number).slice(ids.length);
    const kept = written.filter((id) => !stop.includes(id));
    const text = tokenizer.decode(kept, { skip_special_tokens: false });
    return { text, whole: stop.includes(written.at(-1)) && (!held || isJson(text)) };
  };
  return { ask };
}
