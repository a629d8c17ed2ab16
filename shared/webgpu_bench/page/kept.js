// A package's files by their SHA-256 in the browser's Cache: what was fetched under one address is not fetched
// again under another, and nothing is kept whose bytes are not those that the manifest lists.

const here = () => new URL("./", location.href).href;
const key = ({ sha256 }) => `${here()}sha256/${sha256}`; // no server is asked for it

/** The Cache, or null where the browser keeps nothing. */
async function opened() {
  try {
    return await caches.open(`docintel files ${here()}`);
  } catch {
    return null;
  }
}

/** SHA-256 of bytes that come piece by piece: crypto.subtle.digest wants a file of 2 GB at once. */
async function sha256() {
  await import("./vendor/hash-wasm/dist/sha256.umd.min.js"); // no exports: it puts itself on globalThis
  return (await globalThis.hashwasm.createSHA256()).init();
}

async function hasRoom(bytes) {
  const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  return bytes <= quota - usage;
}

const other = (name) => new Error(`${name} is not the file that was released: its SHA-256 is another`);

export const sum = (files) => files.reduce((all, { bytes }) => all + bytes, 0);

export class Kept {
  /** `files`: { name: { sha256, bytes } }; `place`: what their addresses begin with. */
  constructor(files, place) {
    Object.assign(this, { files, place });
  }

  /** As of a Cache: the response that is kept for an address. Transformers.js 4.3.1 looks for a tokenizer's
   * files on main, whatever the revision. */
  async match(address) {
    const place = [this.place, this.place.replace(/\/resolve\/[^/]+\/$/, "/resolve/main/")].find((one) => address.startsWith(one));
    const file = place && this.files[address.slice(place.length)];
    return file ? (await opened())?.match(key(file)) : undefined;
  }

  /** Those of `names` that are not here yet. */
  async lacking(names) {
    const found = await Promise.all(names.map((name) => this.match(this.place + name)));
    return names.filter((_, place) => !found[place]);
  }

  /** Fetch what is lacking; how many bytes were, or null where they cannot be kept. */
  async fill(names, onProgress = () => {}) {
    const [store, wanted] = [await opened(), await this.lacking(names)];
    const all = sum(wanted.map((name) => this.files[name]));
    if (!store || !(await hasRoom(all))) return null;
    let fetched = 0;
    const take = ({ length }) => onProgress((fetched += length), all);
    for (const name of wanted) if (!(await this.#fetch(store, name, take))) return null;
    return fetched;
  }

  /** The file's bytes: those that are kept, else the host's, if they are the file's. */
  async read(name) {
    const kept = await this.match(this.place + name);
    if (kept) return kept.arrayBuffer();
    const [hash, response] = [await sha256(), await this.#ask(name)];
    const bytes = await response.arrayBuffer();
    hash.update(new Uint8Array(bytes));
    if (hash.digest() !== this.files[name].sha256) throw other(name);
    return bytes;
  }

  /** "no-store": a site's service worker (sw.js) need not keep it a second time. */
  async #ask(name) {
    const response = await fetch(this.place + name, { cache: "no-store" });
    if (response.status === 404) throw new Error(`the package lacks ${name}`);
    if (!response.ok) throw new Error(`${new URL(this.place).host} answered ${response.status} for ${name}`);
    return response;
  }

  /** Whether the file is kept now; false where the browser could not. An error of the host's is one. */
  async #fetch(store, name, take) {
    const [hash, response, file] = [await sha256(), await this.#ask(name), this.files[name]];
    const reader = response.body.getReader();
    let problem = null;
    const checked = new ReadableStream({
      async pull(out) {
        try {
          const { done, value } = await reader.read();
          if (!done) {
            hash.update(value);
            take(value);
            return out.enqueue(value);
          }
          if (hash.digest() !== file.sha256) throw other(name);
          out.close();
        } catch (error) {
          problem = error;
          out.error(error); // so nothing is kept
        }
      },
      cancel: (why) => reader.cancel(why),
    });
    const headers = { "Content-Length": file.bytes, "Content-Type": response.headers.get("Content-Type") ?? "application/octet-stream" };
    try {
      await store.put(key(file), new Response(checked, { headers }));
    } catch {
      if (problem) throw problem;
      return false;
    }
    return true;
  }
}

/** Forget what no model of the manifest has. */
export async function forgetOthers(models) {
  const named = new Set(models.flatMap(({ files = {}, adapter }) => [...Object.values(files), ...(adapter ? [adapter] : [])].map(key)));
  const store = await opened();
  for (const { url } of (await store?.keys()) ?? []) if (!named.has(url)) await store.delete(url);
}
