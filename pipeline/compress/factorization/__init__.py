"""Low rank: a layer as two or three thinner ones, with the least error in its output."""
