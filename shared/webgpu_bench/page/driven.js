// window.docintel.run(request): the benchmark's side of the page. One request, one JSON answer; what
// is known so far is on the console all along, so that even a killed page leaves its partial result.

import { EngineError, chooseDtype, describeAdapter, failure, load, newRun, place, versions } from "./engine.js";
import { isSoftware } from "./adapter.js";
import { answerDocuments } from "./documents.js";
import { readTexts } from "./parity.js";
import { warmLoad } from "./warm.js";

const gpu = window.docintelGpu;
const say = (line) => console.info(`[docintel] ${line}`);
const MEGABYTE = 1e6;
const PARTIAL_EVERY_MS = 1000;
const RESERVED = 0.2; // of the time left for the given text: the placement is proven after it
const SOFTWARE_SHARE = 0.6; // of all the time, for the given text on a software adapter

const empty = () => ({
  ok: false,
  outcome: "load_failed",
  error: null,
  dtype: null,
  dtype_reason: null,
  runs: [],
  documents: [],
  user_agent: navigator.userAgent,
  versions,
});

function gpuFacts(result) {
  result.gpu = {
    peak_requested_bytes: gpu.peak_requested_bytes,
    live_bytes_after_dispose: result.gpu?.live_bytes_after_dispose ?? null,
    buffers: gpu.buffers,
    dispatches: gpu.dispatches,
    shader_modules: gpu.shader_modules,
  };
  result.uncaptured_errors = gpu.uncaptured_errors;
  result.device_lost = gpu.device_lost;
}

function keepPartial(result) {
  gpuFacts(result);
  console.debug(`[docintel:partial] ${JSON.stringify(result)}`);
}

function loadProgress() {
  let next = 0;
  return (loaded, total) => {
    if (loaded < total && performance.now() < next) return;
    next = performance.now() + 1000;
    say(`loading: ${(loaded / MEGABYTE).toFixed(0)} of ${(total / MEGABYTE).toFixed(0)} MB`);
  };
}

/** keepPartial, at most once a second: what it writes must not weigh on the tokens it tells of. */
function keptSeldom(result) {
  let next = performance.now() + PARTIAL_EVERY_MS;
  return (line) => {
    if (performance.now() < next) return;
    next = performance.now() + PARTIAL_EVERY_MS;
    say(line);
    keepPartial(result);
  };
}

/** Answer `request` (see result.py for the shape of the answer). Never throws. */
export async function run(request) {
  const began = performance.now();
  const until = began + request.deadline_ms;
  const result = empty();
  gpu.budget_bytes = request.budget_bytes ?? null;
  let engine = null;
  try {
    const adapter = await describeAdapter();
    if (adapter) result.adapter = adapter;
    else if (!peer(request)) throw new EngineError("no_webgpu", "this browser offers no WebGPU adapter");
    if (request.hardware_only && isSoftware(result.adapter)) throw new EngineError("no_webgpu", "this browser offers a software adapter only");
    // A software adapter may not get through it all: first what proves most.
    const proofFirst = onSoftware(request, result);
    if (proofFirst) await prove(request, result);
    engine = await loadFor(request, result);
    if (proofFirst && request.parity) await readGiven(engine, request.parity, result, began + SOFTWARE_SHARE * request.deadline_ms);
    const isPoint = ({ id }) => id.includes("/"); // one of llama-bench's: a slow GPU may not get through them
    await answerAll(engine, request, request.prompts.filter((asked) => !isPoint(asked)), result, until);
    if (!proofFirst && request.parity) await readGiven(engine, request.parity, result, until - RESERVED * (until - performance.now()));
    await answerAll(engine, request, request.prompts.filter(isPoint), result, until);
    const late = () => (performance.now() >= until ? "deadline" : null);
    if (request.documents) await answerDocuments(engine, request.documents, result.documents, late, say);
    if (gpu.out_of_memory) throw failure(null, "out_of_memory"); // onnxruntime-web goes on without its buffer
    Object.assign(result, { ok: true, outcome: "ok" });
  } catch (error) {
    const failed = failure(error, "run_failed");
    Object.assign(result, { outcome: failed.outcome, error: failed.message });
  }
  await close(engine, result);
  if (result.ok && request.warm_load && !peer(request)) await warmLoad(request, result, until);
  if (result.ok && !onSoftware(request, result)) await prove(request, result);
  if (result.ok && request.profile) await logKernels(request, result);
  return result;
}

const onSoftware = (request, result) => !peer(request) && isSoftware(result.adapter);

/** Load apart from all measuring, with the log that the driver reads the placement from. Done whether
 * or not the time is up: without it nothing is proven, and the driver's own limit stands. */
