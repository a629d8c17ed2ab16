// Transformers.js's own `generate` held to a grammar by the mask of every step: what the page's loop, which
// tries the likeliest tokens first, is compared with.

/** Options for `generate` that hold one answer; `forbid` is the page's (grammar.js). */
export async function holdByMasks({ forbid }, { matcher, tokens }) {
  const held = await matcher();
  let started = false;
  const mask = (ids, logits) => {
    if (started) held.acceptToken(Number(ids[0].at(-1)));
    started = true;
    forbid(held, tokens.length, logits.data);
    return logits;
  };
  return { logits_processor: [mask] };
}
