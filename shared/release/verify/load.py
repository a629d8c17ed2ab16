"""The process that loads a third party's files.

    python -m shared.release.verify.load BYTES FOLDER GRAPH…


BYTES of address space are all it may take. One JSON object a line on stdout. Code in the folder is
never run, and templates are rendered in transformers' sandbox.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.release.verify.limits import limit_this_process
from shared.release.verify.line import Line

QUESTION = "Is this text in the prompt?"


def tokenizer(folder: Path) -> str:
    """Loads, and has no more tokens than the graph has rows."""
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    config = json.loads((folder / "config.json").read_bytes())
    rows = (config.get("text_config") or config).get("vocab_size")
    if rows is not None and len(loaded) > rows:
        raise ValueError(f"has {len(loaded)} tokens, the model only {rows} rows")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    text = loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if QUESTION not in text:
        raise ValueError("the chat template leaves out what the user says")
    back = loaded.decode(loaded.encode(QUESTION, add_special_tokens=False))
    if back.strip() != QUESTION:
        raise ValueError(f"turns {QUESTION!r} into {back[:60]!r}")
    return f"{len(loaded):,} tokens; the chat template renders in the sandbox"


def session(folder: Path, name: str) -> str:
    """onnxruntime creates a session on the CPU, and the graph takes tokens."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    made = onnxruntime.InferenceSession(
        str(folder / "onnx" / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in made.get_inputs()]
    if "input_ids" not in names:
        raise ValueError("the graph takes no input_ids")
    return f"a session on the CPU, {len(names)} inputs"


def generation(folder: Path) -> str:
    """genai_config.json, where there is one, points at a file that is there."""
    path = folder / "genai_config.json"
    if not path.is_file():
        return "no genai_config.json"
    name = json.loads(path.read_bytes())["model"]["decoder"]["filename"]
    if not (folder / name).resolve().is_relative_to(folder) or not (folder / name).is_file():
        raise ValueError(f"model.decoder.filename: {name!r} is not in the folder")
    return f"genai_config.json reads {name}"


def adapters(folder: Path) -> str:
    """onnxruntime reads each .onnx_adapter, whose tensors are those of the safetensors beside it."""
    from onnxruntime import AdapterFormat
    from safetensors.numpy import load_file

    found = sorted((folder / "adapters").glob("*.onnx_adapter"))
    for path in found:
        values = AdapterFormat.read_adapter(str(path)).get_parameters()
        ours = load_file(path.with_suffix(".safetensors"))
        theirs = {name: value.numpy() for name, value in values.items()}
        if ours.keys() != theirs.keys() or any((ours[n] != theirs[n]).any() for n in ours):
            raise ValueError(f"{path.name}: not the tensors of {path.stem}.safetensors")
    return f"{len(found)} adapters, the same for page and onnxruntime-genai"


def _tell(name: str, check: Callable[[], str]) -> None:
    try:
        found = Line(name, True, check())
    except Exception as error:  # whatever a runtime raises over a third party's file
        text = " ".join(str(error).split())[:200] or type(error).__name__
        found = Line(name, False, f"does not load: {text}")
    print(json.dumps(asdict(found)), flush=True)


def main(folder: Path, graphs: list[str]) -> None:
    """Everything, one after the other."""
    _tell("tokenizer", lambda: tokenizer(folder))
    _tell("genai", lambda: generation(folder))
    for name in graphs:
        short = name.removeprefix("model_")
        _tell(f"loads {short}", lambda name=name: session(folder, name))  # type: ignore[misc]
    if (folder / "adapters").is_dir():
        _tell("adapters", lambda: adapters(folder))


if __name__ == "__main__":
    limit_this_process(int(sys.argv[1]))
    main(Path(sys.argv[2]), sys.argv[3:])
