"""Handwritten digits, 32x32, in three parts: training, calibration, held out.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998;
the 1,797 images of 8x8 pixels and 17 grey levels that scikit-learn carries (`load_digits`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
CALIBRATION = 128
HELD_OUT = 512


@dataclass(frozen=True)
class Samples:
    """Images and what they show.

    Attributes:
        image: float32 ``[samples, 1, 32, 32]``, standardised.
        labels: int64 ``[samples]``, 0 to 9.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, share: float, seed: int) -> Samples:
        """The same share of each class, drawn at random and at least one; all samples for a share of 1."""
        random = np.random.default_rng(seed)
        classes = [random.permutation(np.flatnonzero(self.labels == label)) for label in np.unique(self.labels)]
        chosen = np.sort(np.concatenate([part[: max(1, round(share * len(part)))] for part in classes]))
        return Samples(self.image[chosen], self.labels[chosen])

    def save(self, path: Path) -> None:
        """Write a compressed npz whose arrays are named `image` and `labels`."""
        np.savez_compressed(path, image=self.image, labels=self.labels)


@dataclass(frozen=True)
class Digits:
    """The three parts; no sample is in two of them.

    Only `train` is trained on. The other two are shipped, so that neither calibration nor the
    measured accuracy can profit from what the network learned by heart. `mirrors` says whether a
    mirror image shows the same as the image.
    """

    train: Samples
    calibration: Samples
    held_out: Samples
    mirrors: bool = False


def load(seed: int = 0, standardise: str = "dataset") -> Digits:
    """Load, upscale, split and standardise; needs scikit-learn.

    The split is stratified (each part has all digits in the same proportion) and depends on
    `seed` alone. `standardise` is a word of `STANDARDISE`.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    levels = np.stack([upscale(image) for image in source.images])[:, None]
    parts = split(source.target, seed)
    image = STANDARDISE[standardise](levels, parts[0]).astype(np.float32)
    labels = source.target.astype(np.int64)
    train, calibration, held_out = (Samples(image[part], labels[part]) for part in parts)
    return Digits(train, calibration, held_out)


def by_dataset(levels: NDArray[np.uint8], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean 0 and deviation 1 over all pixels of the training part: one number each for all images."""
    mean, deviation = levels[train].mean(), levels[train].std()
    return np.asarray((levels - mean) / deviation)


def by_image(levels: NDArray[np.uint8], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean 0 and deviation 1 over the pixels of each image."""
    pixels = (1, 2, 3)
    mean, deviation = levels.mean(pixels, keepdims=True), levels.std(pixels, keepdims=True)
    return np.asarray((levels - mean) / deviation)


def as_they_are(levels: NDArray[np.uint8], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """The grey levels, 0 to 16."""
    return levels.astype(np.float64)


STANDARDISE = {"dataset": by_dataset, "image": by_image, "none": as_they_are}


def upscale(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Enlarge ``[8, 8]`` to ``[32, 32]``, bilinear, rounded to whole grey levels 0 to 16.

    Whole levels leave 17 different numbers, which a compressed npz holds in a third of the space.
    """
    small = Image.fromarray(image.astype(np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def split(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], ...]:
    """Return the sample numbers of training, calibration and held-out part."""
    from sklearn.model_selection import train_test_split

    rest, held_out = train_test_split(np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=seed)
    train, calibration = train_test_split(rest, test_size=CALIBRATION, stratify=labels[rest], random_state=seed)
    return train, calibration, held_out
