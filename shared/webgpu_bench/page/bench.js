// The benchmark a person runs: decode from an empty cache and after a real prefill, each repeated.

import { newRun } from "./engine.js";

const HARDWARE = { warmUps: 1, repetitions: 3, points: [[1, 32], [128, 32], [512, 32]] };
/** A software adapter bears a few tokens. */
const SOFTWARE = { warmUps: 0, repetitions: 1, points: [[1, 4], [16, 2]] };

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values) => {
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
};

/**
 * Rows { name, samples, mean, sd } in tokens per second; sd is null for a single sample.
 * `onProgress(share)` from 0 to 1; ends early, with what there is, once `shouldHalt()` gives a reason.
 */
export async function benchmark(engine, text, { software, onProgress, shouldHalt }) {
  const { points, warmUps, repetitions } = software ? SOFTWARE : HARDWARE;
  const asked = points.flatMap(([tokens, more]) => Array.from({ length: warmUps + repetitions }, (_, turn) => ({ tokens, more, warm: turn < warmUps })));
  const all = asked.reduce((sum, { more }) => sum + more, 0);
  const samples = new Map();
  const add = (name, value) => samples.set(name, [...(samples.get(name) ?? []), value]);
  let written = 0;
  for (const { tokens, more, warm } of asked) {
    if (shouldHalt()) break;
    const input_ids = Array.from({ length: tokens }, (_, i) => text[i % text.length]);
    const run = newRun("bench", input_ids);
    const onToken = () => onProgress((written += 1) / all);
    await engine.generate({ run, input_ids, max_new_tokens: more, more: { min_new_tokens: more }, shouldHalt, onToken });
    if (warm || run.stopped_by === "stopped" || !run.decode_ms.length) continue;
    if (tokens > 1) add(`prefill, ${tokens} tokens`, (1000 * tokens) / run.ttft_ms);
    add(`decode, ${tokens > 1 ? tokens : 0} in the cache`, 1000 / mean(run.decode_ms));
  }
  return [...samples].map(([name, values]) => ({ name, samples: values, mean: mean(values), sd: values.length > 1 ? deviation(values) : null }));
}
