"""Squares of 4 x 4 in an answer: how they are read, and whether they are Latin squares or solve a sudoku.

The deciding choice: both are judged by their rules. Any Latin square of the symbols is right; and since a sudoku here
has one solution only, keeping the givens and the rules is the same as being that solution.
"""

import re
from collections.abc import Sequence

Rows = list[list[str]]

SIDE = 4
_LINE = re.compile(r"[0-9A-Z](?: [0-9A-Z]){3}")


def square_in(answer: str) -> Rows | None:
    """The rows of an answer in the form asked for, four lines of four capitals or digits; None if it is not."""
    lines = answer.strip().split("\n")
    return [line.split(" ") for line in lines] if len(lines) == SIDE and all(map(_LINE.fullmatch, lines)) else None


def loose_square_in(answer: str) -> Rows | None:
    """The last four rows in an answer, in capitals, however they are bracketed, ruled or separated; None without four.

    A row ends with its line, a semicolon, a slash or a closing bracket. Other text may stand around. Rows without
    anything between their cells count where there are no others: a word of four letters looks like one.
    """
    pieces = [re.findall(r"\w+", piece.upper()) for piece in re.split(r"[\n;/\]]", answer)]
    spaced = [piece for piece in pieces if len(piece) == SIDE and all(len(cell) == 1 for cell in piece)]
    together = [list(piece[0]) for piece in pieces if len(piece) == 1 and len(piece[0]) == SIDE]
    return next((rows[-SIDE:] for rows in (spaced, together) if len(rows) >= SIDE), None)


def is_latin_square(rows: Rows | None, symbols: Sequence[str]) -> bool:
    """Whether every row and every column holds each of four different symbols."""
    return rows is not None and all(sorted(group) == sorted(symbols) for group in [*rows, *zip(*rows)])


def solves_sudoku(rows: Rows | None, given: Sequence[int]) -> bool:
    """Whether rows, columns and boxes hold 1 to 4 and the given digits are kept.

    Args:
        given: 16 digits row by row, 0 where the cell was empty.
    """
    if rows is None or not is_latin_square(rows, "1234"):
        return False
    said = [cell for row in rows for cell in row]
    boxes = [[rows[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
    return all(sorted(box) == list("1234") for box in boxes) and all(
        digit in (0, int(cell)) for digit, cell in zip(given, said, strict=True)
    )
