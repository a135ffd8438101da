"""Passes that make one operator out of several."""
