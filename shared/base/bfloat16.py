"""Whether this processor computes products in bfloat16 faster than in float32."""

FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions for bfloat16 products, as torch.cpu.get_capabilities names them; `bf16` is ARM's.
Without them such a product of 16 rows takes three times as long as one in float32."""


def is_bfloat16_fast() -> bool:
    """Whether this processor has instructions for products in bfloat16."""
    import torch

    return any(torch.cpu.get_capabilities().get(name) for name in FAST_BFLOAT16)
