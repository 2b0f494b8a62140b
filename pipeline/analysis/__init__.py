"""What an exported file consists of and does, layer by layer: precision, noise, times, operations."""
