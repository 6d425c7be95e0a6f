"""How much of a picture's own resolution an encoder sees: what becomes of it, from its width and height alone.

- ``squash``, ``pad``: one square of the config's size.
- ``anyres`` (LLaVA-NeXT, LLaVA-OneVision): the whole as such a square, then the picture at a higher resolution, cut
  into a grid of squares. The grid is the one that shows most of the picture's pixels and wastes least; it is filled up
  around the picture, and features that show only filling are left out again. Features of more than ``max_tiles``
  tiles are averaged down to as many.
- ``dynamic`` (Qwen-VL): both sides rounded to whole patches, the area between ``min_pixels`` and ``max_pixels``.

The deciding choice: a plan is a pure function of numbers. So buckets, packs and token counts know a picture's tokens
before one pixel is read, and what prepares its pixels and what arranges its features cannot disagree.

Sizes are (width, height) in pixels, as Pillow has them; shapes and grids are (rows, columns).
"""

from dataclasses import dataclass
from math import ceil, floor, sqrt

from vision_encoders.config import VisionConfig

Pair = tuple[int, int]
SHRINK = 1.1  # features are averaged down only where that makes their map smaller by more than this a side


@dataclass(frozen=True)
class Tiles:
    """The tiles of a picture.

    Attributes:
        grid: how they lie.
        inner: size of the picture in the middle of them.
        kept: shape of the middle of their joined features that shows the picture.
        shape: what that is averaged down to.
        newline: whether a token ends every row.
    """

    grid: Pair
    inner: Pair
    kept: Pair
    shape: Pair
    newline: bool

    @property
    def tokens(self) -> int:
        return self.shape[0] * (self.shape[1] + self.newline)


@dataclass(frozen=True)
class Plan:
    """What becomes of one picture.

    Attributes:
        view: size of every view.
        shape: features of the view that shows the whole.
        merge: side of the squares of these that become one token.
        tiles: the other views.
    """

    view: Pair
    shape: Pair
    merge: int = 1
    tiles: Tiles | None = None

    @property
    def views(self) -> int:
        return 1 + (self.tiles.grid[0] * self.tiles.grid[1] if self.tiles else 0)

    @property
    def tokens(self) -> int:
        whole = ceil(self.shape[0] / self.merge) * ceil(self.shape[1] / self.merge)
        return whole + (self.tiles.tokens if self.tiles else 0)


def plan(size: Pair, config: VisionConfig, side: int) -> Plan:
    """The plan for a picture of this size.

    Args:
        size: of the picture, upright.
        config: whose ``fit`` and its settings say what to do.
        side: features along a side of a square of ``config.image_size`` pixels.

    Raises:
        ValueError: for a size without pixels.
    """
    if min(size) < 1:
        raise ValueError(f"a picture of {size[0]} x {size[1]} pixels has none")
    square = (config.image_size,) * 2
    if config.fit == "dynamic":
        stride = config.image_size // side
        view = dynamic_size(size, stride * config.merge, config.min_pixels, config.max_pixels)
        return Plan(view, (view[1] // stride, view[0] // stride), config.merge)
    return Plan(square, (side, side), tiles=_tiles(size, config, side) if config.fit == "anyres" else None)


def dynamic_size(size: Pair, unit: int, fewest: int, most: int) -> Pair:
    """The size nearest to ``size`` whose sides are multiples of ``unit`` and whose area is between the limits.

    Nothing is smaller than one unit or larger than ``most``, if that holds one; where no such size of that shape lies
    above ``fewest``, the area is below it.
    """
    width, height = (max(1, round(side / unit)) for side in size)
    area, room = size[0] * size[1], max(1, most // unit**2)
    if width * height > room:
        width, height = _within(size, unit, sqrt(area / most), room)
    elif width * height * unit**2 < fewest:
        grow = sqrt(fewest / area)
        width, height = (ceil(side * grow / unit) for side in size)
        if width * height > room:
            width, height = _within(size, unit, 1 / grow, room)
    return width * unit, height * unit


def _within(size: Pair, unit: int, shrink: float, room: int) -> Pair:
    """Whole units of a shrunk size; a strip of one unit across gets no longer than there is room for."""
    width, height = (max(1, floor(side / shrink / unit)) for side in size)
    return min(width, room // min(height, room)), min(height, room)


def best_grid(size: Pair, side: int, max_grid: int) -> Pair:
    """The grid of squares of ``side`` pixels that shows most of a picture's pixels; of several, the smallest.

    Pixels beyond the picture's own are not shown ones: a small picture gets a small grid.
    """
    grids = [(rows, columns) for rows in range(1, max_grid + 1) for columns in range(1, max_grid + 1)]

    def merit(grid: Pair) -> Pair:
        width, height = (max(1, int(length * _scale(size, grid, side))) for length in size)
        shown = min(width * height, _area(size))
        return shown, shown - _area(grid) * side**2

    return max(grids, key=merit)


def _tiles(size: Pair, config: VisionConfig, side: int) -> Tiles:
    grid = best_grid(size, config.image_size, config.max_grid)
    joined = (grid[0] * side, grid[1] * side)
    kept = _unpadded(size, joined)
    scale, canvas = _scale(size, grid, config.image_size), (grid[1] * config.image_size, grid[0] * config.image_size)
    inner = (min(ceil(size[0] * scale), canvas[0]), min(ceil(size[1] * scale), canvas[1]))
    return Tiles(grid, inner, kept, _averaged(kept, config.max_tiles * side**2), config.newline)


def _scale(size: Pair, grid: Pair, side: int) -> float:
    """By how much the picture grows to fill the grid in one direction."""
    return min(grid[1] * side / size[0], grid[0] * side / size[1])


def _unpadded(size: Pair, joined: Pair) -> Pair:
    """The middle of the joined features that shows the picture: as much is cut off on both sides, never all."""
    (rows, columns), (width, height) = joined, size
    if width / height > columns / rows:
        margin = (rows - int(round(height * columns / width, 7))) // 2
        return rows - 2 * min(margin, (rows - 1) // 2), columns
    margin = (columns - int(round(width * rows / height, 7))) // 2
    return rows, columns - 2 * min(margin, (columns - 1) // 2)


def _averaged(shape: Pair, most: int) -> Pair:
    """The shape that holds about ``most`` features at most."""
    ratio = sqrt(_area(shape) / most)
    if ratio <= SHRINK:
        return shape
    return max(1, int(shape[0] // ratio)), max(1, int(shape[1] // ratio))


def _area(pair: Pair) -> int:
    return pair[0] * pair[1]
