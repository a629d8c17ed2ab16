// What kind of adapter the browser offers; apart from engine.js, which loads the whole runtime.

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|microsoft basic render/i;

/** Whether the adapter computes on the CPU: by its own word, or by its name. */
export function isSoftware({ vendor, architecture, device, description, is_fallback }) {
  return is_fallback || SOFTWARE.test([vendor, architecture, device, description].join(" "));
}
