"""An ONNX graph as a torch module, operator by operator, for methods that need gradients."""
