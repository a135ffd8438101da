"""Rounding that looks at what the layers read."""
