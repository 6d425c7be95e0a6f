"""The bridge from vision features to the language model's embedding space: Linear, GELU, Linear, norm, place.

A learned table adds each feature's place in the image, because convolutional features carry none of their own and the
language model counts positions in one dimension only. The norm keeps features and places at one scale: without it the
features grew to a hundred times the places, and the language model could see what was shown but not look up where.

A picture that keeps its shape has a map of features that is not the table's grid. The table is then stretched over the
map, so that "the top row" is the same direction in every shape, and over all tiles together, which one picture are.
"""

import torch
from torch import nn

from vision_encoders import Plan

SCALE = 0.1  # root mean square of features and of places at the start: that of trained token embeddings


class Projector(nn.Module):
    """Maps vision features [N, T, D_vision] to embeddings [N, T, D_text].

    Args:
        vision_size, text_size: widths of the two sides.
        hidden_size: width between the two linear layers.
        grid: (h, w), rows and columns of features, T = h * w.
        newline: whether there is a token that ends a row of tiles' features.
    """

    def __init__(
        self, vision_size: int, text_size: int, hidden_size: int, grid: tuple[int, int], newline: bool = False
    ):
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(vision_size)
        self.linear_1 = nn.Linear(vision_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, text_size)
        self.out_norm = nn.RMSNorm(text_size)
        nn.init.constant_(self.out_norm.weight, SCALE)
        # A code a row plus a code a column, so that "the top row" is one direction from the first step on.
        rows, columns = (torch.randn(n, text_size) for n in grid)
        self.position = nn.Parameter(SCALE / 2**0.5 * (rows[:, None] + columns[None]).flatten(0, 1))  # [T, D_text]
        self.newline = nn.Parameter(SCALE * torch.randn(text_size)) if newline else None  # [D_text]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.project(features) + self.position  # [N, T, D_text]

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings [N, T, D_text] without their places."""
        hidden = nn.functional.gelu(self.linear_1(self.norm(features)))
        return self.out_norm(self.linear_2(hidden))

    def arrange(self, views: torch.Tensor, plan: Plan) -> torch.Tensor:
        """One picture's tokens [T, D_text] from its views' projected features [V, h * w, D_text], in reading order."""
        whole = (views[0] + self.places(plan.shape)).unsqueeze(0)  # [1, h * w, D_text]
        tokens = pool_grid(whole, plan.shape, plan.merge)[0]
        return tokens if plan.tiles is None else torch.cat([tokens, self._tiles(views[1:], plan)])

    def places(self, shape: tuple[int, int]) -> torch.Tensor:
        """The table stretched over a map of features of this shape, [rows * columns, D_text]."""
        if shape == self.grid:
            return self.position
        table = self.position.T.unflatten(-1, self.grid).unsqueeze(0)  # [1, D_text, h, w]
        stretched = nn.functional.interpolate(table, shape, mode="bilinear", align_corners=False)
        return stretched[0].flatten(1).T

    def _tiles(self, views: torch.Tensor, plan: Plan) -> torch.Tensor:
        """The tiles joined, without what only fills them up, at most as many as planned: [T, D_text]."""
        tiles = plan.tiles
        cells = views.unflatten(0, tiles.grid).unflatten(2, plan.shape)  # [R, C, h, w, D_text]
        joined = cells.permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)  # [D_text, R * h, C * w]
        top, left = ((whole - kept) // 2 for whole, kept in zip(joined.shape[1:], tiles.kept))
        shown = joined[:, top : top + tiles.kept[0], left : left + tiles.kept[1]]
        if tiles.shape != tiles.kept:
            shown = nn.functional.interpolate(shown.unsqueeze(0), tiles.shape, mode="bilinear", align_corners=False)[0]
        lines = (shown.flatten(1).T + self.places(tiles.shape)).unflatten(0, tiles.shape)  # [h, w, D_text]
        if tiles.newline:
            lines = torch.cat([lines, self.newline.expand(len(lines), 1, -1)], 1)
        return lines.flatten(0, 1)


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
