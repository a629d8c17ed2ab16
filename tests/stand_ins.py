"""A domain that takes tiny stand-ins of any architecture for its models."""

from __future__ import annotations

from pathlib import Path


def take_any_architecture(domain: Path) -> None:
    """Take `model_type` out of a copied domain, so that a tiny stand-in of any architecture may lie
    where SmolLM3 belongs."""
    toml = domain / "fallback.toml"
    lines = toml.read_text(encoding="utf-8").splitlines(keepends=True)
    toml.write_text("".join(line for line in lines if not line.startswith("model_type")), "utf-8")
