// An answer as a person reads it: its fields in a table, whether they satisfy the schema, and its JSON to take.

/** The JSON value of an answer's text, or undefined where it is none. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The same to be shown: numbers as the text writes them, where the browser tells; a double loses digits. */
export const asWritten = (text) =>
  JSON.parse(text, (_, value, context) => (typeof value === "number" && JSON.rawJSON && context ? JSON.rawJSON(context.source) : value));

/** What the mark says of an answer. `satisfies`: whether the schema takes it; null where nothing can tell. */
export function mark({ value, satisfies, whole }) {
  if (!whole) return { ok: false, words: "unfinished: it was cut off" };
  if (value === undefined) return { ok: false, words: "invalid: not JSON" };
  if (satisfies === null) return { ok: null, words: "JSON; its schema is not known" };
  return satisfies ? { ok: true, words: "valid: satisfies the schema" } : { ok: false, words: "invalid: breaks the schema" };
}

/** A field's value in words; null is said. */
export function inWords(value) {
  if (JSON.isRawJSON?.(value)) return value.rawJSON;
  if (value === null) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(inWords).join("; ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

const made = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/** The nodes that show an answer: mark, table, what can be done with it, and the raw text behind a switch. */
export function shownAnswer({ text, value, satisfies, whole, name, say }) {
  const { ok, words } = mark({ value, satisfies, whole });
  const nodes = [made("p", { className: "mark", textContent: words })];
  nodes[0].dataset.ok = String(ok);
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  if (isObject) nodes.push(fields(asWritten(text)));
  if (value !== undefined) nodes.push(actions(JSON.stringify(asWritten(text), null, 2), name, say));
  const raw = made("details", { className: "raw", open: !isObject }, made("summary", { textContent: "Raw text" }));
  raw.append(made("pre", { textContent: text, tabIndex: 0 }));
  return [...nodes, raw];
}

function fields(value) {
  const rows = Object.entries(value).map(([key, found]) =>
    made("tr", {}, made("th", { scope: "row", textContent: key }), made("td", { textContent: inWords(found), className: found === null ? "none" : "" })),
  );
  const head = made("thead", { className: "unseen" }, made("tr", {}, ...["field", "value"].map((text) => made("th", { scope: "col", textContent: text }))));
  return made("table", { className: "fields" }, made("caption", { className: "unseen", textContent: "The answer's fields" }), head, made("tbody", {}, ...rows));
}

function actions(json, name, say) {
  const copy = made("button", { type: "button", textContent: "Copy JSON" });
  copy.addEventListener("click", async () => {
    const done = await navigator.clipboard.writeText(json).then(() => true, () => false);
    say(done ? "JSON copied" : "The browser did not let the JSON be copied; download it instead");
  });
  const link = made("a", { textContent: "Download JSON", download: `${name}.json`, href: URL.createObjectURL(new Blob([json], { type: "application/json" })) });
  return made("p", { className: "actions" }, copy, link);
}
