"""Fuse the attention, norms and Gelus of a transformer."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import ModelError
from onnxopt.graph import adopt, census, inferred, initializers, label, nodes, opset, walk
from onnxopt.opsets import raise_opset
from onnxopt.passes.fuse.transformer.attention import Attention, attentions
from onnxopt.passes.fuse.transformer.candidates import ATTENTIONS, FUSED, Candidate, candidates
from onnxopt.passes.fuse.transformer.kinds import KINDS, likely, structure
from onnxopt.passes.fuse.transformer.sizes import Sizes
from onnxopt.passes.fuse.transformer.trial import Trial, prepare
from onnxopt.passes.fuse.transformer.undoing import undo
from onnxopt.passes.fuse.transformer.writing import STANDARD_SINCE
from onnxopt.sparse import SparseTensor
from onnxopt.transformer_fusions import Wish
from onnxopt.transformer_script import ONNXSCRIPT

NORM_SINCE, GELU_SINCE = 17, 20
"""The opsets from which LayerNormalization and Gelu are standard operators."""
NO_ATTENTION = "it is no transformer: it has no Softmax between two products of computed values"
NEEDS = "without --allow-contrib, {} needs opset {}, and the model has {}: --pass upgrade-opset:version={} before"


@dataclass(frozen=True)
class FuseTransformer(Pass):
    """Write attention, LayerNormalization and Gelu as one operator each, as the kernels for transformers want them.

    Before:
        ``w = Softmax(MatMul(q, Transpose(k)) / 8 + bias)``, ``y = MatMul(w, v)``, each of q, k, v a linear map of x
        in [batch, heads, sequence, size]; norms and Gelus written out
    After:
        ``y = com.microsoft.Attention(x, [Wq Wk Wv], b, , , bias)``, or MultiHeadAttention(q, k, v) of values that are
        no maps of one input; LayerNormalization, Gelu, FastGelu. With ``additions``, SkipLayerNormalization and
        BiasGelu, too. Without ``--allow-contrib``, operators of the standard alone: LayerNormalization, Gelu from
        opset 20, Attention from opset 23.
    Left alone:
        models without attention; attention whose heads cannot be told, or that has other than four dimensions; the
        whole, where its outputs differ on inputs of two sizes, all tokens read, the last ones masked out, or some in
        between. A model below opset 17 is converted to it before.
    Exact up to:
        float rounding.
    Source:
        onnxruntime.transformers, run as the model types that the structure allows, onnxscript.rewriter.ort_fusions for
        rotary decoders, and a rule for attention that neither of them knows: they look for the nodes of one exporter.
        The one that leaves the fewest nodes and computes the same is taken. On a CPU, additions stay, for
        SkipLayerNormalization takes 7.0 ns per element there, Add and LayerNormalization 1.2; and the clock decides.
    """

    name: ClassVar[str] = "fuse-transformer"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    for_speed: ClassVar[bool] = True

    model_type: str = option(
        "auto", "what onnxruntime.transformers takes the model for", choices=("auto", ONNXSCRIPT, *KINDS)
    )
    additions: str = option(
        "auto", "whether additions go into the norm or Gelu after them; auto: on GPUs", choices=("auto", "yes", "no")
    )
    seconds: float = option(600.0, "time limit of the libraries", low=1.0)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Fuse a copy in every way that may fit, and take over the best that computes the same."""
        if not nodes(model, "Softmax") or not [*attentions(model, Sizes(inferred(model)))]:
            fused = any(node.op_type in ATTENTIONS for node in walk(model))
            return [] if fused else [Refusal("model", NO_ATTENTION)]
        start = model.clone()
        why = _hindrance(start)
        if why:
            return [Refusal("model", why)]
        undo(start, sums=self._fuses_additions(context))
        found = list(attentions(start, Sizes(inferred(start))))
        odd = [Refusal(label(node), one) for node, one in found if isinstance(one, str)]
        wish = self._wish(start, [one for _, one in found if isinstance(one, Attention)], context)
        missing = [] if context.allow_contrib else _needs(start)
        try:
            best, refuted = _best(start, wish, self.seconds, context)
        except ModelError as error:
            return [Refusal("model", str(error)), *odd]
        if best is None or not _fused(best.model) - _fused(model):
            return [*refuted, *missing, *odd]
        changes = _changes(model, best)
        adopt(model, best.model)
        return [*changes, *refuted, *missing, *best.odd]

    def _wish(self, model: ir.Model, found: Sequence[Attention], context: Context) -> Wish:
        """What to ask the libraries for."""
        seen = structure(model, found)
        kinds = likely(seen) if self.model_type == "auto" else (self.model_type,)
        contrib = context.allow_contrib
        if not contrib:
            kinds = tuple(kind for kind in kinds if kind != ONNXSCRIPT) or ("bert",)
        gelu = contrib or opset(model) >= GELU_SINCE
        return Wish(kinds, seen.heads, seen.hidden, contrib, gelu, self._fuses_additions(context))

    def _fuses_additions(self, context: Context) -> bool:
        """Whether additions go into what comes after them; the standard has no such operators."""
        wanted = self.additions == "yes" or (self.additions == "auto" and context.target.provider != "cpu")
        return wanted and context.allow_contrib


def _hindrance(model: ir.Model) -> str | None:
    """Why nothing can be fused; a model below opset 17 is brought there."""
    if model.functions:
        return "it has local functions: inline-functions before"
    if any(isinstance(value.const_value, SparseTensor) for value in initializers(model)):
        return "the libraries do not know sparse weights"
    if opset(model) >= NORM_SINCE:
        return None
    why = raise_opset(model, NORM_SINCE)
    return why and f"LayerNormalization needs opset {NORM_SINCE}: {why}"


def _needs(model: ir.Model) -> list[Refusal]:
    """What the standard does not have at this opset."""
    version = opset(model)
    asked = [("Gelu", GELU_SINCE)] if nodes(model, "Erf") else []
    asked.append(("Attention", STANDARD_SINCE))
    return [Refusal("model", NEEDS.format(op, least, version, least)) for op, least in asked if version < least]


def _best(start: ir.Model, wish: Wish, seconds: float, context: Context) -> tuple[Candidate | None, list[Refusal]]:
    """The candidate of the fewest nodes that computes what the model does, and why better ones do not.

    Raises:
        ModelError: if it cannot be checked.
    """
    trial: Trial | None = None
    refuted: list[Refusal] = []
    for candidate in candidates(start, wish, seconds):
        if isinstance(candidate, Refusal):
            refuted.append(candidate)
            continue
        trial = trial or prepare(start, context)
        try:
            difference = trial.compare(candidate.model)
        except ModelError as error:
            refuted.append(Refusal("model", f"{candidate.words}: {error}"))
            continue
        if difference.ok:
            return dataclasses.replace(candidate, words=f"{candidate.words}{trial.doubt}"), refuted
        text = f"{candidate.words}: output {difference.output!r} would differ by {difference.relative:.2g}"
        refuted.append(Refusal("model", text))
    return None, refuted


def _changes(model: ir.Model, best: Candidate) -> list[Change]:
    """What was fused; not each of the nodes that went with it."""
    before, after = census(model), census(best.model)
    new = [Change(name, f"{op} in its place") for name, op in after.items() if op in FUSED and before.get(name) != op]
    return [Change("model", f"{len(before)} nodes became {len(after)}, {best.words}"), *new]


def _fused(model: ir.Model) -> Counter[str]:
    """How many there are of each fused operator."""
    return Counter(node.op_type for node in walk(model) if node.op_type in FUSED)
