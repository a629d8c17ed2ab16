// Load one packaged model with Transformers.js on WebGPU and let it write, greedily and timed.
// Everything comes from beside this page, no CDN; a model from the Hub only where the manifest says so.

import { AutoModelForCausalLM, AutoTokenizer, env } from "@huggingface/transformers";
import { Tensor } from "onnxruntime-web/webgpu";
import { Decoder, write } from "./decode.js";
import { Adapters, swapOptions } from "./swap.js";
import { controlTokens, plain, prefixIds, promptIds } from "./prompt.js";

const gpu = window.docintelGpu;
const RUNTIME = new URL("./vendor/onnxruntime-web/dist/ort-wasm-simd-threaded", import.meta.url).href;
const MODELS = new URL("./models/", import.meta.url);
/** The WebGPU build lacks CPU kernels (GatherBlockQuantized) that a model on wasm needs. */
const BUILDS = { webgpu: `${RUNTIME}.asyncify`, wasm: RUNTIME };

env.localModelPath = MODELS.pathname;
env.useBrowserCache = false;
env.useWasmCache = false;

/** Which build of onnxruntime-web this page runs; only the first load can choose it. */
export function useBuild(device) {
  env.backends.onnx.wasm.wasmPaths = { mjs: `${BUILDS[device]}.mjs`, wasm: `${BUILDS[device]}.wasm` };
  if (device === "wasm") env.backends.onnx.wasm.numThreads = crossOriginIsolated ? navigator.hardwareConcurrency : 1;
}

/** Threads of the wasm build; without cross-origin isolation there is one, silently. */
export const wasmThreads = () => env.backends.onnx.wasm.numThreads ?? 1;

/** Let the loader read what is in `store` (with a Cache's `match`) from there, while `work` runs. */
async function readingFrom(store, work) {
  env.customCache = { match: (key) => store.match(new URL(key, location.href).href), put: async () => {} };
  env.useCustomCache = true;
  try {
    return await work();
  } finally {
    env.useCustomCache = false;
    env.customCache = null;
  }
}

export const versions = {
  transformers: env.version,
  onnxruntime_web: env.backends.onnx.versions?.web ?? null,
};

/** A failure with the outcome it stands for; its message is one sentence. */
export class EngineError extends Error {
  constructor(outcome, message) {
    super(message);
    this.outcome = outcome;
  }
}

/** The adapter in plain values, or null where the browser offers none. */
export async function describeAdapter() {
  const adapter = gpu.adapter ?? (await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" }));
  if (!adapter) return null;
  const info = adapter.info;
  const limits = {};
  for (const name in adapter.limits) {
    if (typeof adapter.limits[name] === "number") limits[name] = adapter.limits[name];
  }
  return {
    vendor: info.vendor,
    architecture: info.architecture,
    device: info.device,
    description: info.description,
    is_fallback: Boolean(info.isFallbackAdapter ?? adapter.isFallbackAdapter),
    features: [...adapter.features].sort(),
    limits,
  };
}

/** q4f16 needs shader-f16; Transformers.js would only notice at the first run. */
export function chooseDtype(asked, adapter) {
  const f16 = adapter.features.includes("shader-f16");
  const dtype = asked === "auto" ? (f16 ? "q4f16" : "q4") : asked;
  if (f16 && asked !== "auto") return { dtype, reason: "asked for" };
  return { dtype, reason: f16 ? "the adapter has shader-f16" : "the adapter has no shader-f16" };
}

/** What went wrong, named by what the instruments saw rather than by the text of an error. */
export function failure(error, otherwise) {
  if (error instanceof EngineError) return error;
  if (gpu.budget_exceeded) {
    const { wanted, budget } = gpu.budget_exceeded;
    return new EngineError("out_of_budget", `the model wants ${wanted} bytes of WebGPU buffers, the budget is ${budget}`);
  }
  const text = error?.message ?? String(error);
  if (gpu.out_of_memory || NO_MEMORY.test(text)) {
    return new EngineError("out_of_memory", `there is not enough memory: ${firstSentence(gpu.out_of_memory ?? text)}`);
  }
  if (gpu.device_lost) {
    return new EngineError("device_lost", `the GPU device was lost: ${gpu.device_lost.message || gpu.device_lost.reason}`);
  }
  const missing = MISSING.exec(text);
  if (missing) return new EngineError(otherwise, `the package lacks ${missing[1]}`);
  return new EngineError(otherwise, firstSentence(text));
}

/** What V8 and SpiderMonkey say where an ArrayBuffer cannot be had, and wasm where its heap cannot grow. */
const NO_MEMORY = /array buffer allocation failed|invalid array buffer length|out of memory|std::bad_alloc/i;
const MISSING = /file was not found locally at "[^"]*\/models\/(?:[^/"]+\/)*?((?:onnx\/)?[^/"]+)"/;

