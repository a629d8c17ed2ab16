"""Which operators onnxruntime's WebGPU provider has a kernel for: data, not code.

Source: the kernel registrations of github.com/microsoft/onnxruntime, names only —
onnxruntime/core/providers/webgpu/webgpu_execution_provider.cc at commit 003f772b21ab and
onnxruntime/contrib_ops/webgpu/webgpu_contrib_kernels.cc at 01671d9c4e01, plus the kernels added
since (LATER) that name themselves in the binary Transformers.js 4.3.1 loads: onnxruntime-web
1.31.0-dev.20260914-8d85527a0, ort-wasm-simd-threaded.asyncify.wasm. Every name here occurs in that
binary. The package's own docs/webgpu-operators.md is the older JSEP provider's list.

A kernel may still refuse a type: 64-bit integer arithmetic on shapes goes to the CPU, which is
cheap and expected.
"""

STANDARD = frozenset(
    [
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "ArgMax",
        "ArgMin",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Ceil",
        "Clip",
        "Concat",
        "Cos",
        "Cosh",
        "CumSum",
        "Div",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "Gelu",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "If",
        "LayerNormalization",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "MatMul",
        "MaxPool",
        "Mul",
        "Neg",
        "Not",
        "Pad",
        "Pow",
        "Range",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Relu",
        "Reshape",
        "Resize",
        "Shape",
        "Sigmoid",
        "SimplifiedLayerNormalization",
        "Sin",
        "Sinh",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)

LATER = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "DequantizeLinear",
        "Einsum",
        "Gemm",
        "GridSample",
        "ScatterElements",
        "ScatterND",
        "TopK",
    ]
)

CONTRIB = frozenset(
    [
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "BiasSplitGelu",
        "FastGelu",
        "FusedConv",
        "GatherBlockQuantized",
        "Gelu",
        "GroupQueryAttention",
        "MatMulNBits",
        "MatMulNBitsMlp",
        "MatMulNBitsQkv",
        "MultiHeadAttention",
        "QMoE",
        "QuickGelu",
        "RotaryEmbedding",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    ]
)

ON_THE_CPU = frozenset(["Constant", "ConstantOfShape", "Identity", "Max", "Min", "Mod", "Size"])
"""Shape arithmetic without a WebGPU kernel: a few integers, folded when loading or run on the CPU."""

OPERATORS: dict[str, frozenset[str]] = {
    "": STANDARD | LATER | ON_THE_CPU,
    "com.microsoft": CONTRIB,
}
"""Operator names by domain."""
