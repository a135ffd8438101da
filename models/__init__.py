"""Networks in PyTorch, their training and export, and the small trained network that ships with onnxopt."""
