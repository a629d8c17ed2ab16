// SHA-256 (FIPS 180-4) of bytes that come piece by piece: crypto.subtle.digest wants a file of 2 GB at once.

const PRIMES = [];
for (let n = 2; PRIMES.length < 64; n += 1) if (PRIMES.every((prime) => n % prime)) PRIMES.push(n);
const fraction = (root) => ((root % 1) * 2 ** 32) | 0;
const START = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const ADDED = Int32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)));
const WORDS = new Int32Array(64);
const BLOCK = 64;

export class Sha256 {
  #state = Int32Array.from(START);
  #open = new Uint8Array(BLOCK); // the bytes since the last whole block
  #length = 0;

  /** Take further bytes (a Uint8Array) in. */
  update(bytes) {
    const filled = this.#length % BLOCK;
    this.#length += bytes.length;
    let at = filled ? BLOCK - filled : 0;
    if (at > bytes.length) return this.#open.set(bytes, filled);
    if (filled) {
      this.#open.set(bytes.subarray(0, at), filled);
      this.#read(this.#open, 0);
    }
    for (; at + BLOCK <= bytes.length; at += BLOCK) this.#read(bytes, at);
    this.#open.set(bytes.subarray(at));
  }

  /** The hash of all that was taken in, in hex; nothing more can be. */
  hex() {
    const bits = BigInt(this.#length) * 8n;
    const padding = new Uint8Array(BLOCK + ((119 - (this.#length % BLOCK)) % BLOCK) - 55);
    padding[0] = 128;
    new DataView(padding.buffer).setBigUint64(padding.length - 8, bits);
    this.update(padding);
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  /** One block, from `at` on. */
  #read(bytes, at) {
    const w = WORDS;
    for (let i = 0; i < 16; i += 1, at += 4) w[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    for (let i = 16; i < 64; i += 1) {
      const x = w[i - 15];
      const y = w[i - 2];
      const one = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const other = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = (w[i - 16] + one + w[i - 7] + other) | 0;
    }
    const s = this.#state;
    let a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
    for (let i = 0; i < 64; i += 1) {
      const turned = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const first = (h + turned + (g ^ (e & (f ^ g))) + ADDED[i] + w[i]) | 0;
      const second = (((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))) + ((a & b) | (c & (a | b)));
      h = g;
      g = f;
      f = e;
      e = (d + first) | 0;
      d = c;
      c = b;
      b = a;
      a = (first + second) | 0;
    }
    s[0] += a;
    s[1] += b;
    s[2] += c;
    s[3] += d;
    s[4] += e;
    s[5] += f;
    s[6] += g;
    s[7] += h;
  }
}
