"""Compression methods as pure functions: pruning and training of torch networks, quantization of ONNX graphs.

`state/` is what a torch network holds beside its state_dict.
"""
