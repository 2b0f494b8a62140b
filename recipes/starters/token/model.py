"""An embedding and a residual layer: logits [T, 2]."""

from torch import nn


class Net(nn.Module):
    """Looks at each token, and at the mean of all."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 2 * width), nn.LayerNorm(2 * width)
        self.up, self.down = nn.Linear(2 * width, 4 * width), nn.Linear(4 * width, 2 * width)
        self.head = nn.Linear(2 * width, 2)

    def forward(self, tokens, mask):
        """Return logits [N, T, 2] of tokens and mask [N, T]."""
        found = self.embed(tokens)
        weight = mask.to(found.dtype).unsqueeze(2)
        around = (found * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        found = found + around
        return self.head(found + self.down(self.up(self.norm(found)).relu()))


def build(width=16):
    """Return the network."""
    return Net(width)
