"""Passes that keep equal and nearly equal weights once."""
