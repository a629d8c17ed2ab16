// onnxruntime-web 1.31 keeps to its first device: once that is lost, or had no memory for a model, no other
// load of the same page succeeds. So the page is loaded anew, with what a person chose and wrote in it.

const KEPT = "docintel-anew";
const FIELDS = ["model", "system", "text"];
const HOLD = "hold";
const field = (id) => document.getElementById(id);

/** Load the page anew; it then loads the model by itself. False, and nothing is done, where the browser
 * keeps nothing, or not so long a text: loading the page by hand loses it then, and a person should know. */
export function beginAnew() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify([...FIELDS.map((id) => field(id).value), field(HOLD).checked]));
  } catch {
    return false;
  }
  location.reload();
  return true;
}

/** Whether that has happened just now; the fields are then as they were. */
export function begunAnew() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT));
    sessionStorage.removeItem(KEPT);
    FIELDS.forEach((id, index) => kept && (field(id).value = kept[index]));
    if (kept) field(HOLD).checked = kept[FIELDS.length];
    return kept !== null;
  } catch {
    return false; // a browser that keeps nothing
  }
}
