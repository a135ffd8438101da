"""Layers written as layers of another kind, where that is faster. Read ``convert_layer.py`` first."""
