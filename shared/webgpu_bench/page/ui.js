// The page as a person uses it: choose a model, load it, give it a text, watch the answer and its cost.
// `state` decides what can be pressed; every failure is one sentence in the notice.

import { isSoftware } from "./adapter.js";
import { parsed, shownAnswer } from "./answer.js";
import { called, downloadWords, keptOf, listed, loadBase, megabytes, sameBase, switchDomain } from "./models.js";
import { isGone, KEEPS_NOTHING, NO_MODEL, NO_PACKAGES, NO_PAGE, NO_SERVER, NO_WEBGPU, NOT_SECURE, room, sentence as worded, unfit } from "./failures.js";
import { forgetOthers } from "./kept.js";
import { isolate, keep } from "./offline.js";
import { begunAnew, beginAnew } from "./anew.js";
import { satisfies } from "./schema.js";

/** So many at least; more where the model's answers were measured with more. */
const NEW_TOKENS = 512;
/** Room that a text must leave for its answer. */
const SHORTEST_ROOM = 160;
const gpu = window.docintelGpu;
const $ = (id) => document.getElementById(id);

const page = { state: "checking", manifest: { models: [] }, adapter: null, engine: null, loaded: null, stopping: false, lib: null, tooLong: false, spoilt: false };
const sentence = (error) => worded(error, Boolean(page.manifest.worker));

const PLACEHOLDER = {
  ready: "Paste a text…",
  answering: "Answering…",
  measuring: "Measuring…",
  loading: "Loading…",
  lost: "Load the model again",
};

function enter(state) {
  page.state = state;
  document.body.dataset.state = state;
  const ready = state === "ready";
  const answering = state === "answering";
  const canLoad = ["choosing", "ready", "lost"].includes(state);
  $("model").disabled = $("load").disabled = !canLoad;
  $("loading").hidden = state !== "loading";
  $("text").disabled = !ready;
  $("text").placeholder = PLACEHOLDER[state] ?? "Load a model first";
  offer();
  $("send").hidden = answering;
  $("stop").hidden = !answering;
  $("example").hidden = !(ready && chosen()?.example);
  $("holding").hidden = !chosen()?.grammar;
  $("hold").disabled = answering;
  $("benchmark").hidden = !(ready || state === "measuring");
  $("measure").disabled = !(ready || state === "measuring");
  $("measure").textContent = state === "measuring" ? "Stop" : "Run the benchmark";
}

/** What can be done with the model that is chosen: only the one that is loaded can be asked. */
function offer() {
  const words = page.loaded === chosen() ? "Load again" : canSwitch() ? `Switch to ${chosen().domain}` : "Load model";
  $("load").textContent = page.engine && page.state !== "lost" ? words : "Load model";
  $("send").disabled = page.state !== "ready" || page.tooLong || page.loaded !== chosen();
}

const canSwitch = () => Boolean(page.engine) && page.loaded !== chosen() && sameBase(page.loaded, chosen());

function notice(text, command = "") {
  const box = $("notice");
  box.hidden = !text;
  box.classList.toggle("advice", Boolean(command));
  box.textContent = text;
  if (command) box.append(" ", Object.assign(document.createElement("code"), { textContent: command }));
}

const chosen = () => page.manifest.models.find(({ name }) => name === $("model").value);
const rate = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(value < 1 ? 2 : 1));

export async function startPage() {
  $("load").addEventListener("click", loadModel);
  $("model").addEventListener("change", chooseModel);
  $("ask").addEventListener("submit", submit);
  $("stop").addEventListener("click", () => (page.stopping = true));
  $("example").addEventListener("click", useExample);
  $("measure").addEventListener("click", () => (page.state === "measuring" ? (page.stopping = true) : measure()));
  $("text").addEventListener("keydown", sendOnEnter);
  for (const name of ["text", "system"]) $(name).addEventListener("input", countSoon);
  gpu.listeners.add(deviceLost);
  setInterval(showBytes, 500);
  let reached = true;
  try {
    page.manifest = await (await fetch("./manifest.json")).json();
  } catch {
    reached = false;
  }
  if (reached) forgetOthers(page.manifest.models).catch(() => {});
  await isolate(page.manifest.worker);
  fillModels();
  await findAdapter(reached);
  if (await keep(page.manifest)) $("offline").hidden = false;
}

