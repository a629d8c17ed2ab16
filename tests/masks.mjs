// The page's masks, step by step: `node masks.mjs JOB`. JOB has modules, page, tokenizer, stop and
// cases of { grammar, ids }; prints for each case the SHA-256 of which tokens were allowed, step by step.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { holdByMasks } from "./hold.mjs";
import { loadXgrammar } from "./xgrammar.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const page = await import(`${job.page}/grammar.js`);
const tokenizer = JSON.parse(readFileSync(job.tokenizer, "utf8"));
const xgrammar = await loadXgrammar(job.modules);
const found = [];
for (const { grammar, ids } of job.cases) {
  const compiled = await page.compile(xgrammar, grammar, tokenizer, job.stop);
  const [mask] = (await holdByMasks(page, compiled)).logits_processor;
  const steps = [];
  for (let step = 0; step <= ids.length; step++) {
    const logits = { data: new Float32Array(job.width) };
    mask([[1n, ...ids.slice(0, step).map(BigInt)]], logits);
    steps.push(createHash("sha256").update(Uint8Array.from(logits.data, (value) => Number(value === 0))).digest("hex"));
  }
  found.push(steps);
}
console.log(JSON.stringify(found));
