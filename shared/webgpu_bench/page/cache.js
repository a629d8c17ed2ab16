// Keys and values of the text that a session has read. Both caches have one face: `reserve` room, give a
// run its past (`feeds`) and where to write its present (`fetches`), `take` what it wrote; `keep` what
// was read so far, go `back` to it for the next text, or `forget` it.

import { none } from "./half.js";

const BLOCK = 256; // a capacity is a multiple of so many positions

/** The cache's inputs and outputs: names, type, how many heads of which size. */
const slots = (session) =>
  session.inputMetadata
    .filter(({ name }) => name.startsWith("past_key_values"))
    .map(({ name, type, shape }) => ({ past: name, present: name.replace("past_key_values", "present"), type, heads: shape[1], size: shape[3] }));

/** New, longer tensors with every run: on the CPU, and for graphs whose attention needs them. */
export class GrowingCache {
  constructor(session, Tensor) {
    this.slots = slots(session);
    this.empty = { length: 0, past: {} };
    for (const { past, type, heads, size } of this.slots) this.empty.past[past] = new Tensor(type, none(type), [1, heads, 0, size]);
    this.kept = this.now = this.empty;
  }
  get length() {
    return this.now.length;
  }
  reserve() {}
  feeds() {
    return this.now.past;
  }
  fetches() {
    return {};
  }
  take(outputs, tokens) {
    const past = Object.fromEntries(this.slots.map((slot) => [slot.past, outputs[slot.present]]));
    this.#go({ length: this.length + tokens, past });
  }
  keep() {
    this.kept = this.now;
  }
  back() {
    this.#go(this.kept);
  }
  forget() {
    this.back();
    this.kept = this.empty;
    this.#go(this.empty);
  }
  dispose() {
    this.forget();
  }
  #go(next) {
    const { now } = this;
    this.now = next;
    if (now === next || now === this.kept) return;
    for (const tensor of Object.values(now.past)) if (tensor.location === "gpu-buffer") tensor.dispose();
  }
}

/** Past and present in the same WebGPU buffers of fixed capacity; the attention mask tells the length. */
export class FixedCache {
  constructor(session, Tensor, device, context) {
    Object.assign(this, { slots: slots(session), Tensor, device, context, buffers: [], past: {}, present: {} });
    this.capacity = this.length = this.kept = 0;
  }
  /** Room for `length` positions; what was kept is there all the same. */
  reserve(length) {
    if (length <= this.capacity) return;
    const [old, before] = [this.buffers, this.capacity];
    const capacity = Math.min(this.context, BLOCK * Math.ceil(length / BLOCK));
    const made = this.#make(capacity);
    Object.assign(this, { buffers: made.map(({ buffer }) => buffer), capacity });
    this.slots.forEach(({ past, present, type }, slot) => {
      const { buffer, dims } = made[slot];
      this.past[past] = this.present[present] = this.Tensor.fromGpuBuffer(buffer, { dataType: type, dims });
    });
    if (this.kept) this.#copy(old, before);
    for (const buffer of old) buffer.destroy();
  }
  /** A buffer for each slot, or none: where one cannot be had, those before it are given back. */
  #make(capacity) {
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const made = [];
    try {
      for (const { type, heads, size } of this.slots) {
        const dims = [1, heads, capacity, size];
        const bytes = dims.reduce((all, count) => all * count, type === "float16" ? 2 : 4);
        made.push({ dims, buffer: this.device.createBuffer({ size: bytes, usage: STORAGE | COPY_SRC | COPY_DST }) });
      }
    } catch (error) {
      for (const { buffer } of made) buffer.destroy();
      throw error;
    }
    return made;
  }
  /** The positions kept, head for head, out of buffers for `before` of them. */
  #copy(old, before) {
    const encoder = this.device.createCommandEncoder();
    this.slots.forEach(({ type, heads, size }, slot) => {
      const row = size * (type === "float16" ? 2 : 4);
      for (let head = 0; head < heads; head += 1)
        encoder.copyBufferToBuffer(old[slot], head * before * row, this.buffers[slot], head * this.capacity * row, this.kept * row);
    });
    this.device.queue.submit([encoder.finish()]);
  }
  feeds() {
    return this.past;
  }
  fetches() {
    return this.present;
  }
  take(_, tokens) {
    this.length += tokens;
  }
  keep() {
    this.kept = this.length;
  }
  back() {
    this.length = this.kept;
  }
  forget() {
    this.length = this.kept = 0;
  }
  dispose() {
    for (const buffer of this.buffers.splice(0)) buffer.destroy();
    this.capacity = 0;
    this.forget();
  }
}
