"""A convolution of signals is one of images with a single row, for which ONNX Runtime has its fast kernels."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.passes.convert.convolution import convolution
from onnxopt.passes.convert.plan import Plan, Site, Writer


def signal_to_image(site: Site) -> Plan | str | None:
    """``Conv(x, W)``, x [N, C, T], to ``Conv(x', W')``, x' [N, C, 1, T]."""
    found = convolution(site)
    if isinstance(found, str):
        return found
    if len(found.kernel) != 1:
        return None

    def write(new: Writer) -> ir.Value:
        x = site.node.inputs[0]
        assert x is not None
        y = new(
            "Conv",
            [new.along("Unsqueeze", x, [2], site.opset), found.weight[:, :, None], *found.biases],
            kernel_shape=[1, *found.kernel],
            strides=[1, *found.strides],
            dilations=[1, *found.dilations],
            pads=[0, *found.before, 0, *found.after],
            group=found.group,
        )
        return new.along("Squeeze", y, [2], site.opset)

    return Plan((site.node,), write)
