"""Where int8 pays: what kernels cost, and what they lose."""
