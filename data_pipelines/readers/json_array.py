"""A JSON array of records, streamed: one item in memory at a time, whatever the file's size.

The deciding choice: Python's own decoder reads item after item out of a window of text. Only an item that it cannot
read (it runs past the window, or is broken) is followed bracket by bracket to its end, so a broken item costs itself
alone. Where brackets or quotes themselves are lost, the rest of the array is one item, and is reported as one.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_pipelines.images import shown
from data_pipelines.readers.checks import MAX_LINE, Malformed, NotText, Row, an_object, json_object, too_long

CHUNK = 2**20
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\n\r]*")
OUTSIDE = re.compile(r'["{}\[\],]')  # what matters between strings
INSIDE = re.compile(r'["\\]')  # what matters within one
UNDECODED = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, as "surrogateescape" keeps it


def array_rows(path: Path) -> Iterator[Row]:
    """A Row for every item of the file's one array."""
    with path.open("rb") as file:
        for number, item in enumerate(array_items(file), 1):
            yield Row(number, f"{shown(path)}: item {number}", f"item-{number}", item)


def array_items(file: IO[bytes], chunk: int = CHUNK, limit: int = MAX_LINE) -> Iterator[dict[str, Any] | Malformed]:
    window = _Window(file, chunk, limit)
    window.skip_space()
    window.at += 1  # the opening bracket, which is how the caller knew an array
    ended = False
    while not ended:
        if (item := window.quick_item()) is None:
            raw, ended = window.slow_item()
            if ended and isinstance(raw, str) and not raw.strip():
                break  # the array is empty, or ends in a comma
            item = raw if isinstance(raw, Malformed) else _parsed(raw)
        yield item
    window.skip_space()
    if window.at < len(window.text):
        yield Malformed("there is more text after the array's end")


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
        self.decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self.text, self.at = "", 0

    def more(self) -> bool:
        """Drop what was read and append a chunk; False at the file's end."""
        raw = self.file.read(self.chunk)
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
