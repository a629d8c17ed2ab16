// The second visit: the package lies in the browser's Cache and the runtime is compiled already.

import { load } from "./engine.js";

const STORE = "docintel-warm";

/** Put every file that the first load fetched into a Cache; afterwards none is asked of the server. */
async function fill(store, model) {
  const prefix = new URL(`/models/${model}/`, location.href).href;
  const names = performance.getEntriesByType("resource").map(({ name }) => name);
  for (const url of new Set(names.filter((name) => name.startsWith(prefix)))) {
    const response = await fetch(url);
    if (response.ok) await store.put(url, response);
  }
}

/** Sets result.warm_load, or warm_load_reason where it could not be measured. Never throws. */
export async function warmLoad(request, result, until) {
  if (performance.now() >= until) {
    result.warm_load_reason = "the time was up before the second load";
    return;
  }
  try {
    console.info("[docintel] loading from the browser's cache");
    const store = await caches.open(STORE);
    await fill(store, request.model);
    const engine = await load({ model: request.model, dtype: result.dtype, store });
    result.warm_load = engine.load;
    await engine.dispose();
  } catch (error) {
    result.warm_load_reason = `loading from the browser's cache failed: ${error.message ?? error}`;
  } finally {
    await caches.delete(STORE).catch(() => {});
  }
}
