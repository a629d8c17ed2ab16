"""Merged 16-bit weights → ONNX → 4-bit for WebGPU → Transformers.js layout."""
