"""Squares of 4 x 4: all Latin squares, all sudoku solutions, and sudokus that have one solution only.

The deciding choice: a small solver that finds every completion of a square is all there is. It lists the 576 Latin
squares and the 288 sudoku solutions to draw from, and it proves of each sudoku that its solution is the only one.
A square is a tuple of 16 digits 1 to 4, row by row; 0 is an empty cell.
"""

import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

import numpy as np

from data_pipelines.playground.base import Split, pick

Square = tuple[int, ...]

SIDE = 4
DIGITS = range(1, SIDE + 1)
MOST_BLANKS = 8  # cells that can be emptied of any solution with one solution left: half of them
SYMBOLS = "ACEFHJKLMNPRTUVWXY34679"  # no two look alike


def completions(square: Square, boxes: bool) -> Iterator[Square]:
    """Every way to fill the empty cells with no digit twice in a row or column, or (``boxes``) in a 2 x 2 box.

    The filled cells are taken to agree among themselves.
    """
    if 0 not in square:
        yield square
        return
    at = square.index(0)
    taken = {square[peer] for peer in _peers(at, boxes)}
    for digit in DIGITS:
        if digit not in taken:
            yield from completions((*square[:at], digit, *square[at + 1 :]), boxes)


def is_unique(square: Square) -> bool:
    """Whether a sudoku has exactly one solution."""
    return len(list(islice(completions(square, boxes=True), 2))) == 1


def sudoku(rng: np.random.Generator, split: Split, blanks: int) -> tuple[Square, Square]:
    """A sudoku of one solution with ``blanks`` empty cells (1 to `MOST_BLANKS`), and the solution."""
    solution = pick(rng, _solutions(split))
    while True:
        square, empty = solution, 0
        for at in rng.permutation(SIDE * SIDE).tolist():
            emptied = (*square[:at], 0, *square[at + 1 :])
            if is_unique(emptied):
                square, empty = emptied, empty + 1
            if empty == blanks:
                return square, solution


def latin_square(rng: np.random.Generator) -> Square:
    """Any Latin square, each with equal chance."""
    return pick(rng, _all(boxes=False))


def symbols(rng: np.random.Generator, split: Split) -> list[str]:
    """Four different letters or digits to fill a Latin square with, in random order."""
    while True:
        chosen = [SYMBOLS[i] for i in rng.permutation(len(SYMBOLS))[:SIDE].tolist()]
        if kept("".join(sorted(chosen))) == (split == "heldout"):
            return chosen


def kept(text: str) -> bool:
    """Whether a set of symbols, or the digits of a sudoku's solution, is seen in the held-out split only."""
    return zlib.crc32(text.encode()) % 4 == 0


def rows_of(square: Square) -> list[Square]:
    return [square[start : start + SIDE] for start in range(0, SIDE * SIDE, SIDE)]


@lru_cache
def _all(boxes: bool) -> list[Square]:
    return list(completions((0,) * (SIDE * SIDE), boxes))


@lru_cache
def _solutions(split: Split) -> list[Square]:
    return [square for square in _all(boxes=True) if kept("".join(map(str, square))) == (split == "heldout")]


@lru_cache
def _peers(at: int, boxes: bool) -> list[int]:
    """The cells that may not hold what cell ``at`` holds."""
    row, column = divmod(at, SIDE)
    cells = [divmod(other, SIDE) for other in range(SIDE * SIDE)]
    sees = [r == row or c == column or (boxes and (r // 2, c // 2) == (row // 2, column // 2)) for r, c in cells]
    return [other for other in range(SIDE * SIDE) if sees[other] and other != at]
