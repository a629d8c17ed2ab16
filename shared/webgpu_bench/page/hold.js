// Answers held to the model's schema: its grammar is compiled once, when first asked for.

import { Forcing } from "./forced.js";
import { compile } from "./grammar.js";

const compiled = new Map();

/** Further options for Engine.generate that hold one answer to the model's grammar. */
export const holdTo = async (model, engine) => ({ held: await (await compiledFor(model, engine)).start() });

async function compiledFor({ name, grammar }, engine) {
  if (!compiled.has(name)) compiled.set(name, await prepare(grammar, engine));
  return compiled.get(name);
}

async function prepare(grammar, engine) {
  await import("./vendor/@mlc-ai/web-xgrammar/lib/index.js"); // no exports: it puts itself on globalThis
  const compiled = await compile(globalThis.xgrammar, grammar, await engine.json("tokenizer.json"), [...engine.eos]);
  return new Forcing(compiled, engine.encode);
}
