"""Where the letters of a picture stand on a grid of slots, finer than a tower's features: what its warm-up is told.

The deciding choice: two labels. The slot of a letter's middle tells letters in a row apart, also two of the same; all
slots that a letter covers tell a tower what a large one is wherever it looks at it.
"""

import string

import numpy as np
from PIL.ImageFont import FreeTypeFont

GLYPHS = string.ascii_letters + string.digits + ".,:"
SUBROWS, SUBCOLUMNS = 2, 6  # a cell's slots: at 32 px a cell the narrowest letters still get one each
SLOTS = SUBROWS * SUBCOLUMNS
HALF = 0.35  # em: half of a capital's height


class Letters:
    """The letters of a picture by slot: where the middle of each is, and all that each covers."""

    def __init__(self, grid: tuple[int, int], width: int, height: int, face: FreeTypeFont):
        self.grid, self.face = grid, face
        self.size = grid[0] * SUBROWS, grid[1] * SUBCOLUMNS
        self.scale = self.size[0] / height, self.size[1] / width  # slots a pixel
        self.middles, self.covers = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)

    def write(self, text: str, x: float, y: float) -> None:
        """``text`` drawn from ``x`` on, its middle at height ``y``."""
        ends = [x + self.face.getlength(text[:i]) for i in range(len(text) + 1)]
        for left, right, glyph in zip(ends, ends[1:], text, strict=False):
            if glyph in GLYPHS:
                self._letter(1 + GLYPHS.index(glyph), left, right, y)

    def _letter(self, label: int, left: float, right: float, y: float) -> None:
        row, column = int(y * self.scale[0]), int((left + right) / 2 * self.scale[1])
        row, column = min(row, self.size[0] - 1), min(column, self.size[1] - 1)
        self.middles[row, column] = label
        half = HALF * self.face.size
        rows = slice(max(0, round((y - half) * self.scale[0])), round((y + half) * self.scale[0]))
        self.covers[rows, max(0, round(left * self.scale[1])) : round(right * self.scale[1])] = label
        self.covers[row, column] = label

    def labels(self) -> dict[str, np.ndarray]:
        """By name of label, int64 [h * w, slots]."""
        return {"glyph": self._cells(self.middles), "cover": self._cells(self.covers)}

    def _cells(self, found: np.ndarray) -> np.ndarray:
        cells = found.reshape(self.grid[0], SUBROWS, self.grid[1], SUBCOLUMNS).transpose(0, 2, 1, 3)
        return cells.reshape(self.grid[0] * self.grid[1], -1)
