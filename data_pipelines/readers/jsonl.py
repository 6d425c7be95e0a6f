"""JSON lines: a record a line, one line in memory at a time.

A line above the limit is passed over in small pieces: a file of a single endless line costs twice the limit at most.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data_pipelines.images import shown
from data_pipelines.readers.checks import MAX_LINE, Malformed, NotText, Row, json_object, too_long

BOM = b"\xef\xbb\xbf"
PIECE = 2**16


def jsonl_rows(path: Path, start: tuple[int, int] = (0, 0)) -> Iterator[Row]:
    """A Row for every line that is not blank. A byte-order mark is allowed.

    ``start`` is one of `jsonl_places`: where to begin.
    """
    offset, before = start
    with path.open("rb") as file:
        file.seek(offset)
        for number, line in text_lines(file, before=before):
            if isinstance(line, Malformed) or line.strip():
                yield Row(number, f"{shown(path)}:{number}", f"line-{number}", _record(line))


def jsonl_places(path: Path) -> np.ndarray:
    """Byte offset and number of lines before, [N, 2], of every row of `jsonl_rows`."""
    places, offset = array("q"), 0
    with path.open("rb") as file:
        for number, line in text_lines(file):
            if isinstance(line, Malformed) or line.strip():
                places.extend((offset, number - 1))
            offset = file.tell()
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def text_lines(file: IO[bytes], limit: int = MAX_LINE, before: int = 0) -> Iterator[tuple[int, str | Malformed]]:
    """Every line's number and its text with its end; for one that has none, the reason. ``before`` lines are past."""
    number = before
    while raw := file.readline(limit + 1):
        number += 1
        if len(raw) > limit:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(PIECE)
            yield number, too_long("the line")
        else:
            yield number, decoded(raw.removeprefix(BOM) if number == 1 else raw)


def decoded(raw: bytes) -> str | Malformed:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return NotText("the file is not UTF-8 text")


def _record(line: str | Malformed) -> dict | Malformed:
    if isinstance(line, Malformed):
        return line
    try:
        return json_object(line.strip())
    except Malformed as error:
        return error