async function findAdapter(reached) {
  try {
    page.lib = await import("./engine.js");
  } catch {
    enter("broken");
    return page.manifest.worker ? notice(NO_PAGE) : notice(NO_PACKAGES, "cd shared/webgpu_bench && npm ci --ignore-scripts");
  }
  page.adapter = await page.lib.describeAdapter().catch(() => null);
  showAdapter(page.adapter);
  if (!page.adapter) {
    enter("no-webgpu");
    return notice(isSecureContext ? NO_WEBGPU : NOT_SECURE);
  }
  if (!page.manifest.models.length) {
    enter("no-model");
    return reached ? notice(NO_MODEL, "./inv release --domain <name>") : notice(NO_SERVER);
  }
  const again = begunAnew();
  enter("choosing");
  describe();
  if (again) loadModel();
}

function showAdapter(adapter) {
  const chip = $("adapter");
  const kind = !adapter ? "none" : isSoftware(adapter) ? "software" : "hardware";
  const short = (adapter && [adapter.vendor, adapter.architecture].filter(Boolean).join(" ")) || "GPU";
  const labels = { none: "no WebGPU", software: `software adapter · ${short}`, hardware: short };
  chip.dataset.kind = document.body.dataset.adapter = kind;
  chip.firstElementChild.textContent = labels[kind];
  if (adapter?.description) chip.title = adapter.description;
}

function fillModels() {
  const { models } = page.manifest;
  $("model").replaceChildren(...(models.length ? listed(models) : [new Option("no model", "")]));
  chooseModel();
}

function chooseModel() {
  $("prompting").open = matchMedia("(min-width: 761px)").matches && page.manifest.models.length > 0;
  $("system").value = chosen()?.system_prompt ?? "";
  $("holding").hidden = !chosen()?.grammar;
  $("example").hidden = !(page.state === "ready" && chosen()?.example);
  offer();
  describe();
}

/** The files of the chosen model that this browser keeps. */
const keptHere = () => keptOf(chosen(), page.lib.place({ hub: page.manifest.hub, ...chosen() }));

/** Before it is loaded: how much is to be downloaded, and what the model is made from. */
async function describe() {
  const model = chosen();
  const tell = (lacks) => {
    const download = page.adapter && downloadWords(model, pickDtype().dtype, page.engine && page.loaded, lacks);
    $("about").textContent = [download, model.base && `from ${model.base}`].filter(Boolean).join(", ");
    $("about").hidden = !$("about").textContent;
  };
  if (!model) return;
  tell();
  if (!page.lib) return;
  const kept = keptHere();
  const lacking = new Set(await kept.lacking(Object.keys(kept.files)));
  if (chosen() === model) tell((name) => lacking.has(name));
}

async function loadModel() {
  if (page.spoilt) return beginAnew() || notice(KEEPS_NOTHING);
  notice("");
  const misfit = unfit(page.adapter, chosen().bytes);
  if (misfit) return notice(misfit);
  enter("loading");
  $("bar").removeAttribute("value");
  $("loaded").textContent = "starting…";
  const [model, kept] = [chosen(), keptHere()];
  try {
    gpu.device_lost = gpu.out_of_memory = null;
    if (!canSwitch()) {
      await page.engine?.dispose().catch(() => {});
      page.engine = page.loaded = null;
      const { dtype } = pickDtype();
      page.engine = await loadBase(page.lib, { hub: page.manifest.hub, ...model }, dtype, kept, showProgress);
      $("dtype").textContent = dtype;
    }
    if (model.adapter) await switchDomain(page.engine, model, kept, showProgress);
    page.loaded = model;
    enter("ready");
    say(`${model.domain ?? "The model"} is loaded`);
    forgetFigures();
    countTokens();
    refocus();
  } catch (error) {
    failed(error);
  }
  describe();
}

