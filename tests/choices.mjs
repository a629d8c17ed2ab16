// Tokens that the page chooses under a grammar, beside mask and argmax: `node choices.mjs JOB`. JOB has
// modules, page, tokenizer, stop, width and cases of { grammar, answers: [ids] }. Before each token of each
// answer and after its last, scores of several kinds are put to both; the mask, which can take a second, is
// made once, and once more after tokens were refused. Prints for each case { steps, ending:
// [how many steps before the last allow a stop token, how many tokens the last ones allow], wrong, masks }.
import { readFileSync } from "node:fs";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { choose, compile, forbid } = await import(`${job.page}/grammar.js`);
const tokenizer = JSON.parse(readFileSync(job.tokenizer, "utf8"));
const xgrammar = await loadXgrammar(job.modules);

let seed = 1;
const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
const noise = (levels) => Float32Array.from({ length: job.width }, () => Math.floor(random() * levels) / levels);
const some = (ids, count) => Array.from({ length: ids.length && count }, () => ids[Math.floor(random() * ids.length)]);
const raised = (scores, ids, by) => (ids.forEach((id, place) => (scores[id] = by(place))), scores);
const argmax = (scores) => scores.indexOf(scores.reduce((most, score) => Math.max(most, score)));

/** Scores by kind, where `right` is the answer's next token. */
const KINDS = {
  likeliest: ({ right }) => raised(noise(1e6), [right], () => 9),
  lastTried: ({ right, forbidden }) => raised(raised(noise(1e6), some(forbidden, 15), (place) => 20 - place), [right], () => 2),
  tied: () => noise(3),
  tiedAfterForbidden: ({ forbidden }) => raised(noise(3), some(forbidden, 8), (place) => 20 - place),
  manyForbidden: ({ forbidden }) => raised(noise(3), forbidden.slice(0, 400), () => 9),
  ends: ({ allowed }) => raised(raised(noise(1e6), [job.width - 1, 1, 3, ...job.stop], () => 9), allowed.slice(-2), () => 8),
  nothing: () => noise(1).fill(-Infinity),
};

function stepped(matcher, compiled, right, found) {
  const mask = new Float32Array(job.width);
  const words = matcher.handle.GetNextTokenBitmask(compiled.tokens.length);
  const once = { get: (place) => words.get(place), size: () => words.size(), delete: () => {} };
  forbid({ handle: { GetNextTokenBitmask: () => once } }, compiled.tokens.length, mask);
  const [allowed, forbidden] = [0, -Infinity].map((value) => [...mask.keys()].filter((id) => mask[id] === value));
  const again = (size) => (found.kind === "manyForbidden" ? matcher.handle.GetNextTokenBitmask(size) : once);
  const handle = { GetNextTokenBitmask: (size) => ((found.masks[found.kind] += 1), again(size)) };
  let accepted = 0;
  const watched = { handle, acceptToken: (id) => (matcher.acceptToken(id) ? ((accepted += 1), true) : false) };
  for (const [kind, made] of Object.entries(KINDS)) {
    const scores = made({ right, allowed, forbidden });
    const wanted = argmax(scores.map((score, id) => score + mask[id]));
    found.kind = kind;
    accepted = 0;
    const chosen = choose(watched, compiled, scores);
    if (chosen !== wanted || accepted !== Number(mask[wanted] === 0)) found.wrong.push({ kind, step: found.steps, wanted, chosen, accepted });
    if (accepted) matcher.rollBack(accepted);
  }
  words.delete();
  found.steps += 1;
  return allowed;
}

const results = [];
for (const { grammar, answers } of job.cases) {
  const compiled = await compile(xgrammar, grammar, tokenizer, job.stop);
  const found = { steps: 0, ending: [0, []], wrong: [], masks: Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0])) };
  for (const ids of answers) {
    const matcher = await compiled.matcher();
    for (const id of ids) {
      const allowed = stepped(matcher, compiled, id, found);
      found.ending[0] += Number(job.stop.some((end) => allowed.includes(end)));
      if (!matcher.acceptToken(id)) throw new Error(`${id} is not allowed`);
    }
    found.ending[1].push(stepped(matcher, compiled, job.stop[0], found).length);
  }
  delete found.kind;
  results.push(found);
}
console.log(JSON.stringify(results));
