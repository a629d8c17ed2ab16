// Answers held to the model's grammar: at each step only tokens that keep within it can be chosen.
// The same text, vocabulary and engine as in shared/evaluate/models/masks.py, so the masks are equal.

/** The tokens of a tokenizer.json by id, and how they stand for bytes; special ones are empty. */
export function vocabulary({ model, added_tokens, decoder }) {
  const tokens = [];
  if (Array.isArray(model.vocab)) model.vocab.forEach(([token], id) => (tokens[id] = token));
  else for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
  for (const { id, content, special } of added_tokens) tokens[id] = special ? "" : content;
  const named = JSON.stringify(decoder);
  const kind = named.includes('"ByteLevel"') ? "byte_level" : named.includes('"ByteFallback"') ? "byte_fallback" : "raw";
  return [Array.from(tokens, (token) => token ?? ""), kind];
}

/** `grammar` for this vocabulary; takes seconds where it has long strings. `stop`: ids that may end an answer. */
export async function compile(xgrammar, grammar, tokenizer, stop) {
  const [tokens, kind] = vocabulary(tokenizer);
  const info = await xgrammar.TokenizerInfo.createTokenizerInfo(tokens, kind, false, tokens.length, stop);
  const compiler = await xgrammar.GrammarCompiler.createGrammarCompiler(info);
  const compiled = await compiler.compileGrammar(grammar);
  return { matcher: () => xgrammar.GrammarMatcher.createGrammarMatcher(compiled), size: tokens.length };
}

/** Further options for `generate` that hold one answer; a matcher remembers how far it has come. */
export async function hold({ matcher, size }) {
  const held = await matcher();
  let started = false;
  const mask = (ids, logits) => {
    if (started) held.acceptToken(Number(ids[0].at(-1)));
    started = true;
    forbid(held, size, logits.data);
    return logits;
  };
  return { logits_processor: [mask] };
}

/** Transformers.js asks for its mask at once, but getNextTokenBitmask() is async: so its inside is used. */
function forbid(held, size, scores) {
  const words = held.handle.GetNextTokenBitmask(size);
  for (let word = 0; word < words.size(); word++) {
    const allowed = words.get(word);
    if (allowed === -1) continue;
    const first = 32 * word;
    if (allowed === 0) scores.fill(-Infinity, first, first + 32);
    else for (let bit = 0; bit < 32; bit++) if (!((allowed >>> bit) & 1)) scores[first + bit] = -Infinity;
  }
  words.delete();
  scores.fill(-Infinity, size);
}
