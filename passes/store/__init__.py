"""Passes that store weights in fewer bytes."""
