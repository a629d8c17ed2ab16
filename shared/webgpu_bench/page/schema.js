// Whether an answer satisfies the model's schema: by a JSON Schema validator, as the check judges it.

/** A pattern without the escapes that Python takes and JavaScript's "u" does not, as \- outside of brackets. */
const portable = (pattern) => pattern.replace(/\[(?:\\.|[^\]\\])*\]|\\(.)/gs, (all, escaped) => (/[^\w^$\\.*+?()[\]{}|/]/.test(escaped ?? "a") ? escaped : all));

/** The schema as the check reads it, to which `format` is a note and no rule. */
export const asChecked = (schema) =>
  JSON.parse(JSON.stringify(schema), (key, value) => {
    if (typeof value !== "string") return value;
    return key === "format" ? undefined : key === "pattern" ? portable(value) : value;
  });

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
