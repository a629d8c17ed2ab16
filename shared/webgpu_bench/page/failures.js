// What can go wrong for a person at the page: for each, one sentence that says what to do.

const GONE = /failed to fetch|networkerror|load failed|err_connection|network error/i;

/** Whether an error is that of a server which does not answer. */
export const isGone = ({ message = "" }) => GONE.test(message);

/** The sentence for an error of loading or answering. `outcome`: of an EngineError (engine.js). */
export function sentence({ outcome = "", message = "" } = {}, isSite = false) {
  if (isGone({ message })) return isSite ? NO_SITE : "The server does not answer: start it again with `./inv serve`, then reload this page.";
  if (outcome === "out_of_memory") return "There is not enough memory: close other tabs and programs, or choose a smaller model, then load again. Copy the answers you need first: loading clears them.";
  if (outcome === "out_of_budget") return `The model is too large for this GPU: ${message}. Choose a smaller model.`;
  if (outcome === "device_lost") return "The GPU was lost, often because it ran out of memory or its driver restarted: load the model again. Copy the answers you need first: loading clears them.";
  if (outcome === "load_failed") return `The model could not be loaded: ${plain(message)}. Load it again; if it stays, release the model again.`;
  return `The answer broke off: ${plain(message)}. Your text is still below: send it again.`;
}

const plain = (message) => (message || "the reason is not known").replace(/[.\s]+$/, "");

export const KEEPS_NOTHING = "This page must be loaded anew, and your browser cannot keep your text meanwhile: copy it, then reload.";
export const NO_WEBGPU =
  "This browser offers no WebGPU: open this page in a current Chrome, Edge, Safari or Firefox on a machine with a GPU, and see that hardware acceleration is on.";
export const NOT_SECURE = "A browser offers WebGPU only over HTTPS or on localhost: open this page by such an address.";
export const NO_SERVER = "The list of models cannot be read: see that you are online, or start the server again with `./inv serve`, then reload.";
const NO_SITE = "The model cannot be fetched: see that you are online, then load it again; what was loaded once works offline.";
export const NO_PACKAGES = "The page's packages are not installed; run";
export const NO_PAGE = "A part of this page cannot be fetched: see that you are online, then reload.";
export const NO_MODEL = "No model is served here yet; make one with";

/** Why the chosen model cannot run on this adapter, or "". `bytes`: by precision, what it has. */
export function unfit(adapter, bytes) {
  const only16 = "q4f16" in bytes && !("q4" in bytes);
  if (!only16 || adapter.features.includes("shader-f16")) return "";
  return "This GPU lacks shader-f16, and the model has no q4 files, which run without it: choose another model or browser.";
}

/** Whether a text of `tokens` leaves room for an answer in `context`, and what is said of it. */
export function room(tokens, context, answer) {
  const most = context - answer;
  const count = `${tokens.toLocaleString("en")} of ${most.toLocaleString("en")} tokens`;
  if (tokens <= most) return { fits: true, words: count };
  return { fits: false, words: `Too long: ${count}. Shorten the text by about ${Math.ceil((100 * (tokens - most)) / tokens)} %.` };
}
