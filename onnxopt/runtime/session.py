"""A loaded model: run it, time it, and see what ONNX Runtime made of it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import files
from onnxopt.data import Batch
from onnxopt.errors import ModelError, OnnxoptError, RuntimeMissing, UsageError
from onnxopt.graph import walk, weight_bytes
from onnxopt.runtime.binding import GRAPH_ID, NO_GRAPH, bindable, bound
from onnxopt.runtime.gpu import missing_gpu
from onnxopt.runtime.inputs import Outputs
from onnxopt.runtime.library import onnxruntime, short
from onnxopt.runtime.placement import RECORD, Placed, placed
from onnxopt.target import PROVIDERS, Target

KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"}
KERNEL_TIME = "_kernel_time"
"""What ONNX Runtime's profile writes after the name of a node."""
FATAL_ONLY = 4
"""ONNX Runtime's log level: its errors reach the user through our messages, not through its own log."""

BESIDE = "session.optimized_model_external_initializers_file_name"
"""Where ONNX Runtime writes the weights of a graph: in the file of the graph itself they would end at 2 GB."""
LEAST_BESIDE = "session.optimized_model_external_initializers_min_size_in_bytes"


class Session:
    """A loaded model, ready to run.

    Args:
        model: in memory, or the path of a file.
        target: provider, its options, and threads. A CUDA graph is captured for ``bound``, and only with ``optimize``.
        optimize: ONNX Runtime's own graph optimizations; off when two graphs are compared,
            so that what is compared is what the files say.
        spinning: whether idle threads spin; off for timing with more than one thread.
        save_as: where to write the graph as ONNX Runtime optimized it; its weights go to a file beside it.
        profile_in: a folder for ONNX Runtime's profile; ``durations`` reads it.

    Attributes:
        placed: which node ONNX Runtime put where; empty on the CPU, None where it cannot say.

    Raises:
        ModelError: if ONNX Runtime does not load the model.
        RuntimeMissing: if ONNX Runtime is not installed, or the provider lacks something.
        UsageError: if all nodes must be on the GPU and some are not, or no CUDA graph can be captured.
    """

    placed: tuple[Placed, ...] | None = ()

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
        self._target, self._graph = target, target.cuda_graph and optimize
        providers = _providers(target, graph=self._graph)
        options = ort.SessionOptions()
        options.intra_op_num_threads = target.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if target.on_gpu:
            options.add_session_config_entry(RECORD, "1")
        if save_as is not None:
            options.optimized_model_filepath = str(save_as)
            options.add_session_config_entry(BESIDE, f"{save_as.name}.data")
            options.add_session_config_entry(LEAST_BESIDE, str(files.SMALL_TENSOR))
        if profile_in is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_in / "profile")
        try:
            with _loadable(model) as source:
                self._session = ort.InferenceSession(source, options, providers=providers, enable_fallback=0)
        except (OnnxoptError, OSError):
            raise
        except Exception as error:
            if self._graph:
                raise UsageError(_no_graph(model, target, error)) from error
            raise ModelError(_load_failure(model, error)) from error
        if PROVIDERS[target.provider] not in self._session.get_providers():  # it computes on the CPU in silence
            raise RuntimeMissing(f"{PROVIDERS[target.provider]} does not start: check the GPU, its driver and CUDA")
        if target.on_gpu:
            self.placed = placed(self._session)
            _check_placed(self, model, optimize=optimize)
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray]) -> Outputs:
        """All outputs for these inputs.

        Raises:
            ModelError: if ONNX Runtime fails on them.
        """
        try:
            how = _run_options() if self._graph else None
            return dict(zip(self.outputs, self._session.run(None, dict(feeds), how), strict=True))
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run the model on these inputs: {short(error)}") from error

    def bound(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """One iteration on these inputs, for timing: without what a caller does once before many runs.

        On the GPU inputs and outputs stay there, and an iteration ends when it is done with it. Searches for algorithms
        and the capture of a CUDA graph are over when this returns.

        Raises:
            ModelError: if ONNX Runtime fails on the inputs.
        """
        if not self._target.on_gpu or not bindable(self._session):
            return functools.partial(self.run, feeds)
        try:
            return bound(self._session, feeds, self._target.provider, self._target.device_id)
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run the model on these inputs: {short(error)}") from error

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


def built_graph(model: ir.Model, target: Target) -> onnx.GraphProto:
    """The graph that ONNX Runtime really builds, with its own optimizations; without large weights.

    Raises:
        ModelError: if ONNX Runtime does not load the model.
        RuntimeMissing: if ONNX Runtime or the provider is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        built = Path(folder) / "built.onnx"
        Session(model, target, save_as=built)
        return onnx.load(built, load_external_data=False).graph


def kernels(model: ir.Model, target: Target) -> dict[str, str]:
    """Node name to operator in the graph that ONNX Runtime really builds, with its own optimizations.

    A name that is missing is that of a node that was fused into another, or removed.

    Raises:
        ModelError: if ONNX Runtime does not load the model.
        RuntimeMissing: if ONNX Runtime or the provider is not installed.
    """
    return {re.sub(r"_token_\d+$", "", node.name): node.op_type for node in built_graph(model, target).node}


def _providers(target: Target, *, graph: bool) -> list[str | tuple[str, dict[str, str]]]:
    """What InferenceSession takes: the provider with its options, and the CPU behind it.

    Raises:
        RuntimeMissing: if something is missing to run there.
    """
    if not target.on_gpu:
        return [PROVIDERS[target.provider]]
    if missing := missing_gpu(target):
        raise RuntimeMissing(missing)
    own = {"device_id": str(target.device_id)} if target.device_id else {}  # said in words, it is warned about
    own |= {"enable_cuda_graph": "1"} if graph else {}
    return [(PROVIDERS[target.provider], {**target.provider_options, **own}), PROVIDERS["cpu"]]


def _run_options() -> Any:
    """Of a run whose inputs lie elsewhere each time: it neither captures a CUDA graph nor replays one."""
    options = onnxruntime().RunOptions()
    options.add_run_config_entry(GRAPH_ID, NO_GRAPH)
    return options


def _check_placed(session: Session, model: ir.Model | Path, *, optimize: bool) -> None:
    """Refuse what the target does not want, by the graph as it is really run.

    Raises:
        UsageError: if all nodes must be on the GPU and some are not, or a CUDA graph needs fixed shapes.
    """
    from onnxopt.runtime.fallback import require_gpu  # it loads models itself, to find out why

    target = session._target
    if target.require_gpu and optimize:
        require_gpu(model, target, session.placed)
    if target.cuda_graph and optimize:
        inputs = session._session.get_inputs()
        loose = next(((v.name, d) for v in inputs for d in v.shape if not _fixed(v.name, d, target)), None)
        if loose is not None:
            raise UsageError(
                f"--cuda-graph needs fixed shapes, and input {loose[0]!r} has the dimension {loose[1] or '?'!r}: "
                f"add --shape {loose[1] or loose[0]}=..."
            )


def _fixed(name: str, dimension: int | str | None, target: Target) -> bool:
    return isinstance(dimension, int) or name in target.shapes or dimension in target.shapes


def _no_graph(model: ir.Model | Path, target: Target, error: Exception) -> str:
    """Why no CUDA graph can be captured: nodes on the CPU, or what ONNX Runtime says."""
    from onnxopt.runtime.fallback import fallbacks, listed

    real = [one for one in fallbacks(model, target) if not one.deliberate]
    if real:
        return f"--cuda-graph needs all nodes on the GPU, and {listed(real)}"
    return f"--cuda-graph: ONNX Runtime cannot capture this model: {short(error)}"


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
    return f"ONNX Runtime does not load the model: {short(error)}"


def _foreign_domains(model: ir.Model) -> Collection[str]:
    own = {domain for domain, *_ in model.functions}
    return {
        node.domain
        for node in walk(model)
        if (node.domain not in KNOWN_DOMAINS | own and not node.domain.startswith("com.microsoft"))
        or node.domain == "com.microsoft.extensions"
    }
