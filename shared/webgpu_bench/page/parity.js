// Teacher forcing on WebGPU: read given texts in pieces, with the cache carried along, and send back
// what parity.py needs of each position: the likeliest tokens' logits and the log-sum-exp of all.

import { DynamicCache, Tensor } from "@huggingface/transformers";
import { floats, lastRow } from "./half.js";

const int64 = (values, shape) => new Tensor("int64", BigInt64Array.from(values, BigInt), shape);

/** The `count` largest of data[start … start+size), largest first, and ln Σ exp over all of them. */
export function summary(data, start, size, count) {
  const ids = new Int32Array(count).fill(-1);
  const logits = new Float32Array(count).fill(-Infinity);
  for (let i = 0; i < size; i += 1) {
    const value = data[start + i];
    if (!(value > logits[count - 1])) continue;
    let at = count - 1;
    for (; at > 0 && value > logits[at - 1]; at -= 1) {
      logits[at] = logits[at - 1];
      ids[at] = ids[at - 1];
    }
    logits[at] = value;
    ids[at] = i;
  }
  let sum = 0;
  for (let i = 0; i < size; i += 1) sum += Math.exp(data[start + i] - logits[0]);
  return { ids, logits, log_sum: logits[0] + Math.log(sum) };
}

const base64 = (array) => {
  const bytes = new Uint8Array(array.buffer);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
};

/**
 * Read `rows` (token ids, all of one length), `batch` of them at a time, `piece` tokens a pass. Several
 * rows at once go on token by token: onnxruntime-web's attention reads more with a cache for one row only.
 * Stops between rows, where what took longest so far would no longer end in time: `late(ms)`.
 * Fills `answer.pieces`: each the row and position it starts at, its extent, and base64 of its
 * ids [rows, tokens, top_k] int32, logits alike float32, log_sums [rows, tokens] float32; the first also
 * `whole` [vocab] float32: all logits of its first row's last position, so that each row of the head is seen.
 */
export async function readTexts(network, { rows, batch, piece, top_k, offset = 0 }, answer, late, onPiece) {
  const length = rows[0].length;
  let longest = 0; // of some rows, whole
  for (let first = 0; first < rows.length; first += batch) {
    const some = rows.slice(first, first + batch);
    if (late(longest)) return; // asked between rows: half a row would be read again by the next run
    const started = performance.now();
    let cache = null;
    for (let start = 0, end; start < length; start = end) {
      const began = performance.now();
      end = Math.min(length, start + (start && some.length > 1 ? 1 : piece));
      const outputs = await pass(network, some, start, end, cache);
      const whole = first || start ? {} : { whole: base64(lastRow(outputs.logits)) };
      const read = { row: offset + first, start, ...packed(outputs.logits, top_k), ...whole, ms: performance.now() - began };
      answer.pieces.push(read);
      cache = carried(outputs, cache);
      onPiece((first + some.length * (end / length)) / rows.length, read);
    }
    longest = Math.max(longest, performance.now() - started);
    await cache.dispose();
  }
}

function pass(network, some, start, end, cache) {
  const input_ids = int64(some.flatMap((row) => row.slice(start, end)), [some.length, end - start]);
  const attention_mask = int64(new Array(some.length * end).fill(1), [some.length, end]);
  return network.forward({ input_ids, attention_mask, past_key_values: cache });
}

function carried(outputs, cache) {
  const present = Object.keys(outputs).filter((name) => name.startsWith("present"));
  const entries = Object.fromEntries(present.map((name) => [name.replace("present", "past_key_values"), outputs[name]]));
  if (!cache) return new DynamicCache(entries);
  cache.update(entries);
  return cache;
}

function packed(logits, top_k) {
  const [rows, tokens, size] = logits.dims;
  const data = floats(logits.data);
  const ids = new Int32Array(rows * tokens * top_k);
  const values = new Float32Array(rows * tokens * top_k);
  const log_sums = new Float32Array(rows * tokens);
  for (let i = 0; i < rows * tokens; i += 1) {
    const found = summary(data, i * size, size, top_k);
    ids.set(found.ids, i * top_k);
    values.set(found.logits, i * top_k);
    log_sums[i] = found.log_sum;
  }
  return { rows, tokens, ids: base64(ids), logits: base64(values), log_sums: base64(log_sums) };
}
