// The service worker of a site: it adds the headers that isolate the page, and keeps what was fetched.
// Of the page the newest is taken where the host answers. A model's files never change under their
// address (a release's key, a commit of the Hub): they are fetched once, until the manifest drops them.

const SCOPE = registration.scope;
const [PAGE, MODELS] = ["page", "models"].map((name) => `docintel ${name} ${SCOPE}`);
const ISOLATING = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith("http")) event.respondWith(isModel(url) ? modelFile(event) : pageFile(event));
});

const isModel = (url) => url.startsWith(`${SCOPE}models/`) || !url.startsWith(location.origin);

/** The kept file, else the host's; a part of one (a Range) is not kept, nor what the page keeps (kept.js). */
async function modelFile(event) {
  const { request } = event;
  const store = await caches.open(MODELS);
  const kept = await store.match(request.url, { ignoreVary: true });
  if (request.cache === "no-store" && !request.headers.has("range")) {
    event.waitUntil(store.delete(request.url));
    return isolated(kept ?? (await fetch(request)));
  }
  if (kept) return isolated(kept);
  const response = await fetch(request);
  if (response.status === 200) event.waitUntil(store.put(request.url, response.clone()).catch(() => {}));
  return isolated(response);
}

const BUSY = new Set([429, 500, 502, 503, 504]); // what a host says that has the file and cannot give it now

/** The host's file, else the kept one; a page that was never seen is the site's own. */
async function pageFile(event) {
  const { request } = event;
  const url = request.url.split(/[?#]/)[0];
  const store = await caches.open(PAGE);
  const kept = async () => (await store.match(url, { ignoreVary: true })) ?? (request.mode === "navigate" ? await store.match(SCOPE) : null);
  let response;
  try {
    response = await fetch(url, { cache: "no-cache" });
  } catch (error) {
    const found = await kept();
    if (!found) throw error;
    return isolated(found);
  }
  if (BUSY.has(response.status)) return isolated((await kept()) ?? response);
  if (response.status === 200) event.waitUntil(store.put(url, response.clone()).catch(() => {}));
  if (response.ok && url === `${SCOPE}manifest.json`) event.waitUntil(dropOthers(response.clone()));
  return isolated(response);
}

/** Forget the files of models that the manifest does not name any more. */
async function dropOthers(response) {
  const { models, hub } = await response.json();
  const places = models.map(({ model, revision }) => (revision ? `${hub}/${model}/resolve/${revision}/` : `${SCOPE}models/${model}/`));
  const store = await caches.open(MODELS);
  for (const { url } of await store.keys()) if (!places.some((place) => url.startsWith(place))) await store.delete(url);
}

/** The response with the headers that isolate; what comes from elsewhere is read by CORS, and stays. */
function isolated(response) {
  if (response.type === "cors" || response.type === "opaque" || response.type === "error") return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATING)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(status === 204 || status === 304 ? null : response.body, { status, statusText, headers });
}
