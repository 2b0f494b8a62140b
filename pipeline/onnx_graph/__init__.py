"""Reading an ONNX graph: the file, and which node produces and which consume each value."""
