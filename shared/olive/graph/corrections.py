"""Corrections to what Mobius 0.1.0 reads from a configuration: each makes a graph exact that was not.

A correction is a value of Mobius's own configuration object; what would need another graph is left to
shared/olive/graph/contract.py, which refuses it.
"""

import math
from typing import Any

INTERLEAVED = ("cohere", "cohere2", "ernie4_5", "helium")
"""Models that rotate neighbouring pairs (0, 1), (2, 3), …, which Mobius rotates as two halves."""

NO_OUTPUT_BIAS = ("glm", "glm4", "helium", "seed_oss")
"""Models whose `attention_bias` is one of q, k and v only."""


def corrections(config: Any) -> dict[str, Any]:
    """Fields of Mobius's configuration for transformers' `config` that it reads wrongly."""
    fields: dict[str, Any] = {}
    if isinstance(bias := getattr(config, "mlp_bias", None), bool):
        fields["mlp_bias"] = bias
    if config.model_type in INTERLEAVED:
        fields["rope_interleave"] = True
    if config.model_type in NO_OUTPUT_BIAS:
        fields["attn_o_bias"] = bool(getattr(config, "attention_out_bias", False))
    return fields | _yarn(getattr(config, "rope_parameters", None) or {})


def _yarn(rope: dict[str, Any]) -> dict[str, Any]:
    """Yarn's explicit `attention_factor`, as the `mscale` that gives it; Mobius reads only that."""
    wanted, scale = rope.get("attention_factor"), rope.get("factor") or 1.0
    if rope.get("rope_type") != "yarn" or wanted is None or scale <= 1:
        return {}
    step = 0.1 * math.log(scale)
    over = 1.0 if wanted * (step + 1) != 1 else 2.0
    mscale = (wanted * (over * step + 1) - 1) / step
    return {"rope_scaling": rope | {"mscale": mscale, "mscale_all_dim": over}}
