// Answers held to the model's JSON Schema: tokens that could not be part of one are never chosen.

import { StructuredOutputProcessor } from "/vendor/@huggingface/transformers-structured-output/dist/index.js";

/** Names that say nothing about the shape, or that the engine knows as external. */
const WORDS = new Set(["$schema", "$id", "$comment", "title", "description", "examples"]);

/** Further options for Engine.generate that hold one answer to `schema`; throws where it cannot. */
export function holdTo(schema, tokenizer) {
  const plain = Object.fromEntries(Object.entries(schema).filter(([key]) => !WORDS.has(key)));
  const constraint = { type: "json_schema", json_schema: plain };
  return { logits_processor: new StructuredOutputProcessor(tokenizer, constraint) };
}
