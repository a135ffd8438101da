"""What computes in int8, and how that is written into a graph."""
