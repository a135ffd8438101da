"""All conversions: a new one is its function, its test, and one line here."""

from __future__ import annotations

from onnxopt.passes.convert import (
    conv_1d,
    conv_blocks,
    conv_gemm,
    conv_matmul,
    conv_transpose,
    einsum,
    gemm_matmul,
    groups,
)
from onnxopt.passes.convert.plan import Conversion

CONVERSIONS: tuple[Conversion, ...] = (
    Conversion("einsum-to-matmul", "Einsum", einsum.einsum_to_matmul),
    Conversion("transposed-to-conv", "ConvTranspose", conv_transpose.unstrided_to_conv),
    Conversion("transposed-to-blocks", "ConvTranspose", conv_transpose.transposed_to_blocks),
    Conversion("strided-to-blocks", "Conv", conv_blocks.strided_to_blocks),
    Conversion("few-outputs-2x2", "Conv", conv_blocks.few_outputs(2)),
    Conversion("few-outputs-4x4", "Conv", conv_blocks.few_outputs(4)),
    Conversion("grouped-to-depthwise", "Conv", groups.grouped_to_depthwise),
    Conversion("merge-groups", "Conv", groups.merge_groups),
    Conversion("conv-to-gemm", "Conv", conv_gemm.conv_to_gemm),
    Conversion("conv-to-matmul", "Conv", conv_matmul.conv_to_matmul),
    Conversion("conv-1d-to-2d", "Conv", conv_1d.signal_to_image),
    Conversion("gemm-to-matmul", "Gemm", gemm_matmul.gemm_to_matmul),
    Conversion("blocks-to-transposed", "Conv", conv_transpose.blocks_to_transposed, undoes="transposed-to-blocks"),
    Conversion("blocks-to-strided", "Conv", conv_blocks.blocks_to_strided, undoes="strided-to-blocks"),
    Conversion("matmul-to-conv", "MatMul", conv_matmul.matmul_to_conv, undoes="conv-to-matmul"),
    Conversion("gemm-to-conv", "Gemm", conv_gemm.gemm_to_conv, undoes="conv-to-gemm"),
    Conversion("matmul-to-gemm", "MatMul", gemm_matmul.matmul_to_gemm, undoes="gemm-to-matmul"),
)