/** Loading ended in an error: what was loaded before may still be of use. */
function failed(error) {
  const { outcome = "load_failed", message } = error;
  if (page.loaded && outcome === "load_failed") enter("ready");
  else {
    page.spoilt = !isGone(error);
    enter(gpu.device_lost ? "lost" : "choosing");
  }
  notice(sentence({ outcome, message }));
}

/** Said once by a screen reader; what is streamed into the log is not. */
const say = (text) => ($("said").textContent = text);

let counting = 0;
function countSoon() {
  clearTimeout(counting);
  counting = setTimeout(countTokens, 250);
}

/** How long the text is, told before it is sent; one that leaves no room for an answer cannot be. */
function countTokens() {
  const text = $("text").value.trim();
  const context = page.engine?.context;
  const found = text && Number.isFinite(context) ? room(page.engine.promptIds($("system").value, text).length, context, SHORTEST_ROOM) : null;
  page.tooLong = found?.fits === false;
  $("length").hidden = !found;
  $("length").textContent = found?.words ?? "";
  $("length").classList.toggle("long", page.tooLong);
  offer();
}

/** What suits the adapter, unless the package has only the other one. */
function pickDtype() {
  const choice = page.lib.chooseDtype("auto", page.adapter);
  const there = Object.keys(chosen().bytes);
  return there.length && !there.includes(choice.dtype) ? { dtype: there[0] } : choice;
}

function showProgress(loaded, all) {
  $("bar").value = all ? Math.min(1, loaded / all) : 0;
  const done = loaded >= all;
  if (done) $("bar").removeAttribute("value");
  $("loaded").textContent = done ? "preparing the GPU…" : `${megabytes(loaded)} of ${megabytes(all)} MB`;
}

function showBytes() {
  if (gpu.buffers) $("bytes").textContent = megabytes(gpu.live_bytes);
}

function useExample() {
  $("text").value = chosen().example;
  countTokens();
  $("text").focus();
}

function sendOnEnter(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
}

function addTurn(kind, text) {
  const turn = Object.assign(document.createElement("div"), { className: `turn ${kind}`, textContent: text });
  $("welcome").hidden = true;
  $("log").append(turn);
  turn.scrollIntoView({ block: "end" });
  return turn;
}

async function submit(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  countTokens();
  if (!text || $("send").disabled) return;
  notice("");
  addTurn("mine", text);
  await answer(addTurn("theirs writing", ""), text);
}

async function answer(turn, text) {
  const { engine, loaded } = page; // another may be chosen before all is shown
  page.stopping = false;
  enter("answering");
  const run = page.lib.newRun("chat", []);
  const started = performance.now();
  const reading = setInterval(() => {
    turn.textContent = `reading ${run.read_tokens} tokens… ${Math.round((performance.now() - started) / 1000)} s`;
  }, 1000);
  const onToken = () => {
    clearInterval(reading);
    write(turn, engine.text(run.output_ids));
    showSpeed(run);
  };
  say("Answering");
  try {
    const input_ids = engine.promptIds($("system").value, text);
    run.prompt_tokens = run.read_tokens = input_ids.length;
    turn.textContent = "reading…";
    const shouldHalt = () => (page.stopping ? "stopped" : null);
    const more = await holding(engine, loaded);
    const prefix = engine.prefixIds($("system").value);
    const errors = gpu.uncaptured_errors.length;
    await engine.generate({ run, input_ids, prefix, max_new_tokens: Math.max(NEW_TOKENS, chosen().max_new_tokens ?? 0), more, shouldHalt, onToken });
    if (gpu.uncaptured_errors.length > errors) throw engine.distrusting(gpu.uncaptured_errors[errors]);
    enter("ready");
    refocus();
  } catch (error) {
    broken(error);
    notice(sentence(error));
  }
  clearInterval(reading);
  await finish(turn, run, loaded);
}

