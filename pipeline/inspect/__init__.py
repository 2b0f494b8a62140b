"""What a network or an exported file is, for `secateur inspect`."""
