"""How fast model files run: each alone, against the first of them, in several streams, and freshly loaded.

``measure(paths, options)`` returns a value; ``judged`` says which of its numbers miss a limit, ``against`` holds it
against a stored one, and ``write`` writes it as JSON, Markdown, JUnit XML or the array that the common benchmark
action reads.
"""

from onnxopt.speed.baseline import Baseline, Stored, against, stored
from onnxopt.speed.forms import FORMS, form_of, write
from onnxopt.speed.gates import Failure, Gates, judged
from onnxopt.speed.measuring import measure
from onnxopt.speed.options import Options, Setting
from onnxopt.speed.result import VERSION, Measurement, ModelFile, Speed

__all__ = [
    "FORMS",
    "VERSION",
    "Baseline",
    "Failure",
    "Gates",
    "Measurement",
    "ModelFile",
    "Options",
    "Setting",
    "Speed",
    "Stored",
    "against",
    "form_of",
    "judged",
    "measure",
    "stored",
    "write",
]
