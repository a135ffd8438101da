"""Passes that compute in integers."""
