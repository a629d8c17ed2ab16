// The models to choose from: how they are listed, what is to be downloaded for one, and how it is loaded. The
// domains of a family share a base, so that of a second one only its adapter is fetched.

import { Kept, sum } from "./kept.js";

export const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

const made = (tag, properties) => Object.assign(document.createElement(tag), properties);

/** What a <select> shows: an option a model, a group a family with the size of each domain's own part. */
export function listed(models) {
  const groups = new Map();
  const nodes = [];
  for (const { name, family, domain, adapter } of models) {
    const option = made("option", { value: name, textContent: family ? `${domain} · ${megabytes(adapter.bytes)} MB` : name });
    if (family && !groups.has(family)) nodes.push(groups.set(family, made("optgroup", { label: `${family}, one base` })).get(family));
    if (family) groups.get(family).append(option);
    else nodes.push(option);
  }
  return nodes;
}

/** What a person calls a model. */
export const called = ({ name, domain }) => domain ?? name;

/** Whether the two are domains of one family, which one loaded base serves. */
export const sameBase = (one, other) => Boolean(one?.family && one.family === other?.family && one.model === other.model && one.revision === other.revision);

/** Its files as they are kept in this browser. */
export const keptOf = ({ files = {}, adapter }, place) => new Kept(adapter ? { ...files, [adapter.file]: adapter } : files, place);

/** The names of the files that a numeric type needs, without an adapter. */
const needed = ({ files = {} }, dtype) => Object.keys(files).filter((name) => !name.startsWith("onnx/") || name.includes(`_${dtype}.onnx`));

/** What is to be downloaded, in words. `here`: the model in memory; `lacks(name)`: whether a file is not kept. */
export function downloadWords(model, dtype, here, lacks = () => true) {
  const { files, bytes, adapter, domain } = model;
  const names = needed(model, dtype);
  const lacking = () => (names.length ? sum(names.filter(lacks).map((name) => files[name])) : bytes[dtype]);
  const base = sameBase(here, model) ? 0 : lacking();
  const own = adapter && lacks(adapter.file) ? adapter.bytes : 0;
  if (base === 0 && !own) return "nothing to download: it is kept in this browser";
  if (!base) return own ? `${megabytes(own)} MB to download for ${domain}, whose base is here` : "";
  return `${megabytes(base)} MB to download${adapter ? " for the base" : ""}${own ? `, ${megabytes(own)} MB for ${domain}` : ""}`;
}

/** An Engine of the model, or of its family's base: what is not kept yet is fetched into `kept` first. */
export async function loadBase(lib, { model, revision, hub, adapter, ...told }, dtype, kept, showProgress) {
  const names = needed(told, dtype);
  const filled = names.length ? await kept.fill(names, showProgress) : null;
  const fetching = (loaded, total) => showProgress(loaded, Math.max(total, told.bytes[dtype] ?? 0)); // small files come first
  const onProgress = filled === null ? fetching : () => showProgress(1, 1);
  return lib.load({ model, revision, hub, dtype, swap: Boolean(adapter), store: kept, onProgress });
}

/** A domain's adapter answers from now on; it is all that is fetched. */
export function switchDomain(engine, { domain, adapter: { file } }, kept, showProgress) {
  return engine.switchTo(domain, async () => {
    await kept.fill([file], showProgress);
    return kept.read(file);
  });
}
