// Half-precision numbers: a browser without Float16Array has them as their bit patterns.

const Half = globalThis.Float16Array;

/** A tensor's data in single precision, whatever it came in. */
export function floats(data) {
  if (data instanceof Float32Array) return data;
  if (!(data instanceof Uint16Array)) return new Float32Array(data);
  return Half ? new Float32Array(new Half(data.buffer, data.byteOffset, data.length)) : looked(data);
}

/** The last row of a tensor [1, rows, size], in single precision. */
export const lastRow = ({ dims: [, rows, size], data }) => floats(data.slice((rows - 1) * size, rows * size));

let table = null;

/** By a table of all 65,536: a vocabulary of them is asked for with every token. */
function looked(data) {
  table ??= Float32Array.from({ length: 65536 }, (_, bits) => fromHalf(bits));
  const found = new Float32Array(data.length);
  for (let i = 0; i < data.length; i += 1) found[i] = table[data[i]];
  return found;
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** No numbers, of a tensor's type. */
export const none = (type) => (type !== "float16" ? new Float32Array(0) : new (Half ?? Uint16Array)(0));