/** A run ended in an error: without its device the model is gone, without memory its page is spoilt. */
function broken({ outcome }) {
  page.spoilt ||= Boolean(gpu.device_lost) || outcome === "out_of_memory";
  if (page.spoilt) page.engine = null;
  enter(page.spoilt ? "lost" : "ready");
}

/** Options that hold the answer to the model's schema, if the switch is on. */
async function holding(engine, model) {
  if (!$("hold").checked || !model.grammar) return {};
  const { holdTo } = await import("./hold.js");
  return holdTo(model, engine);
}

async function measure() {
  const software = document.body.dataset.adapter === "software";
  const onProgress = (share) => ($("measured").value = share);
  page.stopping = false;
  $("measured").value = 0;
  $("measured").hidden = false;
  enter("measuring");
  try {
    const { benchmark } = await import("./bench.js");
    const text = page.engine.promptIds("", chosen().example || "The parties agree as follows.");
    const shouldHalt = () => (page.stopping ? "stopped" : null);
    showFigures(await benchmark(page.engine, text, { software, onProgress, shouldHalt }));
    enter("ready");
  } catch (error) {
    broken(error);
    notice(sentence(error).replace("The answer", "The benchmark").replace(/ Your text.*/, ""));
  }
  $("measured").hidden = true;
}

function showFigures(rows) {
  const cell = (textContent) => Object.assign(document.createElement("td"), { textContent });
  const lines = rows.map(({ name, mean, sd }) => {
    const line = document.createElement("tr");
    line.append(cell(name), cell(rate(mean) + (sd === null ? "" : ` ± ${rate(sd)}`)));
    return line;
  });
  $("figures").tBodies[0].replaceChildren(...lines);
  $("figures").hidden = !rows.length;
}

function write(turn, text) {
  turn.textContent = text;
  turn.classList.toggle("json", text.trimStart().startsWith("{"));
  const log = $("log");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 160) log.scrollTop = log.scrollHeight;
}

async function finish(turn, run, model) {
  turn.classList.remove("writing", "json");
  const value = parsed(run.output_text);
  const whole = run.stopped_by === "eos";
  const judged = value === undefined ? false : await satisfies(model.schema, value);
  const shown = { text: run.output_text, value, satisfies: judged, whole, name: called(model), say };
  turn.replaceChildren(...shownAnswer(shown));
  say(`Answered; ${turn.firstChild.textContent}`);
  const ends = { eos: "", max_new_tokens: " · cut at the limit", stopped: " · stopped", interrupted: " · broken off" };
  const count = `${model.domain ? `${model.domain} · ` : ""}${run.prompt_tokens} tokens in, ${run.output_ids.length} out`;
  const small = Object.assign(document.createElement("small"), { textContent: count + ends[run.stopped_by] });
  turn.append(small);
}

/** Give the text box the focus where nothing has it: a person may be writing or reading elsewhere. */
function refocus() {
  if (document.activeElement === document.body) $("text").focus({ preventScroll: true });
}

/** What was measured is of the model before. */
function forgetFigures() {
  for (const id of ["speed", "ttft", "prefill"]) $(id).textContent = "–";
  $("figures").hidden = true;
}

function showSpeed(run) {
  const seconds = run.ttft_ms / 1000;
  $("ttft").textContent = seconds.toFixed(seconds < 10 ? 2 : 1);
  $("prefill").textContent = rate(run.read_tokens / seconds);
  const recent = run.decode_ms.slice(-20);
  const taken = recent.reduce((a, b) => a + b, 0); // nothing where all of them were forced
  if (taken) $("speed").textContent = rate((1000 * recent.length) / taken);
}

function deviceLost({ message, reason }) {
  if (["loading", "answering", "measuring"].includes(page.state)) return;
  broken({});
  notice(sentence({ outcome: "device_lost", message: message || reason }));
}
