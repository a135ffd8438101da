"""Weights as codes into small tables of values, which ONNX Runtime decodes while it loads the model."""
