"""The samples of a run, by use: calibration, held-out, checks."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.data import open_dataset
from onnxopt.errors import UsageError
from onnxopt.gate import Gate
from onnxopt.metrics import Metric, find_metric
from onnxopt.options import Options
from onnxopt.runtime import input_specs
from onnxopt.samples import Samples, random_samples, with_state

CALIBRATION_SHARE = 0.3
"""Of the data, where no evaluation data are given; the rest is held out."""
CALIBRATION_SAMPLES = 512
"""At most; more do not move ranges, and pruned layers are hardly better refitted (facts/pruning.md)."""
CHECK_SAMPLES = 4
"""On which the outputs before and after an exact pass are compared."""


@dataclass(frozen=True)
class Given:
    """The samples of a run, by use.

    Attributes:
        calibration: what passes may look at.
        held_out: what only the gate sees.
        checks: on which outputs are compared, and time is measured.
        metric: None where there are no data.
        about: where they came from.
    """

    calibration: Samples | None
    held_out: Samples | None
    checks: Samples
    metric: Metric | None
    about: str

    def notes(self) -> list[str]:
        """What the reader of a number must know about the samples behind it."""
        if self.held_out is None:
            return ["No data were given: only exact passes ran, and no accuracy was measured."]
        notes = []
        if self.calibration is None:
            notes.append("No calibration data (--data) were given: passes that need them did nothing.")
        elif self.calibration.data.source is self.held_out.data.source:
            count = len(self.held_out)
            notes.append(f"Accuracy is on {count} samples held out from --data; none of them was calibrated on.")
        return notes

    def gate(self, model: ir.Model, options: Options) -> Gate | None:
        """The accuracy gate; None where there are no data."""
        if self.held_out is None or self.metric is None:
            return None
        return Gate(model, self.metric, self.held_out, options.limits, options.target, options.seed)


def gather(model: ir.Model, options: Options) -> Given:
    """Open the data, or make random inputs where there are none.

    Raises:
        DataError: if the data cannot be read, or fit neither model nor metric.
        UsageError: for an unknown metric, or one without data.
        ModelError: if no random input fits the model.
    """
    if not options.data and not options.eval_data:
        if options.metric:
            raise UsageError("--metric needs data to measure it on: add --data or --eval-data")
        checks = random_samples(model, options.target, options.state, count=CHECK_SAMPLES, seed=options.seed)
        return Given(None, None, checks, None, "none: random inputs for the checks")
    opened = [_open(model, path, options) for path in (options.data, options.eval_data) if path]
    judged = opened[-1].data
    metric = find_metric(options.metric, judged.has_labels, class_labels=judged.has_class_labels)
    opened = [samples.grouped(metric.group) for samples in opened]
    about = "; ".join(samples.data.about for samples in opened)
    if options.data and options.eval_data:
        calibration, held_out = opened
    elif options.data:
        calibration, held_out = opened[0].split(CALIBRATION_SHARE, options.seed)
    else:
        return Given(None, opened[0], opened[0].take(CHECK_SAMPLES), metric, f"{about}; no calibration data")
    calibration = calibration.take(CALIBRATION_SAMPLES)
    return Given(calibration, held_out, calibration.take(CHECK_SAMPLES), metric, about)


def _open(model: ir.Model, path: str, options: Options) -> Samples:
    data = open_dataset(path, input_specs(model), preprocess=options.preprocess, optional=options.state)
    return with_state(data, model, options.state)
