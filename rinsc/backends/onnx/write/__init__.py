"""A block graph as an ONNX model: its nodes, its weights, its files."""
