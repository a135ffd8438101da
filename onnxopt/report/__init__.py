"""The report of one optimization: a value, its forms as JSON, Markdown and HTML, and what is stored read back."""

from onnxopt.report.details import Details, collect
from onnxopt.report.layerwise import Layer, Layers
from onnxopt.report.origin import Origin
from onnxopt.report.value import VERSION, Report, Summary
from onnxopt.report.writing import FORMS, check_form, write, write_content

__all__ = [
    "FORMS",
    "VERSION",
    "Details",
    "Layer",
    "Layers",
    "Origin",
    "Report",
    "Summary",
    "check_form",
    "collect",
    "write",
    "write_content",
]
