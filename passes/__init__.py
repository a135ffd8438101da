"""All passes: a new one is its file, its test, and one line here."""

from __future__ import annotations

import re

from onnxopt.core import Pass, suggestion
from onnxopt.errors import UsageError
from onnxopt.passes.cast.cast_float16 import CastFloat16
from onnxopt.passes.cluster.cluster_weights import ClusterWeights
from onnxopt.passes.convert.convert_layer import ConvertLayer
from onnxopt.passes.factorize.factorize import Factorize
from onnxopt.passes.factorize.merge_linear import MergeLinear
from onnxopt.passes.fuse.flatten_matmul import FlattenMatMul
from onnxopt.passes.fuse.fold_affine import FoldAffine
from onnxopt.passes.fuse.fold_batch_norm import FoldBatchNorm
from onnxopt.passes.fuse.fuse_pad import FusePad
from onnxopt.passes.fuse.fuse_transformer import FuseTransformer
from onnxopt.passes.fuse.mean_to_pool import MeanToGlobalPool
from onnxopt.passes.fuse.merge_projections import MergeProjections
from onnxopt.passes.fuse.residual_sum import ResidualSum
from onnxopt.passes.fuse.space_to_depth_stem import SpaceToDepthStem
from onnxopt.passes.prune.prune_channels import PruneChannels
from onnxopt.passes.prune.prune_weights import PruneWeights
from onnxopt.passes.prune.remove_dead_channels import RemoveDeadChannels
from onnxopt.passes.quantize.equalize_channels import EqualizeChannels
from onnxopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.passes.quantize.quantize_lstm import QuantizeLstm
from onnxopt.passes.quantize.quantize_weights import QuantizeWeights
from onnxopt.passes.quantize.smooth_activations import SmoothActivations
from onnxopt.passes.share.share_initializers import ShareInitializers
from onnxopt.passes.share.share_similar import ShareSimilar
from onnxopt.passes.simplify.fold_constants import FoldConstants
from onnxopt.passes.simplify.freeze_weights import FreezeWeights
from onnxopt.passes.simplify.inline_functions import InlineFunctions
from onnxopt.passes.simplify.lift_constants import LiftConstants
from onnxopt.passes.simplify.merge_duplicates import MergeDuplicates
from onnxopt.passes.simplify.remove_dead_code import RemoveDeadCode
from onnxopt.passes.simplify.remove_identities import RemoveIdentities
from onnxopt.passes.simplify.simplify import Simplify
from onnxopt.passes.simplify.strip_metadata import StripMetadata
from onnxopt.passes.simplify.strip_names import StripNames
from onnxopt.passes.simplify.upgrade_opset import UpgradeOpset
from onnxopt.passes.store.store_half import StoreHalf
from onnxopt.passes.store.store_int8 import StoreInt8
from onnxopt.passes.store.store_sparse import StoreSparse
from onnxopt.stages import Candidate, OneOf, Search, Stage, Together

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
    StripNames,
    # fuse
    FusePad,
    FoldBatchNorm,
    FoldAffine,
    MeanToGlobalPool,
    ResidualSum,
    MergeProjections,
    FlattenMatMul,
    SpaceToDepthStem,
    FuseTransformer,
    # convert
    ConvertLayer,
    # share
    ShareInitializers,
    ShareSimilar,
    # prune
    RemoveDeadChannels,
    PruneChannels,
    PruneWeights,
    # factorize
    MergeLinear,
    Factorize,
    # quantize
    EqualizeChannels,
    SmoothActivations,
    QuantizeInt8,
    QuantizeDynamic,
    QuantizeWeights,
    QuantizeLstm,
    # cast
    CastFloat16,
    # cluster
    ClusterWeights,
    # store
    StoreSparse,
    StoreHalf,
    StoreInt8,
)


RANGE = re.compile(r"([\d.]+)\.\.([\d.]+)")
"""In place of a number: the amount is searched between these, the bolder first."""


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

    A range in place of the number of a single pass, ``one:option=bold..careful``, is searched.

    Raises:
        UsageError: for an unknown pass or option, or a wrong value.
    """
    candidates = [[part.strip() for part in re.split(r"\s\+\s", one)] for one in words.split("|")]
    if len(candidates) == len(candidates[0]) == 1 and (found := _search(candidates[0][0])) is not None:
        return found
    stages = tuple(_candidate(one) for one in candidates)
    return stages[0] if len(stages) == 1 else OneOf(stages)


def _candidate(words: list[str]) -> Candidate:
    together = tuple(map(parse, words))
    return together[0] if len(together) == 1 else Together(together)


def _search(words: str) -> Search | None:
    """A pass with a range in place of one number; None where there is none."""
    kind, values = _split(words)
    ranges = [(name, found) for name, value in values.items() if (found := RANGE.fullmatch(value))]
    if len(ranges) != 1:
        return None
    name, found = ranges[0]
    option = next((one for one in kind.options() if one.name == name.replace("-", "_")), None)
    if option is None or option.type is not float:
        return None
    others = {other: value for other, value in values.items() if other != name}
    for end in found.groups():
        kind.configured({**others, name: end})
    return Search(kind.configured(others), option.name, *map(float, found.groups()))


def parse(words: str) -> Pass:
    """A configured pass from ``name`` or ``name:option=value,option=value``.

    Raises:
        UsageError: for an unknown pass or option, or a wrong value.
    """
    kind, values = _split(words)
    return kind.configured(values)


def _split(words: str) -> tuple[type[Pass], dict[str, str]]:
    """The pass, and its options as typed."""
    name, _, rest = words.partition(":")
    values = {}
    for item in filter(None, rest.split(",")):
        option, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--pass {words}: write {option}=value")
        values[option] = value
    return by_name(name), values
