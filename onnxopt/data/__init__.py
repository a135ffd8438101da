"""Samples for a model: opened from files, folders or a function, read lazily, split by a seed.

Two ways samples lie on axis 0 of an array, decided per input by rank:

- *batch axis*: the array has the input's rank; a feed is the slice ``x[i:j]``.
- *whole feeds*: the array has one axis more; each element ``x[i]`` is one complete feed
  (a scalar ``sr`` with data ``(n,)``, a state ``(2, 1, 128)`` with data ``(n, 2, 1, 128)``).
  One such input makes all batches size 1.
"""

from onnxopt.data.dataset import Batch, Dataset
from onnxopt.data.images import Preprocess
from onnxopt.data.opening import open_dataset
from onnxopt.data.spec import InputSpec
from onnxopt.data.synthetic import random_dataset

__all__ = ["Batch", "Dataset", "InputSpec", "Preprocess", "open_dataset", "random_dataset"]