const firstSentence = (text) => text.split("\n")[0].slice(0, 400);

/** Fail where a buffer was refused: onnxruntime-web goes on without it, and computes what means nothing. */
function needMemory() {
  if (gpu.out_of_memory) throw failure(null, "out_of_memory");
}

/** Settle as `work` does, or fail as soon as the device is lost. */
export async function unlessLost(work) {
  let tell;
  const lost = new Promise((_, reject) => {
    tell = () => reject(failure(null, "device_lost"));
    gpu.listeners.add(tell);
    if (gpu.device_lost) tell();
  });
  try {
    return await Promise.race([work, lost]);
  } finally {
    gpu.listeners.delete(tell);
  }
}

/** Transformers.js 4.3.1 waits for ever on a chunk that is missing: its error surfaces only here. */
async function unlessRejected(work) {
  let notice;
  const rejected = new Promise((_, reject) => {
    notice = (event) => {
      event.preventDefault();
      reject(event.reason);
    };
    window.addEventListener("unhandledrejection", notice);
  });
  try {
    return await Promise.race([work, rejected]);
  } finally {
    window.removeEventListener("unhandledrejection", notice);
  }
}

/** The address of a model's files: a folder below models/, or a repository at a commit (`revision`) of `hub`. */
export const place = ({ model, revision, hub }) => (revision ? `${hub}/${model}/resolve/${revision}/` : new URL(`${model}/`, MODELS).href);

/** Reads JSON files of a package; empty where it has none of that name. */
const reader = (asked, store) => async (name) => {
  const address = place(asked) + name;
  const answer = (await store?.match(address)) ?? (await fetch(address));
  return answer.ok ? answer.json() : {};
};

/**
 * Load `model` from models/<model>/ beside this page, or, with `revision`, from that repository of `hub`;
 * `onProgress(loaded, total)` in bytes. `swap`: as the base of a family, whose domains are switched to;
 * `store`: what it has is not asked of the server (kept.js, or a Cache). `verbose` makes onnxruntime-web
 * log each node's provider, but then also every dispatch of every run: never time it.
 */
export async function load({ model, revision = null, hub = null, dtype, device = "webgpu", swap = false, store = null, onProgress = () => {}, ...logs }) {
  const { verbose = false, profiling = false } = logs;
  useBuild(device);
  env.allowRemoteModels = revision !== null;
  env.allowLocalModels = revision === null;
  if (revision) env.remoteHost = `${hub}/`;
  const json = reader({ model, revision, hub }, store);
  const started = performance.now();
  const files = new Map();
  const progress_callback = (info) => {
    if (info.status !== "progress") return;
    files.set(info.file, [info.loaded, info.total]);
    const sum = (index) => [...files.values()].reduce((all, file) => all + file[index], 0);
    onProgress(sum(0), sum(1));
  };
  const session_options = verbose ? { logSeverityLevel: 0 } : profiling ? { enableProfiling: true } : {};
  const from = { progress_callback, ...(revision && { revision }) };
  const weights = async () => {
    const swapped = swap ? swapOptions(dtype, await json("config.json")) : {};
    const options = { ...from, device, dtype, ...swapped, session_options: { ...session_options, ...swapped.session_options } };
    return AutoModelForCausalLM.from_pretrained(model, options);
  };
  const parts = () =>
    Promise.all([
      AutoTokenizer.from_pretrained(model, from),
      weights(),
      json("tokenizer.json").then(controlTokens),
      device === "webgpu" && json("genai_config.json").then(({ search }) => search?.past_present_share_buffer),
    ]);
  const loading = store ? readingFrom(store, parts) : parts();
  try {
    const [tokenizer, network, controls, shared] = await unlessLost(unlessRejected(loading));
    needMemory();
    const adapters = swap ? new Adapters(network.sessions.model, Tensor, device === "webgpu" ? gpu.device : null) : null;
    if (swap) network.sessions.model = adapters.session;
    const seconds = (performance.now() - started) / 1000;
    const bytes_fetched = [...files.values()].reduce((all, [loaded]) => all + loaded, 0);
    return new Engine(tokenizer, network, controls, { seconds, bytes_fetched }, shared ? gpu.device : null, json, adapters);
  } catch (error) {
    throw failure(error, "load_failed");
  }
}

