"""What may be asked of an optimization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxopt.gate import Limits
from onnxopt.pipeline import MAX_SLOWDOWN, Goal
from onnxopt.stages import Stage
from onnxopt.target import Target


@dataclass(frozen=True)
class Options:
    """All of it; every field has a default that suits most.

    Attributes:
        data: calibration data (and evaluation data, held out from it, unless ``eval_data`` is given).
        eval_data: data used for nothing but measuring accuracy.
        preprocess: how images become inputs (see ``onnxopt.data``).
        metric: name of the accuracy metric; None takes top-1 where there are labels, else agreement.
        limits: what the accuracy gate asks.
        goal: what lossy passes must improve.
        target: where the model will run.
        state: state input name to the output that feeds it.
        passes: in place of the default recipe.
        time_limit: seconds after which the best model so far is the result.
        seed: of every random choice.
        force: allow the output to replace the input.
        allow_contrib: allow operators that only ONNX Runtime has (domain com.microsoft).
        max_slowdown: with the goal of size, how many times as long as the original's a run may take.
        prune: also search how many channels can go; not with ``passes``, which say so themselves.
        details: also find out what a report shows of each layer and of memory, which takes some seconds.
    """

    data: str | None = None
    eval_data: str | None = None
    preprocess: str | None = None
    metric: str | None = None
    limits: Limits = field(default_factory=Limits)
    goal: Goal = Goal.LATENCY
    target: Target = field(default_factory=Target)
    state: Mapping[str, str] = field(default_factory=dict)
    passes: Sequence[Stage] | None = None
    time_limit: float | None = None
    seed: int = 0
    force: bool = False
    allow_contrib: bool = False
    max_slowdown: float = MAX_SLOWDOWN
    prune: bool = False
    details: bool = False

    def command(self, source: str, output: str) -> tuple[str, ...]:
        """The words of a command line that asks for the same; it says all that is not the default."""
        usual = Options()
        target, limits = self.target, self.limits
        given: list[tuple[str, Any, Any]] = [
            ("--data", self.data, None),
            ("--eval-data", self.eval_data, None),
            ("--preprocess", self.preprocess, None),
            ("--metric", self.metric, None),
            ("--max-drop", limits.max_drop, usual.limits.max_drop),
            ("--min-score", limits.min_score, None),
            ("--confidence", limits.confidence if limits.strict_interval else None, None),
            ("--goal", self.goal.value, usual.goal.value),
            ("--max-slowdown", self.max_slowdown, usual.max_slowdown),
            ("--provider", target.provider, usual.target.provider),
            ("--device-id", target.device_id, usual.target.device_id),
            ("--threads", target.threads, usual.target.threads),
            ("--time-limit", self.time_limit, None),
            ("--seed", self.seed, usual.seed),
        ]
        several = [("--state", f"{name}={fed}") for name, fed in self.state.items()]
        several += [("--shape", f"{name}={'x'.join(map(str, s)) or 'scalar'}") for name, s in target.shapes.items()]
        several += [("--input-range", f"{name}={low}:{high}") for name, (low, high) in target.ranges.items()]
        several += [("--provider-option", f"{name}={value}") for name, value in target.provider_options.items()]
        several += [("--pass", str(stage)) for stage in self.passes or ()]
        flags = {
            "--prune": self.prune,
            "--allow-contrib": self.allow_contrib,
            "--force": self.force,
            "--cuda-graph": target.cuda_graph,
            "--require-gpu": target.require_gpu,
        }
        words = [f"{name}={value}" for name, value, default in given if value != default]
        words += [f"{name}={value}" for name, value in several]
        words += [name for name, is_set in flags.items() if is_set]
        return ("onnxopt", "optimize", f"--output={output}", *words, "--", source)
