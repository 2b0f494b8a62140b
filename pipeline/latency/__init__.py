"""What the commands compare, gate and doctor do: questions about latency, answered by `pipeline.measure`."""
