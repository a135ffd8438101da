"""From a PyTorch module to a checked ONNX file: ``onnxopt export``. Start reading at ``export.py``."""
