"""Exports to ONNX and OpenVINO, and the parity check of what was written."""
