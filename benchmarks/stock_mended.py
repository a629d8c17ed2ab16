"""onnxruntime-genai's builder as released, with one thing mended: arguments as its own command.

Released 0.18 cannot build SmolLM3 for WebGPU: where a layer has no rotary embedding (NoPE), it makes
a separate RotaryEmbedding node, for which the graph has no position_ids (KeyError), and which the
model must not have. Here such layers get none, so that seconds and memory can be held side by side.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

import onnxruntime_genai


def mend() -> None:
    """Change the class that the builder uses; it finds its neighbours as top-level `builders`."""
    sys.path.insert(0, str(Path(onnxruntime_genai.__file__).parent / "models"))
    model = importlib.import_module("builders").SmolLM3Model
    with_rope = model.make_attention_qk_rope

    def only_where_the_layer_has_it(self: Any, layer_id: int, **kwargs: Any) -> tuple[str, str]:
        """The names of the cos and sin caches, empty for a NoPE layer."""
        if not self.attention_attrs["use_rope_in_attn"]:
            return "", ""
        names: tuple[str, str] = with_rope(self, layer_id, **kwargs)
        return names

    model.make_attention_qk_rope = only_where_the_layer_has_it


if __name__ == "__main__":
    mend()
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)
