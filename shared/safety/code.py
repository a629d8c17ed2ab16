"""Where a model's JSON files name code: Python that transformers would fetch, and libraries."""

import re
from collections.abc import Iterator
from typing import Any

CODE_KEY = re.compile(
    r"auto_map|custom_pipelines|custom_generate|custom_op|library_path|trust_remote", re.I
)
ELSEWHERE = ("configuration_files", "fast_tokenizer_files")
"""With these transformers reads other files in the place of the one that they stand in."""
KERNEL = re.compile(r"attn_implementation|experts_implementation")
"""Of these transformers takes `org/name` for a kernel on the Hub."""
TAKEN_IN = {
    "phi3": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    }
}
"""By model_type, the auto_map of a model published before transformers had its classes, which are
run in its place (huggingface.co/microsoft/Phi-3-mini-4k-instruct, config.json). Every fine-tune
keeps it, at times with `owner/name--` before each class."""
LIBRARY = re.compile(r"\.(so|dll|dylib)(\.\d+)*$", re.I)
"""onnxruntime-genai loads the shared library that `custom_ops_library` names; providers, others."""


def code_named_in(value: Any, key: str = "") -> Iterator[str]:
    """Each place, at any depth, where a runtime would take Python (auto_map) or a library from."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            where = f"{key}.{name}" if key else str(name)
            named = CODE_KEY.search(str(name)) and not (item is False and "trust" in str(name))
            named = named or (isinstance(item, str) and KERNEL.search(str(name)) and "/" in item)
            if named or (isinstance(item, str) and LIBRARY.search(item)):
                yield where
            yield from code_named_in(item, where)


def without_taken_in(config: dict[str, Any]) -> dict[str, Any]:
    """config.json without an auto_map that names transformers' own classes alone (TAKEN_IN)."""
    named = config.get("auto_map")
    own = TAKEN_IN.get(str(config.get("model_type")), {})
    taken_in = isinstance(named, dict) and all(
        isinstance(name, str) and own.get(key) == name.rpartition("--")[2]
        for key, name in named.items()
    )
    return {k: v for k, v in config.items() if k != "auto_map"} if named and taken_in else config
