// A question as token ids, as shared/source/tokenizer.py makes them: what a document says is text.

/** Names of the tokens of a tokenizer.json that steer a model: special ones, and any spelt <…> or […]. */
export function controlTokens({ added_tokens = [] }) {
  const steers = ({ content, special }) => special || /^(<.+>|\[.+\])$/s.test(content);
  return added_tokens.filter((token) => [...token.content.trim()].length > 1 && steers(token)).map((token) => token.content);
}

const WHITE = /[\s\u001c-\u001f\u0085]/;

/** By two ends that meet: an expression would look at a long gap again from each of its places. */
function trimmed(text) {
  let [first, last] = [0, text.length];
  while (first < last && WHITE.test(text[first])) first += 1;
  while (first < last && WHITE.test(text[last - 1])) last -= 1;
  return text.slice(first, last);
}

/** The text without white space at its ends, its lines ended as a form ends them, every control token's name
 * written apart: `< |im_end|>`. */
export function asText(text, controls) {
  const lines = trimmed(text).replace(/\r\n?/g, "\n");
  return controls.reduce((all, name) => all.replaceAll(name, () => name.replace(/^./su, "$& ")), lines);
}

/** The token ids of one question, as the package's own chat template writes it. */
export function promptIds(tokenizer, controls, system, text) {
  const messages = [{ role: "system", content: system }, { role: "user", content: asText(text, controls) }];
  const ids = tokenizer.apply_chat_template(system ? messages : messages.slice(1), {
    add_generation_prompt: true,
    return_tensor: false,
    return_dict: false,
  });
  return Array.from(ids.flat(), Number);
}

/** Token ids as text, with nothing tidied up: as the check reads an answer. */
export const plain = (tokenizer, ids) =>
  ids.length ? tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false }) : "";

/** How many numbers two lists begin with alike. */
export function common(one, other) {
  let count = 0;
  while (count < one.length && count < other.length && one[count] === other[count]) count += 1;
  return count;
}

/** The token ids that every question under one system prompt begins with. */
export function prefixIds(tokenizer, controls, system) {
  const [one, other] = ["0", "a"].map((text) => promptIds(tokenizer, controls, system, text));
  return one.slice(0, common(one, other));
}
