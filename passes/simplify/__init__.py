"""Passes that tidy a model: fewer nodes, the same outputs."""
