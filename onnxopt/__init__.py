"""onnxopt: a post-training optimizer for ONNX models that keeps a step only if a measurement says so."""

__version__ = "0.1.0"
