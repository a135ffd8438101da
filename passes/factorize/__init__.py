"""Passes that write a linear layer as several of low rank, and several as one."""
