// Half-precision numbers where a browser lacks Float16Array: they come as their bit patterns.

/** A tensor's data as numbers. */
export const floats = (data) => (data instanceof Uint16Array ? Float32Array.from(data, fromHalf) : data);

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** No numbers, of a tensor's type. */
export const none = (type) => (type !== "float16" ? new Float32Array(0) : new (globalThis.Float16Array ?? Uint16Array)(0));
