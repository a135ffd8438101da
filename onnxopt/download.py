"""What a model weighs when it is sent: the size of its file, compressed."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxopt import files
from onnxopt.graph import attribute_tensors, initializers, weight_bytes

LEVEL, LEVEL_OF_LARGE = 9, 3
"""Of zstd. Level 19 makes squeezenet11 (5 MB) 2 % smaller than level 9 does, and takes 3.4 s instead of 0.14."""
LARGE = 2**28
"""Bytes of weights from which time counts more."""


def download_bytes(model: ir.Model) -> int:
    """Bytes of the model's file after zstd, at level 9, or 3 from 256 MB on; external data are counted with it.

    Deflate (zip, gzip) comes out a little larger. Of weights above 1.8 GB, which are never in memory together, only
    the weights count, and not the graph.
    """
    import zstandard

    size = weight_bytes(model)
    compressor = zstandard.ZstdCompressor(level=LEVEL if size < LARGE else LEVEL_OF_LARGE).compressobj()
    contents = iter([files.to_bytes(model)]) if size <= files.SINGLE_FILE_LIMIT else _weights(model)
    return sum(len(compressor.compress(part)) for part in contents) + len(compressor.flush())


def _weights(model: ir.Model) -> Iterator[bytes]:
    """The bytes of all constants, one after the other; shared ones once."""
    held = {id(value.const_value): value.const_value for value in initializers(model) if value.const_value is not None}
    for tensor in (*held.values(), *attribute_tensors(model)):
        yield tensor.tobytes()
