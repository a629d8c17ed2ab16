// Two uses of one page: `window.docintel.run(request)` (and `runPiece` of a model in pieces) for the
// harness, the chat for a person.

import { startPage } from "./ui.js";

const driven = new URLSearchParams(location.search).has("driven");

window.docintel = {
  run: async (request) => (await import("./driven.js")).run(request),
  runPiece: async (piece) => (await import("./layers.js")).runPiece(piece),
};

if (!driven) startPage();
