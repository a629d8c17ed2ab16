// XGrammar's package in Node: it says it is a module and is a script, which asks for `require`.
import { createRequire } from "node:module";
import { dirname } from "node:path";

export async function loadXgrammar(modules) {
  const path = `${modules}/@mlc-ai/web-xgrammar/lib/index.js`;
  Object.assign(globalThis, { require: createRequire(path), __filename: path, __dirname: dirname(path) });
  await import(path);
  return globalThis.xgrammar;
}
