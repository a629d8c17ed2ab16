// Whether an answer satisfies the model's schema: by a JSON Schema validator, as the check judges it.

/** A pattern as JavaScript's "u" takes it: Python has \A and \Z, and allows an escape of any mark. */
const portable = (pattern) =>
  pattern.replace(/\[(?:\\.|[^\]\\])*\]|\\(.)/gs, (all, escaped) => {
    if (escaped === undefined) return all.replace(/\\([^\\\]^\-A-Za-z0-9])/g, "$1");
    if (escaped === "A" || escaped === "Z") return escaped === "A" ? "^" : "$";
    return /[^A-Za-z0-9^$\\.*+?()[\]{}|/]/.test(escaped) ? escaped : all;
  });

const VALUES = ["const", "enum", "default", "examples"];
const NAMED = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/** The schema as the check reads it, to which `format` is a note and no rule. */
export function asChecked(schema) {
  if (Array.isArray(schema)) return schema.map(asChecked);
  if (schema === null || typeof schema !== "object") return schema;
  const read = ([key, value]) => {
    if (VALUES.includes(key)) return [[key, value]];
    if (NAMED.includes(key)) return [[key, Object.fromEntries(Object.entries(value).map(([name, one]) => [name, asChecked(one)]))]];
    if (typeof value !== "string") return [[key, asChecked(value)]];
    return key === "format" ? [] : [[key, key === "pattern" ? portable(value) : value]];
  };
  return Object.fromEntries(Object.entries(schema).flatMap(read));
}

/** True or false of a JSON value; null without a schema, or where it cannot be judged here. */
export async function satisfies(schema, value) {
  if (!schema) return null;
  try {
    const { Validator } = await import("./vendor/@cfworker/json-schema/dist/esm/index.js");
    return new Validator(asChecked(schema), "2020-12").validate(value).valid;
  } catch {
    return null;
  }
}
