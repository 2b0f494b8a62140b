"""Which precision suits a target: what its processor and runtime do with int8, 16-bit floats and compressed weights."""
