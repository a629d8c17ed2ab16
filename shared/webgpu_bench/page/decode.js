// The decoding loop, greedy, on the session that Transformers.js made: what it has read stays in its
// cache, and what texts begin with is read once. Tests compare it with Transformers.js's own `generate`.

import { FixedCache, GrowingCache } from "./cache.js";
import { largest } from "./grammar.js";
import { floats } from "./half.js";
import { common } from "./prompt.js";

const LARGEST_LOGITS = 134_217_728; // bytes: what any adapter binds (WebGPU's default limit); a longer text is read in pieces
const WORTH_KEEPING = 16; // as in shared/evaluate/models/chat.py: a shorter beginning is worth no run

/** A run's ids as they go in, and the last row of its logits in float32: by way of the CPU. */
class CpuEnds {
  constructor(Tensor) {
    this.int64 = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  }
  give(ids) {
    return this.int64(ids);
  }
  fetch() {
    return {};
  }
  async last({ logits }) {
    const width = logits.dims[2];
    return Float32Array.from(floats(logits.data.subarray(logits.data.length - width)));
  }
  drop() {}
  dispose() {}
}

/** The same in buffers of its own, from which the last row alone comes back. */
class GpuEnds extends CpuEnds {
  constructor(Tensor, device, type, width) {
    super(Tensor);
    Object.assign(this, { Tensor, device, type, width, rowBytes: width * (type === "float16" ? 2 : 4) });
    this.mapped = device.createBuffer({ size: this.rowBytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    this.single = this.#buffer(this.rowBytes);
    this.id = this.#buffer(BigInt64Array.BYTES_PER_ELEMENT);
  }
  #buffer(size) {
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    return this.device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST });
  }
  give(ids) {
    if (ids.length > 1) return this.int64(ids);
    this.device.queue.writeBuffer(this.id, 0, BigInt64Array.from(ids, BigInt));
    return this.Tensor.fromGpuBuffer(this.id, { dataType: "int64", dims: [1, 1] });
  }
  fetch(rows) {
    this.buffer = rows === 1 ? this.single : this.#buffer(rows * this.rowBytes);
    return { logits: this.Tensor.fromGpuBuffer(this.buffer, { dataType: this.type, dims: [1, rows, this.width] }) };
  }
  /** No run wrote what `fetch` made room for. */
  drop() {
    if (this.buffer !== this.single) this.buffer.destroy();
  }
  async last(_, rows) {
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.buffer, (rows - 1) * this.rowBytes, this.mapped, 0, this.rowBytes);
    this.device.queue.submit([encoder.finish()]);
    this.drop();
    await this.mapped.mapAsync(GPUMapMode.READ);
    const bytes = this.mapped.getMappedRange().slice(0);
    this.mapped.unmap();
    return floats(new (this.type === "float16" ? Uint16Array : Float32Array)(bytes));
  }
  dispose() {
    for (const buffer of [this.mapped, this.single, this.id]) buffer.destroy();
  }
}

export class Decoder {
  /**
   * `Tensor`: onnxruntime's own; `device`: the session's GPUDevice if its attention can write the present
   * into the past's buffers; `context`: how many positions the model has.
   */
  constructor({ session, Tensor, device = null, context = Infinity }) {
    Object.assign(this, { session, context, kept: [], runs: 0, reading: 0 });
    const { type, shape } = session.outputMetadata.find(({ name }) => name === "logits");
    const row = shape[2] * (type === "float16" ? 2 : 4);
    const even = row % 4 === 0; // false of a width without a number, too
    this.cache = device ? new FixedCache(session, Tensor, device, context) : new GrowingCache(session, Tensor);
    this.piece = row ? Math.max(1, Math.floor(LARGEST_LOGITS / row)) : Infinity;
    this.ends = device && even ? new GpuEnds(Tensor, device, type, shape[2]) : new CpuEnds(Tensor);
  }

