"""The work of preparing a collection, in pieces: a stretch of records becomes shards of its own.

The deciding choice: a stretch is two numbers. Whoever prepares it, a local process or a machine of a cluster, opens
the source itself and names its shards by their first record, so all of them give the same bytes.
"""

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.readers import BadLine
from data_pipelines.readers.places import Records
from data_pipelines.readers.reading import shards
from data_pipelines.shards import Count, Packed, pack_sample, write_shard


@dataclass(frozen=True)
class Preparation:
    """What is to be done, the same for all workers.

    Attributes:
        source, format, media_root: as `data_pipelines.readers.read` takes them.
        output: the folder for the shards.
        per_shard: samples of a shard.
        max_pixels: of a picture; larger ones are shrunk. None leaves all as they are.
        count, model: ``module:name`` of what makes a token counter, and what it is called with.
    """

    source: str
    output: str
    format: str | None = None
    media_root: str | None = None
    per_shard: int = 1000
    max_pixels: int | None = None
    count: str | None = None
    model: str | None = None


@dataclass
class Outcome:
    """What came of a stretch of records, or of all: counts, bad samples with their reasons, fields left out."""

    counts: Counter = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)
    longest: int = 0

    def add(self, other: "Outcome") -> None:
        self.counts.update(other.counts)
        self.bad += other.bad
        self.left_out.update(other.left_out)
        self.longest = max(self.longest, other.longest)

    def take(self, packed: Packed) -> None:
        sizes = packed.record.get("sizes", [])
        self.counts.update(samples=1, images=sum(not isinstance(size, int) for size in sizes))
        self.counts.update(videos=sum(isinstance(size, int) for size in sizes))
        self.counts.update(bytes=sum(map(len, packed.media.values())), tokens=packed.record.get("tokens", 0))
        self.longest = max(self.longest, packed.record.get("tokens", 0))
        self.left_out.update(packed.left_out)


def stretches(task: Preparation) -> list[tuple[int, int]]:
    """(first, stop) of every stretch of records that is prepared on its own.

    Where any record can be found at once that is a shard's worth; a stream is gone through once, by one worker.
    """
    records, found = _records(task), []
    for stretch, start in zip(records.stretches, records.starts.tolist()):
        seekable = stretch.places is not None or stretch.group is not None
        step = task.per_shard if seekable else max(1, stretch.size)
        found += [
            (first, min(first + step, start + stretch.size)) for first in range(start, start + stretch.size, step)
        ]
    return found


def prepare_stretch(task: Preparation, stretch: tuple[int, int]) -> Outcome:
    """Write the shards of one stretch of records."""
    outcome = Outcome()
    for first in range(*stretch, task.per_shard):
        stop = min(first + task.per_shard, stretch[1])
        path = Path(task.output, f"{first:09d}.tar")
        outcome.counts["shards"] += write_shard(path, _packed(task, range(first, stop), outcome)) > 0
    return outcome


@cache
def _records(task: Preparation) -> Records:
    return Records(shards(task.source, task.format, task.media_root))


@cache
def counter(name: str | None, model: str | None) -> Count | None:
    """What ``name``, a ``module:name``, makes for a model; None of None. Raises DataError if it makes nothing."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(model)
    except (ImportError, AttributeError, TypeError, ValueError, OSError) as error:
        raise DataError(f"--count {name}: no token counter ({' '.join(str(error).split())[:200]})") from error


def _packed(task: Preparation, numbers: range, outcome: Outcome) -> Iterator[tuple[str, Packed]]:
    """(key, sample) of the good records; the others go to the outcome."""
    records, count = _records(task), counter(task.count, task.model)
    for number in numbers:
        shard, row = records.read(number)
        sample = shard.sample(row)
        if isinstance(sample, BadLine):
            outcome.bad.append(sample.reason)
            continue
        try:
            packed = pack_sample(sample, f"{number:09d}", task.max_pixels, count)
        except ValueError as error:  # DataError, and a processor's refusal
            outcome.bad.append(f"{row.where}: sample {sample.id!r}: {' '.join(str(error).split())}")
            continue
        outcome.take(packed)
        yield f"{number:09d}", packed
