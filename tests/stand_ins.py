"""Domains for tests: they take tiny stand-ins of any architecture, and read little in the browser."""

from __future__ import annotations

from pathlib import Path


def take_any_architecture(domain: Path) -> None:
    """Take `model_type` out of a copied domain, so that a tiny stand-in of any architecture may lie
    where SmolLM3 belongs."""
    toml = domain / "fallback.toml"
    lines = toml.read_text(encoding="utf-8").splitlines(keepends=True)
    toml.write_text("".join(line for line in lines if not line.startswith("model_type")), "utf-8")
    read_little(domain)


def read_little(domain: Path) -> None:
    """Give both WebGPU and the CPU two rows of text instead of sixteen, and let the gate on how much
    must be read ask for those: the proof is the same. Likewise a quarter of fidelity's text: a random
    model's flat distributions take long to cut."""
    toml = domain / "fallback.toml"
    text = toml.read_text(encoding="utf-8")
    for key in ("software_parity_tokens = 512", "at_least = 512"):
        assert text.count(key) == 1
        text = text.replace(key, key.replace("512", "64"))
    assert text.count("\ntokens = 1024\n") == 1
    toml.write_text(text.replace("\ntokens = 1024\n", "\ntokens = 256\n"))