  /**
   * Read `ids`, with room for `more` to follow, and return the scores of what comes next. The part of
   * `prefix` that they begin with is read in a run of its own, and only if it is not there from before.
   * Null where `shouldHalt` gave a reason before one of the pieces.
   */
  async begin(ids, prefix = [], more = 0, shouldHalt = () => null) {
    this.reading = 0;
    if (shouldHalt()) return null;
    const shared = Math.min(common(ids, prefix), ids.length - 1);
    const prefixed = ids.slice(0, shared < WORTH_KEEPING ? 0 : shared);
    const known = common(prefixed, this.kept) === Math.max(prefixed.length, this.kept.length);
    this.cache.reserve(ids.length + more);
    this.reading = ids.length - (known ? prefixed.length : 0);
    if (known) this.cache.back();
    else if (!(await this.#keep(prefixed, shouldHalt))) return null;
    else if (prefixed.length && shouldHalt()) return null; // what is kept stays right
    return this.#readAll(ids.slice(prefixed.length), shouldHalt);
  }

  /** The scores after `ids`, read in pieces whose logits fit into one buffer. */
  async #readAll(ids, shouldHalt) {
    let scores = null;
    for (let first = 0; first < ids.length; first += this.piece) {
      if (first && shouldHalt()) return null;
      scores = await this.read(ids.slice(first, first + this.piece));
    }
    return scores;
  }

  /** Forget what was read: another adapter has read it. */
  forget() {
    this.kept = [];
    this.cache.forget();
  }

  async #keep(ids, shouldHalt) {
    this.forget();
    if (ids.length && !(await this.#readAll(ids, shouldHalt))) return false;
    this.cache.keep();
    this.kept = ids;
    return true;
  }

  /** The scores after `ids`, which continue the text so far. */
  async read(ids) {
    const { cache, ends } = this;
    const mask = ends.int64(new Array(cache.length + ids.length).fill(1));
    const feeds = { input_ids: ends.give(ids), attention_mask: mask, ...cache.feeds() };
    if (this.session.inputNames.includes("position_ids")) feeds.position_ids = ends.int64(ids.map((_, place) => cache.length + place));
    const fetches = Object.fromEntries(this.session.outputNames.map((name) => [name, null]));
    Object.assign(fetches, cache.fetches(), ends.fetch(ids.length));
    const outputs = await this.session.run(feeds, fetches).catch((error) => {
      ends.drop();
      throw error;
    });
    this.runs += 1;
    cache.take(outputs, ids.length);
    return ends.last(outputs, ids.length);
  }

  dispose() {
    this.cache.dispose();
    this.ends.dispose();
  }
}

/**
 * Write up to `most` tokens after `input_ids` into `run`, to the first of `eos` (a Set) or until
 * `shouldHalt` gives a reason, and return them. `prefix`: see Decoder.begin; `more`: min_new_tokens, and `held` (forced.js).
 */
export async function write(decoder, run, { input_ids, most, eos, prefix = [], more = {}, shouldHalt = () => null, onToken = () => {} }) {
  const { held = null, min_new_tokens = 0 } = more;
  const written = run.output_ids;
  const stopped = () => (eos.has(written.at(-1)) ? "eos" : (shouldHalt() ?? (written.length >= most ? "max_new_tokens" : null)));
  const ran = decoder.runs;
  let last = performance.now();
  const begun = decoder.begin(input_ids, prefix, most, shouldHalt);
  run.read_tokens = decoder.reading; // the others are there from the text before
  let scores = await begun;
  if (!scores) run.stopped_by = shouldHalt() ?? "interrupted";
  while (scores) {
    if (Number.isNaN(scores[0])) {
      decoder.forget(); // what was read of the prompt may be none, too
      throw new Error("the model's scores are no numbers");
    }
    for (const id of written.length < min_new_tokens ? eos : []) scores[id] = -Infinity;
    const id = held ? held.choose(scores) : largest(scores);
    const ids = [id, ...(held?.forced(id) ?? [])].slice(0, most - written.length);
    const now = performance.now();
    if (run.ttft_ms === null) run.ttft_ms = now - last;
    else run.decode_ms.push(now - last);
    run.decode_ms.push(...ids.slice(1).fill(0));
    last = now;
    written.push(...ids);
    run.model_runs = decoder.runs - ran;
    onToken(run);
    run.stopped_by = stopped() ?? "interrupted";
    if (run.stopped_by !== "interrupted") return written;
    scores = await decoder.read(ids);
  }
  return written;
}
