"""What a training run is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from onnxopt.core import suggestion
from onnxopt.errors import UsageError
from onnxopt.models.training.augment import FLIPS
from onnxopt.models.training.optimizers import OPTIMIZERS, Phase, parse
from onnxopt.models.training.schedules import SCHEDULES


@dataclass(frozen=True)
class Settings:
    """The recipe; each field is an option of the command line.

    Raises:
        UsageError: a word that is not known, or a number out of its range.
    """

    epochs: int = field(default=16, metadata={"help": "passes over the training samples"})
    batch: int = field(default=32, metadata={"help": "samples per step"})
    optimizer: str = field(
        default="adamw",
        metadata={"help": f"{', '.join(OPTIMIZERS)}; or some with their shares of the steps, adam:0.8,sgd:0.2@0.01"},
    )
    learning_rate: float | None = field(
        default=None, metadata={"type": float, "help": "the highest (default: the optimizer's own)"}
    )
    weight_decay: float | None = field(
        default=None, metadata={"type": float, "help": "of all optimizers (default: the optimizer's own)"}
    )
    schedule: str = field(default="cosine", metadata={"help": f"of the learning rate: {', '.join(SCHEDULES)}"})
    warmup: float = field(default=0.0, metadata={"help": "share of the steps in which the learning rate rises"})
    rotation: float = field(default=10.0, metadata={"help": "augmentation: degrees to either side"})
    shift: float = field(default=2.0, metadata={"help": "augmentation: pixels to each side"})
    crop: float = field(default=0.0, metadata={"help": "augmentation: share of the area, at most, that is cut away"})
    flip: str = field(default="none", metadata={"help": f"augmentation: {', '.join(FLIPS)}"})
    subset: float = field(default=1.0, metadata={"help": "share of the training samples, of each class alike"})
    seed: int = field(default=0, metadata={"help": "of weights, order, augmentation and subset; not of the split"})
    threads: int = field(default=1, metadata={"help": "of PyTorch; another number gives other bits"})

    def __post_init__(self) -> None:
        """Check now what would show only after minutes."""
        check_word("schedule", self.schedule, SCHEDULES)
        check_word("flip", self.flip, FLIPS)
        for rule, holds in self._rules().items():
            if not holds:
                raise UsageError(rule)
        _ = self.phases

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The optimizers of the run, one after the other."""
        return parse(self.optimizer, self.learning_rate, self.weight_decay)

    def _rules(self) -> dict[str, bool]:
        """Sentences, and whether they are true."""
        return {
            "--epochs is 1 or more": self.epochs >= 1,
            "--batch is 1 or more": self.batch >= 1,
            "--threads is 1 or more": self.threads >= 1,
            "--seed is 0 or more": self.seed >= 0,
            "--learning-rate is over 0": self.learning_rate is None or 0 < self.learning_rate < math.inf,
            "--weight-decay is 0 or more": self.weight_decay is None or 0 <= self.weight_decay < math.inf,
            "--rotation is 0 or more": 0 <= self.rotation < math.inf,
            "--shift is 0 or more": 0 <= self.shift < math.inf,
            "--warmup is a share of the steps: 0 or more, under 1": 0 <= self.warmup < 1,
            "--crop is a share of the image: 0 or more, under 1": 0 <= self.crop < 1,
            "--subset is a share of the samples: over 0, at most 1": 0 < self.subset <= 1,
            "one-cycle rises by itself: leave out --warmup": self.schedule != "one-cycle" or not self.warmup,
        }


def check_word(what: str, word: str, known: Iterable[str]) -> None:
    """Let only a known word pass.

    Raises:
        UsageError: with the nearest known word.
    """
    if word not in known:
        raise UsageError(f"there is no {what} {word!r}{suggestion(word, known)}")
