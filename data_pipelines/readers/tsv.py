"""VLMEvalKit's tab-separated tables, a row in memory at a time; cells may be quoted and then hold line breaks.

The deciding choice: a row that cannot be read costs its first line only, and reading goes on at the next. So a lost
quote does not swallow the rows behind it.
"""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_pipelines.errors import DataError
from data_pipelines.images import shown
from data_pipelines.readers.checks import MAX_LINE, Malformed, Row, too_long
from data_pipelines.readers.jsonl import text_lines

REFERENCE = 64  # VLMEvalKit: an ``image`` no longer than this is the ``index`` of an earlier row with the same picture

Line = tuple[int, str | Malformed]


def tsv_rows(path: Path) -> Iterator[Row]:
    """A Row for every table row. Empty cells are left out; ``index`` becomes the id.

    Pictures that later rows refer to are found again in the file: an offset a row is kept, not the picture.
    """
    csv.field_size_limit(max(MAX_LINE, csv.field_size_limit()))  # Python's own limit is 128 KiB, for the process
    with path.open("rb") as file, path.open("rb") as again:
        table = _Table(file)
        _, header = table.row()
        if isinstance(header, Malformed) or not header:
            raise DataError(f"{shown(path)}:1: not a table's header ({header or 'it is blank'})")
        offsets: dict[str, int] = {}
        while (found := table.row(len(header))) is not None:
            number, cells = found
            record = cells if isinstance(cells, Malformed) else _record(header, cells)
            if isinstance(record, dict):
                record = _with_image(record, header, offsets, table.offset, again)
            yield Row(number, f"{shown(path)}:{number}", f"line-{number}", record)


class _Table:
    """Rows of cells out of lines; ``offset`` is where the last row's first line starts in the file."""

    def __init__(self, file: IO[bytes]):
        self.lines = ((start, *line) for start, line in _with_offsets(file))
        self.pending: deque = deque()
        self.offset = 0

    def row(self, width: int | None = None) -> tuple[int, list[str] | Malformed] | None:
        """The next row that is not blank, with the number of its first line; None at the end."""
        while True:
            used: list = []
            cells = self._cells(used)
            if not used:
                return None
            if width and isinstance(cells, list) and cells and len(cells) != width:
                cells = Malformed(f"{len(cells)} cells in a table of {width} columns")
            if isinstance(cells, Malformed):
                self.pending.extendleft(reversed(used[1:]))
            self.offset, number, _ = used[0]
            if cells:
                return number, cells

    def _cells(self, used: list) -> list[str] | Malformed:
        try:
            return next(csv.reader(self._feed(used), delimiter="\t", strict=True), [])
        except csv.Error as error:
            return Malformed(f"not a row of cells ({error})")
        except Malformed as error:
            return error

    def _feed(self, used: list) -> Iterator[str]:
        size = 0
        while (line := self.pending.popleft() if self.pending else next(self.lines, None)) is not None:
            used.append(line)
            if isinstance(line[2], Malformed):
                raise line[2] if len(used) == 1 else Malformed("a quoted cell does not end")
            size += len(line[2])
            if size > MAX_LINE:
                raise too_long("the row")
            yield line[2]


def _with_offsets(file: IO[bytes]) -> Iterator[tuple[int, Line]]:
    start = 0
    for line in text_lines(file):
        yield start, line
        start = file.tell()


def _record(header: list[str], cells: list[str]) -> dict[str, str]:
    record = {name: cell for name, cell in zip(header, cells) if cell}
    return {"id": record["index"], **record} if record.get("index") and not record.get("id") else record


def _with_image(
    record: dict[str, str], header: list[str], offsets: dict[str, int], offset: int, again: IO[bytes]
) -> dict[str, str] | Malformed:
    image = record.get("image", "")
    if len(image) > REFERENCE:
        offsets[record.get("index", "")] = offset
    elif image and not image.startswith("["):
        if image not in offsets:
            return Malformed(f"image {image!r} is neither a picture in base64 nor the index of an earlier row")
        again.seek(offsets[image])
        _, cells = _Table(again).row()
        return {**record, "image": _record(header, cells)["image"]}
    return record
