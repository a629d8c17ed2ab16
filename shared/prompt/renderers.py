"""A question's tokens by transformers, Transformers.js (as the page and the card do) and genai.

Each is the runtime itself, over the files that ship; none of them needs the model.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from shared.base.errors import UserError
from shared.base.files import write_json
from shared.source.tokenizer import Tokenizer, as_text

SCRIPT = Path(__file__).with_name("render.mjs")
Ids = list[int] | str
"""Token ids, or the renderer's own words where it failed."""


def rendered(folder: Path, system: str, texts: Sequence[str]) -> dict[str, list[Ids]]:
    """By each renderer's name, what it makes of every text as a user's question."""
    tokenizer = Tokenizer(folder)
    plain = [as_text(text, tokenizer.controls) for text in texts]
    return {
        "transformers": [tokenizer.prompt_ids(system, text) for text in texts],
        **_in_node(folder, system, texts),
        "the card's Python": _in_genai(folder, system, plain),
    }


def require_node() -> str:
    """Where node lies; UserError where there is none."""
    if (node := shutil.which("node")) is None:
        raise UserError(
            "node: not found; it renders prompts as the page does; ./inv doctor says more"
        )
    return node


def _in_node(folder: Path, system: str, texts: Sequence[str]) -> dict[str, list[Ids]]:
    """The page's own code, and the card's pipeline with a model that only looks at its input."""
    node = require_node()
    asked = json.dumps({"folder": str(folder), "system": system, "texts": list(texts)})
    run = subprocess.run(
        [node, str(SCRIPT)], input=asked, capture_output=True, text=True, check=False
    )
    if run.returncode:
        words = run.stderr.strip().splitlines() or ["no word"]
        why = next((line for line in words if "Error" in line), words[-1])[:300]
        return {name: [why] * len(texts) for name in ("the page", "the card's JavaScript")}
    return dict(json.loads(run.stdout))


def _in_genai(folder: Path, system: str, texts: Sequence[str]) -> list[Ids]:
    """As the card's Python: onnxruntime-genai's text of the template, then tokenizer.json's tokens. Its
    own tokenizer passes over some normalizers (NFC) and cuts some texts otherwise."""
    import onnxruntime_genai as og
    import tokenizers

    try:
        tokenizer = og.Tokenizer(str(folder))
        file = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        file.no_truncation()  # what a trainer left in it
        file.no_padding()
    except Exception as error:  # the runtime's errors have no base of their own
        return [_words(error)] * len(texts)
    found: list[Ids] = []
    for text in texts:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        try:
            prompt = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
            found.append(list(file.encode(prompt, add_special_tokens=False).ids))
        except Exception as error:  # the same
            found.append(_words(error))
    return found


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def write_genai_stub(folder: Path) -> None:
    """The least genai_config.json with which onnxruntime-genai reads a tokenizer, without a model."""
    decoder = {"filename": "model.onnx", "head_size": 8, "hidden_size": 8, "num_attention_heads": 1}
    decoder |= {"num_hidden_layers": 1, "num_key_value_heads": 1}
    model = {"type": "llama", "vocab_size": 8, "context_length": 8, "decoder": decoder}
    ids = {f"{name}_token_id": 0 for name in ("bos", "eos", "pad")}
    write_json(folder / "genai_config.json", {"model": model | ids, "search": {"max_length": 8}})
