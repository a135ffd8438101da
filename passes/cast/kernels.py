"""Operators that ONNX Runtime computes in 16 bits on CUDA; all others stay in float32.

Where an operator has no such kernel, ONNX Runtime takes the one of the CPU, and moves numbers there and back; where
that has none either, the model does not load.

Source: docs/OperatorKernels.md of ONNX Runtime at 001d12d, which is generated from the registered kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

CONTRIB = "com.microsoft"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVES = _words("""
Cast Compress Concat ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity If IsInf IsNaN Loop Reshape
ReverseSequence Scan Scatter ScatterElements ScatterND Shape Size Slice Split Squeeze TensorScatter Tile Transpose
Trilu Unsqueeze Where
""")
_BOTH = _words("""
Abs Add Attention AveragePool Conv Div Dropout Erf Exp Gelu Gemm HardSigmoid HardSwish LayerNormalization MatMul Max Min
Mod Mul Neg Pow RMSNormalization ReduceSum Relu RotaryEmbedding Sigmoid Sign SimplifiedLayerNormalization Softmax Sqrt
Sub Sum Tanh
""")
_FLOAT16_ONLY = _words("""
ArgMax ArgMin BatchNormalization Ceil Clip ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Einsum Elu Equal Floor
GRU GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual InstanceNormalization LRN LSTM LeakyRelu Less LessOrEqual Log
LogSoftmax MaxPool NonZero OneHot PRelu Pad QuantizeLinear RNN Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare Resize Round Selu Shrink Sin Softplus Softsign
SpaceToDepth ThresholdedRelu TopK Upsample
""")
_CONTRIB_BOTH = _words("""
Attention BiasGelu FastGelu FusedMatMul Gelu GroupQueryAttention MatMulBnb4 MatMulNBits MultiHeadAttention QuickGelu
RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization TransposeMatMul
""")
_CONTRIB_FLOAT16_ONLY = _words("""
BiasAdd BiasSoftmax BiasSplitGelu DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention EmbedLayerNormalization
GatedRelativePositionBias GroupNorm NhwcConv PackedAttention PackedMultiHeadAttention RelativePositionBias RemovePadding
RestorePadding SkipGroupNorm
""")

KERNELS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "float16": {"": _MOVES | _BOTH | _FLOAT16_ONLY, CONTRIB: _CONTRIB_BOTH | _CONTRIB_FLOAT16_ONLY},
    "bfloat16": {"": _MOVES | _BOTH, CONTRIB: _CONTRIB_BOTH},
}
"""Format to domain to operators."""
SINCE: Mapping[str, Mapping[str, int]] = {
    "float16": {"Clip": 12, "CumSum": 14, "DequantizeLinear": 19, "Equal": 11, "IsInf": 20, "QuantizeLinear": 19},
    "bfloat16": {
        "AveragePool": 22,
        "Conv": 22,
        "HardSigmoid": 22,
        "HardSwish": 22,
        "IsInf": 20,
        "Pow": 15,
        "Where": 16,
    },
}
"""The first opset with a kernel, where the operator's specification takes the type earlier."""


def missing_kernel(domain: str, op_type: str, opset: int, half: str) -> str | None:
    """Why an operator cannot be computed in this format, if so."""
    if op_type not in KERNELS[half].get(domain, ()):
        return f"{op_type} has no {half} kernel on CUDA"
    since = SINCE[half].get(op_type, 0) if not domain else 0
    if opset < since:
        return f"{op_type} has a {half} kernel on CUDA from opset {since} on only; upgrade-opset first"
    return None
