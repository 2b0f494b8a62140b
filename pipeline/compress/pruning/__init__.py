"""Channels, heads and blocks that leave a torch network: found on its graph, removed, and certified."""
