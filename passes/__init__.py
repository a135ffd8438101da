"""All passes: a new one is its file, its test, and one line here."""

from __future__ import annotations

import re

from onnxopt.core import Pass, suggestion
from onnxopt.errors import UsageError
from onnxopt.passes.fuse.flatten_matmul import FlattenMatMul
from onnxopt.passes.fuse.fold_affine import FoldAffine
from onnxopt.passes.fuse.fold_batch_norm import FoldBatchNorm
from onnxopt.passes.fuse.fuse_pad import FusePad
from onnxopt.passes.fuse.mean_to_pool import MeanToGlobalPool
from onnxopt.passes.fuse.merge_projections import MergeProjections
from onnxopt.passes.fuse.residual_sum import ResidualSum
from onnxopt.passes.fuse.space_to_depth_stem import SpaceToDepthStem
from onnxopt.passes.quantize.equalize_channels import EqualizeChannels
from onnxopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.passes.quantize.quantize_lstm import QuantizeLstm
from onnxopt.passes.quantize.quantize_weights import QuantizeWeights
from onnxopt.passes.quantize.smooth_activations import SmoothActivations
from onnxopt.passes.share.share_initializers import ShareInitializers
from onnxopt.passes.simplify.fold_constants import FoldConstants
from onnxopt.passes.simplify.freeze_weights import FreezeWeights
from onnxopt.passes.simplify.inline_functions import InlineFunctions
from onnxopt.passes.simplify.lift_constants import LiftConstants
from onnxopt.passes.simplify.merge_duplicates import MergeDuplicates
from onnxopt.passes.simplify.remove_dead_code import RemoveDeadCode
from onnxopt.passes.simplify.remove_identities import RemoveIdentities
from onnxopt.passes.simplify.simplify import Simplify
from onnxopt.passes.simplify.strip_metadata import StripMetadata
from onnxopt.passes.simplify.upgrade_opset import UpgradeOpset
from onnxopt.stages import Candidate, OneOf, Stage, Together

PASSES: tuple[type[Pass], ...] = (
    # simplify
    InlineFunctions,
    FreezeWeights,
    UpgradeOpset,
    LiftConstants,
    FoldConstants,
    RemoveIdentities,
    MergeDuplicates,
    Simplify,
    RemoveDeadCode,
    StripMetadata,
    # fuse
    FusePad,
    FoldBatchNorm,
    FoldAffine,
    MeanToGlobalPool,
    ResidualSum,
    MergeProjections,
    FlattenMatMul,
    SpaceToDepthStem,
    # share
    ShareInitializers,
    # quantize
    EqualizeChannels,
    SmoothActivations,
    QuantizeInt8,
    QuantizeDynamic,
    QuantizeWeights,
    QuantizeLstm,
)


def by_name(name: str) -> type[Pass]:
    """The pass of this name.

    Raises:
        UsageError: if there is none, with the nearest name.
    """
    known = {found.name: found for found in PASSES}
    if name not in known:
        raise UsageError(f"there is no pass {name!r}{suggestion(name, known)}")
    return known[name]


def parse_stage(words: str) -> Stage:
    """A pass, ``one + other`` for passes that are kept or undone together, ``one | other`` for the best of them.

    Raises:
        UsageError: for an unknown pass or option, or a wrong value.
    """
    candidates = tuple(_candidate(part) for part in words.split("|"))
    return candidates[0] if len(candidates) == 1 else OneOf(candidates)


def _candidate(words: str) -> Candidate:
    together = tuple(parse(part.strip()) for part in re.split(r"\s\+\s", words))
    return together[0] if len(together) == 1 else Together(together)


def parse(words: str) -> Pass:
    """A configured pass from ``name`` or ``name:option=value,option=value``.

    Raises:
        UsageError: for an unknown pass or option, or a wrong value.
    """
    name, _, rest = words.partition(":")
    values = {}
    for item in filter(None, rest.split(",")):
        option, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--pass {words}: write {option}=value")
        values[option] = value
    return by_name(name).configured(values)
