"""The gate for continuous integration: optimize, validate and time a declared list of models against baselines.

The road is ``run.py``; read that first. What is asked stands in ``onnxopt.toml`` (``config.py``), what came out
in ``results.py``, and every call to the rest of onnxopt in ``adapter.py``.
"""

from onnxopt.ci.config import Config, Entry, read
from onnxopt.ci.results import Outcome, Result
from onnxopt.ci.run import Choices, run

__all__ = ["Choices", "Config", "Entry", "Outcome", "Result", "read", "run"]
