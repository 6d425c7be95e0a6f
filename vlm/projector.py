"""The bridge from vision features to the language model's embedding space: Linear, GELU, Linear.

A learned table adds each feature's place in the image, because convolutional features carry none of their own and the
language model counts positions in one dimension only.
"""

import torch
from torch import nn


class Projector(nn.Module):
    """Maps vision features [N, T, D_vision] to embeddings [N, T, D_text].

    Args:
        vision_size, text_size: widths of the two sides.
        hidden_size: width between the two linear layers.
        num_tokens: features per image, T.
    """

    def __init__(self, vision_size: int, text_size: int, hidden_size: int, num_tokens: int):
        super().__init__()
        self.norm = nn.LayerNorm(vision_size)
        self.linear_1 = nn.Linear(vision_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, text_size)
        self.position = nn.Parameter(torch.zeros(num_tokens, text_size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.linear_1(self.norm(features)))
        return self.linear_2(hidden) + self.position  # [N, T, D_text]


def pool_grid(features: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Average squares of ``side`` x ``side`` neighbouring features: [N, h*w, D] to [N, ceil(h/side)*ceil(w/side), D].

    Squares at the right and bottom border average what is there.
    """
    if side == 1:
        return features
    maps = features.transpose(1, 2).unflatten(-1, grid)  # [N, D, h, w]
    pooled = nn.functional.avg_pool2d(maps, side, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2)
