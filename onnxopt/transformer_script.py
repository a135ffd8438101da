"""Transformer fusions of ONNX Runtime and onnxscript, run by its path in a process of its own.

``python -P transformer_script.py REQUEST.json``: the request holds the fields of ``Request``. For each kind a model
``KIND.onnx`` is written to its folder, and to ``said.json`` what became of each: "" or the reason of the failure.

Its own process, for onnxruntime.transformers puts its folder on Python's path, where its modules (``float16``,
``constants``, ``metrics``) hide others; prints and logs; and may run for long. So this file imports nothing of onnxopt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

ONNXSCRIPT = "onnxscript"
"""The kind that stands for onnxscript's rules, which know no model types."""
TANH = b"tanh"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        source: the model, with its weights in it or beside it.
        folder: where results go.
        kinds: model types of onnxruntime.transformers, or ``onnxscript``.
        heads: of the attention; 0: read from each layer.
        hidden: width of the layers, heads times their size; 0 likewise.
        contrib: whether operators of ONNX Runtime alone may be written.
        gelu: whether a Gelu may be written.
        additions: whether additions are fused into the norm or Gelu after them.
        beside: whether weights go beside the models.
    """

    source: str
    folder: str
    kinds: tuple[str, ...]
    heads: int
    hidden: int
    contrib: bool
    gelu: bool
    additions: bool
    beside: bool


def main(path: str) -> None:
    """Fuse for each kind; a failure of one is not that of another."""
    request = Request(**json.loads(Path(path).read_text()))
    said = {}
    for kind in request.kinds:
        try:
            _save(_FUSERS.get(kind, _by_onnxruntime)(kind, request), kind, request)
            said[kind] = ""
        except Exception as error:  # of libraries: it can be any
            said[kind] = f"{type(error).__name__}: {error}"
    (Path(request.folder) / "said.json").write_text(json.dumps(said))


def _by_onnxruntime(kind: str, request: Request) -> onnx.ModelProto:
    """The fusions of onnxruntime.transformers for a model type, on the graph as it is."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import MODEL_TYPES

    if kind not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ValueError(f"this version of onnxruntime.transformers does not know it; it knows {known}")
    model = onnx.load(request.source)
    if request.contrib:
        _name_tanh(model)
    options = FusionOptions(kind)
    options.enable_gelu = request.gelu
    options.enable_attention = options.enable_rotary_embeddings = request.contrib
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = request.additions
    options.enable_embed_layer_norm = options.enable_bias_gelu = request.additions
    options.use_raw_attention_mask()  # the other form counts the ones, and is wrong for all but right padding
    fused = MODEL_TYPES[kind][0](model, request.heads, request.hidden)
    if not request.contrib:  # it writes an operator that the standard has not
        fused.fuse_simplified_layer_norm = fused.fuse_skip_simplified_layer_norm = _nothing
    if not request.additions:
        fused.fuse_skip_simplified_layer_norm = _nothing
    fused.optimize(options)
    fused.topological_sort()
    return fused.model


def _by_onnxscript(_: str, request: Request) -> onnx.ModelProto:
    """The fusions of onnxscript, made for graphs of PyTorch's dynamo exporter."""
    import onnx_ir as ir
    from onnx_ir.passes.common import InlinePass
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    proto = onnx.load(request.source)
    model, _counts = optimize_for_ort(ir.serde.deserialize_model(proto))
    InlinePass()(model)  # what it took apart and did not fuse
    return ir.serde.serialize_model(model)


_FUSERS: dict[str, Callable[[str, Request], onnx.ModelProto]] = {ONNXSCRIPT: _by_onnxscript}


def _nothing(*_: object) -> None:
    pass


def _name_tanh(model: onnx.ModelProto) -> None:
    """Write the standard Gelu by tanh as FastGelu: as BiasGelu, onnxruntime.transformers would lose the tanh."""
    for node in model.graph.node:
        if node.op_type == "Gelu" and node.domain == "" and any(a.s == TANH for a in node.attribute):
            node.op_type, node.domain = "FastGelu", "com.microsoft"
            del node.attribute[:]
            if all(one.domain != node.domain for one in model.opset_import):
                model.opset_import.add(domain=node.domain, version=1)


def _save(model: onnx.ModelProto, kind: str, request: Request) -> None:
    path = Path(request.folder) / f"{kind}.onnx"
    onnx.save(model, path, save_as_external_data=request.beside, location=f"{kind}.data")


if __name__ == "__main__":
    main(sys.argv[1])
