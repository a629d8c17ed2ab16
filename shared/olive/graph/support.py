"""Configurations whose graph would compute something else than PyTorch: refused by name.

Each was measured on a tiny model against PyTorch (tests/test_build.py holds the ones that work):
a window on Qwen2 or SmolLM3 is ignored by the graph, long-rope keeps the short factors beyond the
original context, and a partial rotary embedding gives a file that no runtime loads.
"""

from typing import Any

from shared.base.errors import RungFailed

WINDOWED = ("phi3",)
"""Architectures whose sliding window the graph honours."""


def refuse_unsupported(config: Any, where: str) -> None:
    """RungFailed naming the key of config.json (`where`) that the graph does not honour."""
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and config.model_type not in WINDOWED:
        raise RungFailed(f"{where}: sliding_window: not honoured for {config.model_type} models")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        raise RungFailed(
            f"{where}: rope_parameters: longrope is wrong beyond the original context; "
            "use a model without it, like Phi-3-mini-4k"
        )
    partial = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", 1.0))
    if (partial or 1.0) != 1.0 and config.model_type == "phi3":
        raise RungFailed(f"{where}: partial_rotary_factor: not honoured for phi3 models")
