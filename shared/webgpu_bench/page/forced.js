// Forced text: what the grammar leaves no choice about is written without asking the model. The same rule
// as in shared/evaluate/models/forced.py, which says what it is: the same tokens at the same steps.

import { choose } from "./grammar.js";

/** Whether answers are written so unless asked otherwise; the check's FORCING is the same. */
export const FORCING = true;

/** At the end of a forced text it may be cut within a character, so the model writes it. */
const OTHER_SCRIPT = /[^\x00-\x7f]+$/;

/** The tokens' bytes, a character a byte: XGrammar's own list loses those that are no UTF-8. */
function spellings(tokens, kind) {
  const binary = (text) => String.fromCharCode(...new TextEncoder().encode(text));
  if (kind === "byte_level") {
    const printed = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    const bytes = Array.from({ length: 256 }, (_, byte) => byte);
    const others = bytes.filter((byte) => !printed(byte));
    const names = new Map([...bytes.filter(printed).map((byte) => [byte, byte]), ...others.map((byte, place) => [256 + place, byte])]);
    const spelt = (token) => Array.from(token, (char) => names.get(char.codePointAt(0)));
    return tokens.map((token) => (spelt(token).includes(undefined) ? binary(token) : String.fromCharCode(...spelt(token))));
  }
  if (kind === "raw") return tokens.map(binary);
  return tokens.map((token) => (/^<0x[0-9A-F]{2}>$/.test(token) ? String.fromCharCode(Number(token.slice(1, 5))) : binary(token.replaceAll("▁", " "))));
}

const bytesOf = (binary) => Uint8Array.from(binary, (char) => char.charCodeAt(0));

/** The forced tokens of answers under one grammar (grammar.js); `encode`: a text's ids, without special tokens. */
export class Forcing {
  constructor({ matcher, dispose, tokens, kind, stop }, encode, on = FORCING) {
    Object.assign(this, { matcher, dispose, stop, encode, on, size: tokens.length, tokens: spellings(tokens, kind) });
    const named = this.tokens.flatMap((token, id) => (token ? [[token, id]] : []));
    this.sorted = named.sort(([one], [other]) => (one < other ? -1 : Number(one > other)));
    this.longest = this.sorted.reduce((most, [token]) => Math.max(most, token.length), 0);
  }

  /** One answer, from its beginning. */
  async start() {
    return new Held(this, await this.matcher());
  }

  /** The tokens that begin so and go on. */
  beginning(start) {
    return this.sorted.slice(this.#after(start), this.#after(start + "\xff".repeat(this.longest))).map(([, id]) => id);
  }

  /** How many tokens do not stand after this text. */
  #after(text) {
    let [first, last] = [0, this.sorted.length];
    while (first < last) {
      const middle = (first + last) >> 1;
      if (this.sorted[middle][0] > text) last = middle;
      else first = middle + 1;
    }
    return first;
  }
}

class Held {
  constructor(forcing, matcher) {
    Object.assign(this, { forcing, matcher });
  }

  /** The answer is written: what XGrammar keeps of it is given back. */
  dispose() {
    this.matcher.dispose();
  }

  /** The likeliest token that the grammar allows, which the answer has then. */
  choose(scores) {
    return choose(this.matcher, this.forcing, scores);
  }

  /** The tokens that can only come after `last`, the token before them: the answer has them, too. */
  forced(last) {
    if (!this.forcing.on || this.forcing.stop.includes(last)) return [];
    const text = this.matcher.findJumpForwardString().replace(OTHER_SCRIPT, "");
    const bytes = new TextEncoder().encode(text);
    const [found, end] = text ? this.#accepted(text, String.fromCharCode(...bytes), last) : [[], 0];
    return end === bytes.length ? [...found, ...this.#ending()] : found;
  }

  /** The tokens that spell the text as far as it is sure, and how many bytes they are. */
  #accepted(text, binary, last) {
    const sure = this.#sure(binary);
    const found = [];
    let end = 0;
    for (const id of this.#written(text, binary, last)) {
      const { length } = this.forcing.tokens[id];
      if (end + length > sure || !this.matcher.acceptToken(id)) break;
      end += length;
      found.push(id);
    }
    return [found, end];
  }

  /** The text's tokens after `last`; as they are alone where the two would be written otherwise. None where
   * these spell something else. */
  #written(text, binary, last) {
    const { tokens } = this.forcing;
    const spells = (ids) => ids.map((id) => tokens[id]).join("") === binary;
    let both = null;
    try {
      both = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytesOf(tokens[last] + binary));
    } catch {} // `last` ends within a character
    const ids = both === null ? [] : this.#within(both);
    if (ids[0] === last && spells(ids.slice(1))) return ids.slice(1);
    const alone = this.#within(text);
    return spells(alone) ? alone : [];
  }

  /** Its tokens where it does not begin a text: some tokenizers put a space before what does. */
  #within(text) {
    const { encode } = this.forcing;
    const line = (this.forcing.line ??= Array.from(encode("\n")));
    const ids = Array.from(encode(`\n${text}`));
    return line.every((id, place) => ids[place] === id) ? ids.slice(line.length) : Array.from(encode(text));
  }

  /** How many bytes of the text no longer token reaches into that goes on as the grammar may. */
  #sure(binary) {
    const { longest } = this.forcing;
    for (let place = Math.max(0, binary.length - longest + 1); place < binary.length; place += 1) {
      const longer = this.forcing.beginning(binary.slice(place));
      if (!longer.length) continue;
      if (place) this.matcher.handle.AcceptString(bytesOf(binary.slice(0, place)), false);
      const open = this.#allowed((word) => longer.some((id) => (word(id >> 5) >>> (id & 31)) & 1));
      if (place) this.matcher.rollBack(1);
      if (open) return place;
    }
    return binary.length;
  }

  /** A stop token where nothing else may follow. */
  #ending() {
    const { stop } = this.forcing;
    if (!this.matcher.acceptToken(stop[0])) return []; // far sooner told than the mask within a long string
    this.matcher.rollBack(1);
    return this.#allowed((word, count) => {
      const ends = stop.filter((id) => (word(id >> 5) >>> (id & 31)) & 1);
      for (let place = 0; place < count; place += 1) {
        const others = ends.reduce((bits, id) => (id >> 5 === place ? bits & ~(1 << (id & 31)) : bits), word(place));
        if (others) return [];
      }
      return ends.length ? stop.slice(0, 1) : [];
    });
  }

  /** What `look` finds in the bits of the tokens that may come next: word(place), of `count` words. */
  #allowed(look) {
    const words = this.matcher.handle.GetNextTokenBitmask(this.forcing.size);
    try {
      return look((place) => words.get(place) ?? 0, words.size());
    } finally {
      words.delete();
    }
  }
}
