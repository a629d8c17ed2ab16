// Answers held to the model's grammar: at each step only tokens that keep within it can be chosen.
// The same text, vocabulary and engine as in shared/evaluate/models/masks.py, so the masks are equal.

/** So many of the likeliest tokens are tried before all are masked. */
const TRIED = 16;

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
  let compiled;
  try {
    compiled = await compiler.compileGrammar(grammar);
  } catch (error) {
    info.dispose();
    throw error;
  } finally {
    compiler.dispose();
  }
  // As it is, each matcher would ask for the vocabulary anew, and nothing gives wasm that memory back.
  const shared = { handle: compiled.handle, tokenizerInfo: () => info };
  const dispose = () => [compiled, info].forEach((one) => one.dispose());
  return { matcher: () => xgrammar.GrammarMatcher.createGrammarMatcher(shared), dispose, tokens, kind, stop };
}

/** The place of the largest number, the first of several. */
export function largest(scores) {
  let best = 0;
  for (let i = 1; i < scores.length; i += 1) if (scores[i] > scores[best]) best = i;
  return best;
}

/**
 * The likeliest token that the grammar allows, which `matcher` has accepted then. The first few are tried
 * one by one: to mask all tokens takes seconds within a string of bounded length, to try one microseconds.
 */
export function choose(matcher, { tokens, stop }, scores) {
  const named = (id) => id < tokens.length && (tokens[id] !== "" || stop.includes(id)); // XGrammar warns of others
  for (let tried = 0; tried < TRIED; tried += 1) {
    const id = largest(scores);
    if (named(id) && matcher.acceptToken(id)) return id;
    scores[id] = -Infinity;
  }
  forbid(matcher, tokens.length, scores);
  const id = largest(scores);
  matcher.acceptToken(id);
  return id;
}

/** No score for what may not come next. getNextTokenBitmask() is async, a step is not: so its inside is used. */
export function forbid(matcher, size, scores) {
  const words = matcher.handle.GetNextTokenBitmask(size);
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
