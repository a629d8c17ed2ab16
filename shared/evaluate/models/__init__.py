"""The runtimes that answer and predict: PyTorch, onnxruntime, onnxruntime-genai."""
