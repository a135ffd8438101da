"""Positive factors that can be moved through a graph."""
