"""Quantization-aware training: an ONNX graph as a network whose weights and ranges are trained on their grids."""
