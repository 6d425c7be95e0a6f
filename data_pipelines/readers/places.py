"""Any record of a source by its number: where each one lies, found once and kept.

JSON lines and JSON arrays have a byte offset a record, Parquet has its row groups. Other files (tar shards, tables,
Arrow) are pure streams: they are counted once, and reading that begins inside one passes over what stands before,
which a warning says. Offsets and counts are kept in the user's cache: a file is gone through once while it stays as
it is. Shards at an address do not tell when they change, so every process reads them once more to count them.

The deciding choice: both are stretches that can be read from any of their records on, one at the price of a seek, the
other of the records before it. So order, sharding and resumption are arithmetic on numbers and know no formats.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images import shown
from data_pipelines.readers.addresses import Address
from data_pipelines.readers.arrow import group_rows, group_sizes, parquet_rows
from data_pipelines.readers.checks import Malformed, Row
from data_pipelines.readers.json_array import array_places, array_rows
from data_pipelines.readers.jsonl import jsonl_places, jsonl_rows
from data_pipelines.readers.reading import Shard

logger = logging.getLogger(__name__)

PLACES = {jsonl_rows: jsonl_places, array_rows: array_places}


@dataclass(frozen=True)
class Stretch:
    """Records that lie one after the other: a file, or one row group of a Parquet file.

    Attributes:
        size: how many.
        places: what their reader starts from, int64 [size, 2]; None where it must start at the stretch's beginning.
        group: number of the row group; None for a whole file.
    """

    shard: Shard
    size: int
    places: np.ndarray | None = None
    group: int | None = None

    def rows(self, first: int) -> Iterator[Row]:
        """The records from number ``first`` of the stretch on."""
        path = self.shard.path
        if self.places is not None:
            offset, before = self.places[first].tolist()
            return self.shard.rows(path, (offset, before))
        if self.group is not None:
            return islice(group_rows(path, self.group), first, None)
        return islice(self.shard.rows(path), first, None)


class Records:
    """The records of a source's files, numbered from 0; one file is open at a time."""

    def __init__(self, files: list[Shard]):
        self.stretches = [stretch for shard in files for stretch in stretches(shard)]
        self.starts = np.cumsum([0, *(stretch.size for stretch in self.stretches)])  # [S + 1]
        self._at, self._next, self._rows = -1, 0, iter(())
        self._told: set[int] = set()  # streams of which was said that they are passed over

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, number: int) -> tuple[Shard, Row]:
        """One record and the file that makes a sample of it. Ascending numbers cost no second reading.

        Raises:
            DataError: if the file no longer holds it.
        """
        at = int(np.searchsorted(self.starts, number, side="right")) - 1
        within, stretch = int(number - self.starts[at]), self.stretches[at]
        if self._at != at or within < self._next or (stretch.places is not None and within > self._next):
            self._tell(at, within)
            self._rows, self._at, self._next = stretch.rows(within), at, within
        row = next(islice(self._rows, within - self._next, None), None)
        self._next = within + 1
        if row is None:
            raise DataError(f"{shown(stretch.shard.path)}: record {within + 1} is gone: has the file changed?")
        return stretch.shard, row

    def _tell(self, at: int, first: int) -> None:
        """Warn, once a stream: a choice of its records passes over some in every epoch."""
        stretch = self.stretches[at]
        if not first or stretch.places is not None or stretch.group is not None or at in self._told:
            return
        self._told.add(at)
        path = stretch.shard.path
        logger.warning("%s: a stream without an index; %d records before the next are passed over", path, first)


def stretches(shard: Shard) -> list[Stretch]:
    """The stretches of a file, in order."""
    if shard.rows in PLACES:
        places = _kept(shard.path, lambda: PLACES[shard.rows](shard.path))
        return [Stretch(shard, len(places), places)]
    if shard.rows is parquet_rows:
        try:
            return [Stretch(shard, size, group=group) for group, size in enumerate(group_sizes(shard.path))]
        except Malformed:  # its reader says so, as a record
            return [Stretch(shard, 1)]
    (count,) = _kept(shard.path, lambda: np.array([sum(1 for _ in shard.rows(shard.path))])).tolist()
    return [Stretch(shard, count)]


def quick_size(files: list[Shard]) -> int | None:
    """How many records the files hold; None if that takes reading a stream to its end."""
    if any(shard.rows not in PLACES and shard.rows is not parquet_rows for shard in files):
        return None
    return len(Records(files))


def cache_folder() -> Path:
    """Where offsets and counts are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "block-diffusion-vlm" / "places-1"


def _kept(path: Path | Address, find) -> np.ndarray:
    """What ``find`` gives, from the cache if the file's name, size and time of change are the same."""
    if isinstance(path, Address):
        logger.warning("%s: read to its end, to count its records", shown(path))
        return find()
    state = path.stat()
    name = f"{os.path.realpath(path)}\0{state.st_size}\0{state.st_mtime_ns}"
    kept = cache_folder() / (hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".npy")
    try:
        return np.load(kept, mmap_mode="r")
    except (OSError, ValueError):  # not there, or cut off
        found = find()
    partial = kept.with_name(f"{kept.stem}.{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.save(file, found)
        os.replace(partial, kept)  # whole or not at all, whoever else writes it
    except OSError as error:
        partial.unlink(missing_ok=True)
        logger.warning("%s: its index could not be kept (%s)", path, error)
    return found