async function prove(request, result) {
  if (request.placement === false || peer(request)) return;
  try {
    if (!result.dtype) useDtype(request, result);
    say("loading to log the placement");
    await loadOnce({ model: request.model, dtype: result.dtype, swap: Boolean(request.swap), verbose: true });
    await collectGarbage();
  } catch (error) {
    result.placement_reason = `loading to log the placement failed: ${error.message}`;
  }
}

async function loadOnce(asked) {
  const engine = await load(asked);
  await engine.dispose();
}

/** A model's file is one ArrayBuffer, which stays until V8 finds it: beside the next one it is 2 GB of a
 * 3B model. `gc` is there with --expose-gc, as the driver starts Chromium. */
const collectGarbage = () => globalThis.gc?.({ type: "major", execution: "async" });

/** Two passes with onnxruntime-web's profiler, which prints an event a kernel: a prompt, then a token. */
async function logKernels(request, result) {
  try {
    say("loading once more to profile the kernels");
    const engine = await load({ model: request.model, dtype: result.dtype, profiling: true });
    const given = { rows: [[...request.prompts[0].input_ids, 1]], batch: 1, top_k: 1 };
    await readTexts(engine.network, { ...given, piece: given.rows[0].length - 1 }, { pieces: [] }, () => false, () => {});
    engine.network.sessions.model.endProfiling();
    await engine.dispose();
  } catch (error) {
    say(`profiling failed: ${error.message}`);
  }
}

/** An engine beside WebGPU, on the CPU: "wasm" or "wllama". */
const peer = (request) => (request.engine ?? "webgpu") !== "webgpu";

async function loadPeer(request, result) {
  say(`loading ${request.engine}`);
  const engine = await (await import("./peers.js")).loadPeer(request);
  Object.assign(result, { dtype: engine.dtype, dtype_reason: "asked for", load: engine.load });
  Object.assign(result, { threads: engine.threads, versions: engine.versions ?? versions });
  return engine;
}

function useDtype(request, result) {
  const { dtype, reason } = chooseDtype(request.dtype ?? "auto", result.adapter);
  Object.assign(result, { dtype, dtype_reason: reason });
  say(`${dtype}: ${reason}`);
  keepPartial(result);
}

async function loadFor(request, result) {
  if (peer(request)) return loadPeer(request, result);
  if (!result.dtype) useDtype(request, result);
  const { dtype } = result;
  const engine = await load({
    model: request.model,
    dtype,
    swap: Boolean(request.swap),
    onProgress: loadProgress(),
  });
  result.load = engine.load;
  if (request.swap) await engine.switchTo(request.swap.domain, async () => (await fetch(place(request) + request.swap.file)).arrayBuffer());
  say(`loaded in ${engine.load.seconds.toFixed(1)} s`);
  keepPartial(result);
  return engine;
}

async function answerAll(engine, request, prompts, result, until) {
  const late = () => (performance.now() >= until ? "deadline" : null);
  if (request.warmup_tokens && prompts.length) {
    say("warming up");
    const input_ids = prompts[0].input_ids;
    const max_new_tokens = request.warmup_tokens;
    await engine.generate({ run: newRun("", input_ids), input_ids, max_new_tokens, shouldHalt: late });
  }
  for (const { id, input_ids, max_new_tokens, min_new_tokens, text } of prompts) {
    if (late()) {
      say("the time is up");
      return;
    }
    const run = newRun(id, input_ids);
    result.runs.push(run);
    keepPartial(result);
    say(`${id}: reading ${input_ids.length} tokens`);
    const tell = keptSeldom(result);
    const onToken = ({ output_ids }) => tell(`${id}: token ${output_ids.length} of ${max_new_tokens}`);
    const more = min_new_tokens ? { min_new_tokens } : {};
    await engine.generate({ run, input_ids, text, max_new_tokens, more, shouldHalt: late, onToken });
  }
}

/** Read the texts of the parity gate until `end`. Each piece is on the console once: the partial
 * results, which repeat themselves, are without them. */
async function readGiven(engine, given, result, end) {
  const answer = { pieces: [], peak_requested_bytes: 0 };
  const before = gpu.peak_requested_bytes;
  gpu.peak_requested_bytes = gpu.live_bytes;
  const late = (ms) => performance.now() + ms >= end;
  const tell = (done, piece) => {
    say(`parity: ${(100 * done).toFixed(0)} % of the given text is read`);
    console.debug(`[docintel:piece] ${JSON.stringify(piece)}`);
  };
  await engine.guarded(readTexts(engine.network, given, answer, late, tell));
  answer.peak_requested_bytes = gpu.peak_requested_bytes;
  gpu.peak_requested_bytes = before; // what a user's run asks for, not this test with its many rows
  result.parity = answer;
}

async function close(engine, result) {
  try {
    await engine?.dispose();
    if (engine) {
      gpuFacts(result);
      result.gpu.live_bytes_after_dispose = gpu.live_bytes;
    }
  } catch (error) {
    say(`dispose failed: ${error.message}`);
  }
  gpuFacts(result);
}
