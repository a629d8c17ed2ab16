// onnxruntime-web 1.31 keeps to its first device: once that is lost, or had no memory for a model, no other
// load of the same page succeeds. So the page is loaded anew, with what a person chose and wrote in it.

const KEPT = "docintel-anew";
const FIELDS = ["model", "system", "text"];
const field = (id) => document.getElementById(id);

/** Load the page anew; it then loads the model by itself. */
export function beginAnew() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(FIELDS.map((id) => field(id).value)));
  } catch {
    // a browser that keeps nothing: a person chooses and pastes again
  }
  location.reload();
}

/** Whether that has happened just now; the fields are then as they were. */
export function begunAnew() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT));
    sessionStorage.removeItem(KEPT);
    kept?.forEach((value, index) => (field(FIELDS[index]).value = value));
    return kept !== null;
  } catch {
    return false; // a browser that keeps nothing
  }
}
