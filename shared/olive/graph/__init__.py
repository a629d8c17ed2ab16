"""The ONNX graph of an architecture, and the same filled with weights."""
