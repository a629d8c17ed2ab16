// Whether an answer satisfies the model's schema: by a JSON Schema validator, as the check judges it.

/** True or false of a JSON value; null without a schema, or where it cannot be judged here. */
export async function satisfies(schema, value) {
  if (!schema) return null;
  try {
    const { Validator } = await import("./vendor/@cfworker/json-schema/dist/esm/index.js");
    return new Validator(schema, "2020-12").validate(value).valid;
  } catch {
    return null;
  }
}
