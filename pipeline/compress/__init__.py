"""Methods on torch networks: pure functions of modules and tensors, no configuration, no files."""