export class Engine {
  /** `json(name)`: a JSON file of its package; `adapters`: of a family's base. */
  constructor(tokenizer, network, controls, loadFacts, device, json, adapters = null) {
    Object.assign(this, { tokenizer, network, controls, load: loadFacts, json, adapters });
    const ends = network.generation_config?.eos_token_id ?? network.config.eos_token_id;
    this.eos = new Set([ends].flat().filter((id) => id !== null && id !== undefined).map(Number));
    this.encode = (text) => tokenizer.encode(text, { add_special_tokens: false });
    this.context = network.config.max_position_embeddings ?? Infinity;
    this.decoder = new Decoder({ session: network.sessions.model, Tensor, device, context: this.context });
  }

  /** The token ids of one question; control tokens that it names are text. */
  promptIds(system, text) {
    return promptIds(this.tokenizer, this.controls, system, text);
  }

  /** An answer's ids as text, without the stop tokens; any other control token is seen. */
  text(ids) {
    return plain(this.tokenizer, ids.filter((id) => !this.eos.has(id)));
  }

  /** The ids that every question under this system prompt begins with: worth being read once. */
  prefixIds(system) {
    return prefixIds(this.tokenizer, this.controls, system);
  }

  /**
   * Write up to `max_new_tokens` greedily after exactly `input_ids`; fills and returns `run`. What of
   * `prefix` the ids begin with stays read for the next call. `more`: min_new_tokens, and `held`, what
   * holds the answer to a grammar (hold.js); without it Transformers.js's `generate` writes the same tokens.
   */
  async generate({ run, input_ids, max_new_tokens, ...asked }) {
    const most = Math.min(max_new_tokens, this.context - input_ids.length);
    if (most < 1) throw new EngineError("run_failed", `the question has ${input_ids.length} tokens, and the model has room for ${this.context} with its answer`);
    try {
      await this.guarded(write(this.decoder, run, { input_ids, most, eos: this.eos, ...asked }));
    } catch (error) {
      run.stopped_by = "interrupted"; // whatever was written before the error was seen
      throw error;
    } finally {
      asked.more?.held?.dispose();
      run.output_text = this.text(run.output_ids);
    }
    return run;
  }

  /** From now on a domain's adapter answers; `read()` gives its file where it is not on the GPU yet. */
  async switchTo(domain, read) {
    const { adapters, decoder } = this;
    try {
      if (!adapters.known.has(domain)) adapters.add(domain, await unlessLost(read()));
    } catch (error) {
      throw failure(error, "load_failed");
    }
    adapters.use(domain);
    decoder.forget();
  }

  /** The failure for what the GPU told of; what was read of the prompt may be wrong, too, and is forgotten. */
  distrusting(message) {
    this.decoder.forget();
    return new EngineError("run_failed", message);
  }

  /** Settle as `work` does; a lost device or a refused buffer is named. */
  async guarded(work) {
    try {
      const done = await unlessLost(work);
      needMemory();
      return done;
    } catch (error) {
      work.catch(() => {});
      throw failure(error, "run_failed");
    }
  }

  async dispose() {
    if (gpu.device) gpu.closed.add(gpu.device);
    this.decoder.dispose();
    this.adapters?.dispose();
    await this.network.dispose();
  }
}

export const newRun = (id, input_ids) => ({
  id,
  prompt_tokens: input_ids.length,
  read_tokens: input_ids.length,
  output_ids: [],
  output_text: "",
  ttft_ms: null,
  decode_ms: [],
  model_runs: null,
  stopped_by: "interrupted",
});
