"""A JSON array of records, streamed: one item in memory at a time, whatever the file's size.

The deciding choice: Python's own decoder reads item after item out of a window of text. Only an item that it cannot
read (it runs past the window, or is broken) is followed bracket by bracket to its end, so a broken item costs itself
alone. Where brackets or quotes themselves are lost, the rest of the array is one item, and is reported as one.
"""

import codecs
import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_pipelines.images import shown
from data_pipelines.readers.checks import MAX_LINE, Malformed, NotText, Row, an_object, json_object, too_long
from data_pipelines.readers.jsonl import BOM

CHUNK = 2**20
SMALL_CHUNK = 2**16  # where a single item is wanted
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\n\r]*")
OUTSIDE = re.compile(r'["{}\[\],]')  # what matters between strings
INSIDE = re.compile(r'["\\]')  # what matters within one
UNDECODED = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, as "surrogateescape" keeps it


def array_rows(path: Path, start: tuple[int, int] = (0, 0)) -> Iterator[Row]:
    """A Row for every item of the file's one array. ``start`` is one of `array_places`: where to begin."""
    offset, before = start
    with path.open("rb") as file:
        file.seek(offset)
        for number, item in enumerate(array_items(file, SMALL_CHUNK if offset else CHUNK), before + 1):
            yield Row(number, f"{shown(path)}: item {number}", f"item-{number}", item)


def array_places(path: Path) -> np.ndarray:
    """Byte offset and number of items before, [N, 2], of every row of `array_rows`."""
    with path.open("rb") as file:
        offsets = array("q", (offset for offset, _ in _placed_items(file, CHUNK, MAX_LINE)))
    return np.stack([np.array(offsets, dtype=np.int64), np.arange(len(offsets))], axis=1)


def array_items(file: IO[bytes], chunk: int = CHUNK, limit: int = MAX_LINE) -> Iterator[dict[str, Any] | Malformed]:
    """Items from the file's start on, or from where an item begins."""
    return (item for _, item in _placed_items(file, chunk, limit))


def _placed_items(file: IO[bytes], chunk: int, limit: int) -> Iterator[tuple[int, dict[str, Any] | Malformed]]:
    """Byte offset and item. What follows the array has the offset of the closing bracket."""
    window = _Window(file, chunk, limit)
    if window.at_start:
        window.skip_space()
        window.at += 1  # the opening bracket, which is how the caller knew an array
    else:
        window.more()
    ended = False
    while not ended:
        offset = window.offset()
        if (item := window.quick_item()) is None:
            raw, ended = window.slow_item()
            if ended and isinstance(raw, str) and not raw.strip():
                break  # the array is empty, or ends in a comma
            item = raw if isinstance(raw, Malformed) else _parsed(raw)
        yield offset, item
    end = window.offset() - 1
    window.skip_space()
    if window.at < len(window.text):
        yield end, Malformed("there is more text after the array's end")


def _parsed(raw: str) -> dict[str, Any] | Malformed:
    if UNDECODED.search(raw):
        return NotText("the file is not UTF-8 text")
    try:
        return json_object(raw.strip())
    except Malformed as error:
        return error


class _Window:
    """The text ahead: ``text[at:]`` is not yet read, and grows by chunks."""

    def __init__(self, file: IO[bytes], chunk: int, limit: int):
        self.file, self.chunk, self.limit = file, chunk, limit
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.text, self.at = "", 0
        start = file.tell()
        self.at_start = start == 0
        if self.at_start and file.read(len(BOM)) == BOM:
            start = len(BOM)
        file.seek(start)
        self.passed, self.measured = start, 0  # text[:measured] ends at byte ``passed`` of the file

    def offset(self) -> int:
        """The byte of the file at which ``text[at:]`` begins."""
        self.passed += len(self.text[self.measured : self.at].encode("utf-8", "surrogateescape"))
        self.measured = self.at
        return self.passed

    def more(self) -> bool:
        """Drop what was read and append a chunk; False at the file's end."""
        self.offset()
        raw, self.measured = self.file.read(self.chunk), 0
        self.text, self.at = self.text[self.at :] + self.decode(raw, not raw), 0
        return bool(raw)

    def skip_space(self) -> None:
        while (end := SPACE.match(self.text, self.at).end()) == len(self.text):
            self.at = end
            if not self.more():
                return
        self.at = end

    def quick_item(self) -> dict[str, Any] | Malformed | None:
        """The next item if it and the comma behind it lie in the window and can be read; else None, nothing moved."""
        start = SPACE.match(self.text, self.at).end()
        try:
            item, end = DECODER.raw_decode(self.text, start)
        except (ValueError, RecursionError):
            return None
        comma = SPACE.match(self.text, end).end()
        if self.text[comma : comma + 1] != "," or UNDECODED.search(self.text, start, end):
            return None
        self.at = comma + 1
        try:
            return an_object(item)
        except Malformed as error:
            return error

    def slow_item(self) -> tuple[str | Malformed, bool]:
        """The next item's text, brackets counted up to its comma or the array's end, and whether it was the last."""
        depth, quoted, scan, oversize = 0, False, self.at, False
        while True:
            found = (INSIDE if quoted else OUTSIDE).search(self.text, scan)
            if found is None:
                scan = max(scan, len(self.text)) - self.at
                if scan > self.limit:  # keep counting, forget the text
                    oversize, self.at, scan = True, len(self.text), scan - len(self.text) + self.at
                if not self.more():
                    self.at = len(self.text)
                    return Malformed(
                        "the file ends inside the array: it is cut off, or a quote or bracket is lost"
                    ), True
                continue
            mark, scan = found[0], found.end()
            if mark == "\\":
                scan += 1  # perhaps beyond the window, where the search goes on
            elif mark == '"':
                quoted = not quoted
            elif mark in "{[":
                depth += 1
            elif depth:
                depth -= mark != ","
            elif mark != "}":  # one brace too many is the item's own fault
                raw, self.at = self.text[self.at : found.start()], scan
                return (too_long("the item") if oversize else raw), mark == "]"
