// Whole documents one after the other, as a person has them answered: the prompt stays read, and every
// answer is held to the grammar.

import { newRun } from "./engine.js";
import { holdTo } from "./hold.js";

const gpu = window.docintelGpu;

/** Puts a run for each of `texts` that fits into `answered`; ends early once `late` gives a reason. */
export async function answerDocuments(engine, { name, system, grammar, texts, max_new_tokens }, answered, late, say) {
  const prefix = engine.prefixIds(system);
  for (const [index, text] of texts.entries()) {
    if (late()) return;
    say(`document ${index + 1} of ${texts.length}`);
    const input_ids = engine.promptIds(system, text);
    if (input_ids.length >= engine.context) {
      say(`document ${index + 1} has ${input_ids.length} tokens, more than the model has room for: passed over`);
      continue;
    }
    const run = newRun(`document-${index}`, input_ids);
    answered.push(run);
    const more = await holdTo({ name, grammar }, engine);
    const { buffers, dispatches } = gpu;
    const count = () => Object.assign(run, { buffers: gpu.buffers - buffers, dispatches: gpu.dispatches - dispatches });
    await engine.generate({ run, input_ids, prefix, max_new_tokens, more, shouldHalt: late, onToken: count });
  }
}
