// What a static host cannot do for the page: isolate it by headers, and be there when it is not.
// A site's manifest names a service worker for both (sw.js); `invoke serve` sends the headers itself.

const TRIED = "docintel-isolated";

/** Register the worker and, once, load the page anew through it: only then has it the headers. */
export async function isolate(worker) {
  if (!worker || !navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(worker);
    await navigator.serviceWorker.ready;
    if (crossOriginIsolated || sessionStorage.getItem(TRIED)) return;
    sessionStorage.setItem(TRIED, "1");
  } catch {
    return; // a browser that keeps nothing: the page works, online
  }
  location.reload();
  await new Promise(() => {});
}

/** Fetch all that the page consists of, which the worker keeps; true where it then works offline. */
export async function keep({ worker, files }) {
  if (!worker || !navigator.serviceWorker?.controller) return false;
  const fetched = await Promise.all(files.map((file) => fetch(file).then(({ ok }) => ok, () => false)));
  return fetched.every(Boolean);
}
