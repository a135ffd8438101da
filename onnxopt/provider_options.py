"""What may be asked of ONNX Runtime's CUDA provider, by its own names.

The names and values are those that ONNX Runtime 1.31 says of itself (``get_provider_options``), without those that
hold addresses of memory. An older one may not know all of them, and says so when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnxopt.core import suggestion
from onnxopt.errors import UsageError

Read = Callable[[str], str | None]
"""A word as ONNX Runtime wants it; None where it means nothing."""

OWN = {"device_id": "--device-id N", "enable_cuda_graph": "--cuda-graph"}
"""Options that have a word of their own, because more depends on them."""
_FLAGS = {"1": "1", "true": "1", "yes": "1", "on": "1", "0": "0", "false": "0", "no": "0", "off": "0"}


def _flag(word: str) -> str | None:
    return _FLAGS.get(word.lower())


def _count(word: str) -> str | None:
    return word if word.isascii() and word.isdigit() else None


def _one_of(*words: str) -> Read:
    known = {word.lower(): word for word in words}
    return lambda word: known.get(word.lower())


_ALGORITHMS, _STRATEGIES = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"), ("kNextPowerOfTwo", "kSameAsRequested")
CUDA: Mapping[str, tuple[Read, str]] = {
    "arena_extend_strategy": (_one_of(*_STRATEGIES), " or ".join(_STRATEGIES)),
    "cudnn_conv1d_pad_to_nc1d": (_flag, "0 or 1"),
    "cudnn_conv_algo_search": (_one_of(*_ALGORITHMS), ", ".join(_ALGORITHMS)),
    "cudnn_conv_use_max_workspace": (_flag, "0 or 1"),
    "do_copy_in_default_stream": (_flag, "0 or 1"),
    "enable_cudnn": (_flag, "0 or 1"),
    "enable_skip_layer_norm_strict_mode": (_flag, "0 or 1"),
    "fuse_conv_bias": (_flag, "0 or 1"),
    "gpu_mem_limit": (_count, "a number of bytes"),
    "prefer_nhwc": (_flag, "0 or 1"),
    "sdpa_kernel": (_count, "a sum of the numbers of attention kernels"),
    "tunable_op_enable": (_flag, "0 or 1"),
    "tunable_op_max_tuning_duration_ms": (_count, "milliseconds"),
    "tunable_op_tuning_enable": (_flag, "0 or 1"),
    "use_ep_level_unified_stream": (_flag, "0 or 1"),
    "use_tf32": (_flag, "0 or 1"),
}
"""Each option with how its value is read, and what is allowed in words."""


def checked(options: Mapping[str, str]) -> dict[str, str]:
    """The same with values as ONNX Runtime wants them.

    Raises:
        UsageError: for an option that is not known or has a word of its own, or a value that means nothing.
    """
    return {name: _value(name, word) for name, word in options.items()}


def read(words: Iterable[str]) -> dict[str, str]:
    """``use_tf32=0`` words as options.

    Raises:
        UsageError: for a word without ``=``, or one that ``checked`` refuses.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--provider-option {word}: write --provider-option name=value")
        found[name] = value
    return checked(found)


def _value(name: str, word: str) -> str:
    if name in OWN:
        raise UsageError(f"--provider-option {name}: write {OWN[name]}")
    if name not in CUDA:
        raise UsageError(f"--provider-option {name}: the CUDA provider has no such option{suggestion(name, CUDA)}")
    understand, allowed = CUDA[name]
    value = understand(word)
    if value is None:
        raise UsageError(f"--provider-option {name}={word}: {word!r} is not possible; it takes {allowed}")
    return value
