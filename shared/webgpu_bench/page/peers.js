// Engines beside WebGPU, on this machine's CPU, measured by the same page in the same way:
// onnxruntime-web's wasm on the same file, and wllama (llama.cpp) on a GGUF as the outside peer.

import { EngineError, load, wasmThreads } from "./engine.js";

/** `request.engine`: "wasm", or "wllama" with `request.gguf`, the file's URL. */
export async function loadPeer(request) {
  if (request.engine === "wasm") return loadWasm(request);
  if (request.engine === "wllama") return loadWllama(request);
  throw new EngineError("load_failed", `no engine is named ${request.engine}`);
}

async function loadWasm({ model, dtype }) {
  const engine = await load({ model, dtype, device: "wasm" });
  return Object.assign(engine, { dtype, threads: wasmThreads() });
}

async function loadWllama({ gguf, context, threads }) {
  const { Wllama, LoggerWithoutDebug } = await import("./vendor/@wllama/wllama/esm/index.js");
  const wasm = new URL("./vendor/@wllama/wllama/esm/wasm/wllama.wasm", import.meta.url).href;
  const wllama = new Wllama({ default: wasm }, { suppressNativeLog: true, logger: LoggerWithoutDebug });
  const started = performance.now();
  const blob = await (await fetch(gguf)).blob();
  const n_threads = threads ?? (crossOriginIsolated ? navigator.hardwareConcurrency : 1);
  await wllama.loadModel([blob], { n_ctx: context, n_gpu_layers: 0, n_threads, n_parallel: 1, warmup: false });
  const seconds = (performance.now() - started) / 1000;
  return new WllamaEngine(wllama, { seconds, bytes_fetched: blob.size }, await Wllama.getLibllamaVersion());
}

/** llama.cpp's own clock: the first token belongs to the prompt, the rest share predicted_ms evenly. */
function readTimings(run, { prompt_n, prompt_ms, predicted_n, predicted_ms }) {
  const steps = Math.max(0, predicted_n - 1);
  run.prompt_tokens = run.read_tokens = prompt_n;
  run.ttft_ms = prompt_ms;
  run.decode_ms = Array(steps).fill(predicted_ms / steps);
}

class WllamaEngine {
  constructor(wllama, facts, version) {
    Object.assign(this, { wllama, load: facts, dtype: "gguf" });
    this.threads = wllama.getNumThreads();
    this.versions = { llama_cpp: version };
  }

  /**
   * Fills `run` as Engine.generate does; stop tokens are ignored, each chunk is one token. wllama
   * takes text only: `text` is what the ids spell, and `prompt_tokens` what llama.cpp makes of it.
   */
  async generate({ run, text, max_new_tokens, shouldHalt = () => null, onToken = () => {} }) {
    const abort = new AbortController();
    const onData = (chunk) => {
      run.output_text += chunk.choices?.[0]?.text ?? "";
      const seen = chunk.choices?.[0]?.logprobs?.content ?? [];
      run.output_ids.push(...seen.map(({ id }) => id).slice(0, max_new_tokens - run.output_ids.length));
      if (chunk.timings) readTimings(run, chunk.timings);
      if (shouldHalt()) abort.abort();
      else onToken(run);
    };
    const options = {
      prompt: text,
      max_tokens: max_new_tokens,
      temperature: 0,
      top_k: 1,
      ignore_eos: true,
      cache_prompt: false,
      logprobs: 1,
      timings_per_token: true,
      stream: true,
      abortSignal: abort.signal,
      onData,
    };
    try {
      await this.wllama.createCompletion(options);
      run.stopped_by = "max_new_tokens";
    } catch (error) {
      if (!abort.signal.aborted) throw new EngineError("run_failed", String(error?.message ?? error).split("\n")[0]);
      run.stopped_by = "deadline";
    }
    return run;
  }

  async dispose() {
    await this.wllama.exit();
  }
}
