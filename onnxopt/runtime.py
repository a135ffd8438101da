"""Run a model: the only file that runs ONNX Runtime."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import files
from onnxopt.core import suggestion
from onnxopt.data import Batch, InputSpec
from onnxopt.errors import ModelError, OnnxoptError, RuntimeMissing, UsageError
from onnxopt.graph import walk, weight_bytes
from onnxopt.target import PROVIDERS, Target

KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"}
KERNEL_TIME = "_kernel_time"
"""What ONNX Runtime's profile writes after the name of a node."""
FATAL_ONLY = 4
"""ONNX Runtime's log level: its errors reach the user through our messages, not through its own log."""

BESIDE = "session.optimized_model_external_initializers_file_name"
"""Where ONNX Runtime writes the weights of a graph: in the file of the graph itself they would end at 2 GB."""
LEAST_BESIDE = "session.optimized_model_external_initializers_min_size_in_bytes"

Outputs = dict[str, Any]
"""Output name to array (or list, for sequence types)."""


class Session:
    """A loaded model, ready to run.

    Args:
        model: in memory, or the path of a file.
        target: provider and threads.
        optimize: ONNX Runtime's own graph optimizations; off when two graphs are compared,
            so that what is compared is what the files say.
        spinning: whether idle threads spin; off for timing with more than one thread.
        save_as: where to write the graph as ONNX Runtime optimized it; its weights go to a file beside it.
        profile_in: a folder for ONNX Runtime's profile; ``durations`` reads it.

    Raises:
        ModelError: if ONNX Runtime does not load the model.
        RuntimeMissing: if ONNX Runtime or the provider is not installed.
    """

    def __init__(
        self,
        model: ir.Model | Path,
        target: Target,
        *,
        optimize: bool = True,
        spinning: bool = True,
        save_as: Path | None = None,
        profile_in: Path | None = None,
    ) -> None:
        """Load the model."""
        ort = onnxruntime()
        provider = _provider(target)
        options = ort.SessionOptions()
        options.intra_op_num_threads = target.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if save_as is not None:
            options.optimized_model_filepath = str(save_as)
            options.add_session_config_entry(BESIDE, f"{save_as.name}.data")
            options.add_session_config_entry(LEAST_BESIDE, str(files.SMALL_TENSOR))
        if profile_in is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_in / "profile")
        try:
            with _loadable(model) as source:
                self._session = ort.InferenceSession(source, options, providers=provider)
        except (OnnxoptError, OSError):
            raise
        except Exception as error:
            raise ModelError(_load_failure(model, error)) from error
        if provider[0] not in self._session.get_providers():  # ONNX Runtime falls back to the CPU in silence
            raise RuntimeMissing(f"{provider[0]} does not start: check the GPU, its driver, CUDA and cuDNN")
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray]) -> Outputs:
        """All outputs for these inputs.

        Raises:
            ModelError: if ONNX Runtime fails on them.
        """
        try:
            return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run the model on these inputs: {_short(error)}") from error

    def bound(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """One iteration on these inputs, for timing: without what a caller does once before many runs."""
        return functools.partial(self.run, feeds)

    def durations(self) -> dict[str, list[float]]:
        """Seconds that each node took in each run, in order, by its name in the graph as optimized; ends the profile.

        ONNX Runtime counts whole microseconds.
        """
        events = json.loads(Path(self._session.end_profiling()).read_text())
        found: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(KERNEL_TIME):
                found.setdefault(event["name"].removesuffix(KERNEL_TIME), []).append(event["dur"] * 1e-6)
        return found

    def stream(
        self,
        batches: Iterable[Batch],
        state: Mapping[str, str] | None = None,
        start: Outputs | None = None,
        fixed: Outputs | None = None,
    ) -> Iterator[tuple[Batch, Outputs]]:
        """Run batch after batch; each ``state`` input takes what its output gave for the batch before.

        Args:
            batches: inputs without the state inputs.
            state: input name to output name.
            start: the first value of each state input (see ``zero_state``).
            fixed: inputs that are the same for every batch.
        """
        fed = dict(start or {})
        for batch in batches:
            outputs = self.run({**batch.feeds, **fed, **(fixed or {})})
            fed = {name: outputs[source] for name, source in (state or {}).items()}
            yield batch, outputs


def kernels(model: ir.Model, target: Target) -> dict[str, str]:
    """Node name to operator in the graph that ONNX Runtime really builds, with its own optimizations.

    A name that is missing is that of a node that was fused into another, or removed.

    Raises:
        ModelError: if ONNX Runtime does not load the model.
        RuntimeMissing: if ONNX Runtime or the provider is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        built = Path(folder) / "built.onnx"
        Session(model, target, save_as=built)
        proto = onnx.load(built, load_external_data=False)
    return {re.sub(r"_token_\d+$", "", node.name): node.op_type for node in proto.graph.node}


def onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        RuntimeMissing: if neither onnxruntime nor onnxruntime-gpu is installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise RuntimeMissing(
            "ONNX Runtime is not installed: pip install 'onnxopt[cpu]' (onnxruntime) "
            "or pip install 'onnxopt[gpu]' (onnxruntime-gpu)"
        ) from error
    except ImportError as error:
        raise RuntimeMissing(f"ONNX Runtime is installed but does not load: {_short(error)}") from error
    return onnxruntime


def version() -> str:
    """The version of ONNX Runtime."""
    return str(onnxruntime().__version__)


def warn_if_both_installed() -> None:
    """Warn where onnxruntime and onnxruntime-gpu lie over each other: which one runs depends on the order."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall one of them",
            stacklevel=2,
        )


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs a caller must give: those without an initializer behind them.

    Raises:
        ModelError: for an input that is not a tensor.
    """
    return tuple(_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers)


def zero_state(specs: Iterable[InputSpec], state: Mapping[str, str]) -> Outputs:
    """Zeros for every state input, with 1 for each dynamic dimension.

    Raises:
        UsageError: if the model has no input of that name.
    """
    known = {spec.name: spec for spec in specs}
    for name in state:
        if name not in known:
            raise UsageError(f"--state {name}: the model has no input {name!r}{suggestion(name, known)}")
    return {
        name: np.zeros([d if isinstance(d, int) else 1 for d in known[name].shape or ()], known[name].dtype)
        for name in state
    }


def check_state(model: ir.Model, state: Mapping[str, str]) -> None:
    """Each state input must be an input, each state output an output.

    Raises:
        UsageError: if not.
    """
    zero_state(input_specs(model), state)
    outputs = [value.name or "" for value in model.graph.outputs]
    for name, source in state.items():
        if source not in outputs:
            raise UsageError(
                f"--state {name}={source}: the model has no output {source!r}{suggestion(source, outputs)}"
            )


def _spec(value: ir.Value) -> InputSpec:
    if not isinstance(value.type, ir.TensorType) or value.name is None:
        raise ModelError(f"input {value.name!r} is not a tensor; onnxopt feeds tensors only")
    dtype = np.dtype(object) if value.dtype is ir.DataType.STRING else np.dtype(value.type.dtype.numpy())
    if value.shape is None:
        return InputSpec(value.name, dtype, None)
    return InputSpec(value.name, dtype, tuple(d if isinstance(d, int) else d.value for d in value.shape))


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _provider(target: Target) -> list[str]:
    name = PROVIDERS[target.provider]
    if name not in onnxruntime().get_available_providers():
        raise RuntimeMissing(
            f"this ONNX Runtime has no {name}; for --provider {target.provider}: pip install 'onnxopt[gpu]'"
        )
    return [name] if name == PROVIDERS["cpu"] else [name, PROVIDERS["cpu"]]


@contextlib.contextmanager
def _loadable(model: ir.Model | Path) -> Iterator[bytes | str]:
    """What InferenceSession takes: a path, bytes, or a temporary file where the weights exceed protobuf's limit."""
    if isinstance(model, (str, os.PathLike)):
        yield str(model)
    elif weight_bytes(model) <= files.SINGLE_FILE_LIMIT:
        yield files.to_bytes(model)
    else:
        with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
            yield str(files.save(model, Path(folder) / "model.onnx")[0])


def _load_failure(model: ir.Model | Path, error: Exception) -> str:
    unknown = sorted(_foreign_domains(model)) if isinstance(model, ir.Model) else []
    if unknown:
        return (
            f"ONNX Runtime does not load the model: it uses operators of {', '.join(unknown)}, which "
            "ONNX Runtime does not know; export it with standard operators"
        )
    return f"ONNX Runtime does not load the model: {_short(error)}"


def _foreign_domains(model: ir.Model) -> Collection[str]:
    own = {domain for domain, *_ in model.functions}
    return {
        node.domain
        for node in walk(model)
        if (node.domain not in KNOWN_DOMAINS | own and not node.domain.startswith("com.microsoft"))
        or node.domain == "com.microsoft.extensions"
    }


def _short(error: Exception) -> str:
    """ONNX Runtime's message without its code number, source line and stack."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    return re.sub(r"/\S*\.(cc|h):\d+ .*?\) ", "", line)[:400]
