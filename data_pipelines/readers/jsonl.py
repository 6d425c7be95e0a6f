"""JSON lines: a record a line, one line in memory at a time.

A line above the limit is passed over in small pieces: a file of a single endless line costs twice the limit at most.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_pipelines.images import shown
from data_pipelines.readers.checks import MAX_LINE, Malformed, NotText, Row, json_object, too_long

BOM = b"\xef\xbb\xbf"
PIECE = 2**16


def jsonl_rows(path: Path) -> Iterator[Row]:
    """A Row for every line that is not blank. A byte-order mark is allowed."""
    with path.open("rb") as file:
        for number, line in text_lines(file):
            if isinstance(line, Malformed) or line.strip():
                yield Row(number, f"{shown(path)}:{number}", f"line-{number}", _record(line))


def text_lines(file: IO[bytes], limit: int = MAX_LINE) -> Iterator[tuple[int, str | Malformed]]:
    """Every line's number, from 1, and its text with its end; for one that has none, the reason."""
    number = 0
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
