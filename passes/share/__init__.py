"""Passes that keep equal weights once."""
