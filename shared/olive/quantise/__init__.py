"""Weights to 4 and 8 bits, in the format of onnxruntime's MatMulNBits."""
