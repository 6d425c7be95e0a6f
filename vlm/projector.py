"""The bridge from vision features to the language model's embedding space: Linear, GELU, Linear, norm, place.

A learned table adds each feature's place in the image, because convolutional features carry none of their own and the
language model counts positions in one dimension only. The norm keeps features and places at one scale: without it the
features grew to a hundred times the places, and the language model could see what was shown but not look up where.
"""

import torch
from torch import nn

SCALE = 0.1  # root mean square of features and of places at the start: that of trained token embeddings


class Projector(nn.Module):
    """Maps vision features [N, T, D_vision] to embeddings [N, T, D_text].

    Args:
        vision_size, text_size: widths of the two sides.
        hidden_size: width between the two linear layers.
        grid: (h, w), rows and columns of features, T = h * w.
    """

    def __init__(self, vision_size: int, text_size: int, hidden_size: int, grid: tuple[int, int]):
        super().__init__()
        self.norm = nn.LayerNorm(vision_size)
        self.linear_1 = nn.Linear(vision_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, text_size)
        self.out_norm = nn.RMSNorm(text_size)
        nn.init.constant_(self.out_norm.weight, SCALE)
        # A code a row plus a code a column, so that "the top row" is one direction from the first step on.
        rows, columns = (torch.randn(n, text_size) for n in grid)
        self.position = nn.Parameter(SCALE / 2**0.5 * (rows[:, None] + columns[None]).flatten(0, 1))  # [T, D_text]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.linear_1(self.norm(features)))
        return self.out_norm(self.linear_2(hidden)) + self.position  # [N, T, D_text]


def pool_grid(features: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Average squares of ``side`` x ``side`` neighbouring features: [N, h*w, D] to [N, ceil(h/side)*ceil(w/side), D].

    Squares at the right and bottom border average what is there.
    """
    if side == 1:
        return features
    maps = features.transpose(1, 2).unflatten(-1, grid)  # [N, D, h, w]
    pooled = nn.functional.avg_pool2d(maps, side, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2)


def pooled_count(grid: tuple[int, int], side: int) -> int:
    """How many features `pool_grid` leaves of a grid (h, w)."""
    height, width = grid
    return -(-height // side) * -(-width // side)
