"""An exported model in ONNX Runtime: loading, sessions, caches, speed."""
