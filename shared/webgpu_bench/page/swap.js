// Adapters of several domains on one session of a family's `swap_<dtype>.onnx`, whose inputs they are: the
// base is loaded once, and a domain is switched to by the tensors that the next run gets beside its own.

import { floats } from "./half.js";

const PLACE = ".lora_"; // what the name of an input for an adapter has in it
const TYPES = { F16: "float16", U8: "uint8" };

/** What Transformers.js is to load instead of the base's own graph; the data are the base's, as its config.json counts them. */
export function swapOptions(dtype, config) {
  const name = `model_${dtype}.onnx`;
  const count = config["transformers.js_config"].use_external_data_format[name];
  const files = Array.from({ length: count }, (_, place) => `${name}_data${place ? `_${place}` : ""}`);
  return { model_file_name: "swap", session_options: { externalData: files.map((path) => ({ path, data: `onnx/${path}` })) } };
}

/** The tensors of a safetensors file (an ArrayBuffer): [name, { type, dims, bytes }]. */
export function readTensors(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  return Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => [name, { type: TYPES[dtype], dims: shape, bytes: buffer.slice(start + from, start + to) }]);
}

export class Adapters {
  /** `session`: what Transformers.js made; `Tensor`: onnxruntime's; `device`: the session's GPUDevice, null on the CPU. */
  constructor(session, Tensor, device = null) {
    Object.assign(this, { Tensor, device, known: new Map(), tensors: null, buffers: new Map() });
    const own = (name) => !name.includes(PLACE);
    this.wanted = new Map(session.inputMetadata.filter(({ name }) => !own(name)).map((input) => [input.name, input]));
    /** The session without the adapter's inputs, for Transformers.js and for a Decoder. */
    this.session = Object.create(session, {
      inputNames: { value: session.inputNames.filter(own) },
      inputMetadata: { value: session.inputMetadata.filter(({ name }) => own(name)) },
      run: { value: (feeds, ...rest) => session.run({ ...feeds, ...this.#chosen() }, ...rest) },
    });
  }

  #chosen() {
    if (!this.tensors) throw new Error("no adapter was chosen");
    return this.tensors;
  }

  /** Keep a domain's adapter, from its safetensors file, where the session reads it. */
  add(domain, file) {
    const found = new Map(readTensors(file));
    const lacking = [...this.wanted.keys()].find((name) => !found.has(name)) ?? [...found.keys()].find((name) => !this.wanted.has(name));
    if (lacking) throw new Error(`${domain}: not of this family: ${lacking}`);
    this.remove(domain);
    try {
      this.known.set(domain, Object.fromEntries([...found].map(([name, tensor]) => [name, this.#placed(domain, name, tensor)])));
    } catch (error) {
      this.remove(domain);
      throw error;
    }
  }

  #placed(domain, name, { type, dims, bytes }) {
    const { type: asked, shape } = this.wanted.get(name);
    if (String(dims) !== String(shape)) throw new Error(`${domain}: not of this family: ${name} is ${dims}, not ${shape}`);
    const data = asked === "float32" ? floats(new Uint16Array(bytes)) : new (type === "float16" ? (globalThis.Float16Array ?? Uint16Array) : Uint8Array)(bytes);
    if (!this.device) return new this.Tensor(asked, data, dims);
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const size = Math.ceil(data.byteLength / 4) * 4;
    const buffer = this.device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST, mappedAtCreation: true });
    new Uint8Array(buffer.getMappedRange()).set(new Uint8Array(data.buffer));
    buffer.unmap();
    this.buffers.set(domain, [...(this.buffers.get(domain) ?? []), buffer]);
    return this.Tensor.fromGpuBuffer(buffer, { dataType: asked, dims });
  }

  /** Every run from now on is the domain's. What a cache holds was read by another: forget it first. */
  use(domain) {
    const tensors = this.known.get(domain);
    if (!tensors) throw new Error(`${domain}: no such adapter is here`);
    this.tensors = tensors;
  }

  /** Give back what a domain's adapter takes. */
  remove(domain) {
    if (this.tensors && this.tensors === this.known.get(domain)) this.tensors = null;
    this.known.delete(domain);
    for (const buffer of this.buffers.get(domain) ?? []) buffer.destroy();
    this.buffers.delete(domain);
  }

  dispose() {
    for (const domain of [...this.known.keys()]) this.remove(domain);
  }
}
