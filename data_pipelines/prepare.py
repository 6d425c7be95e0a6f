"""Prepare a collection once for many runs: check every sample, count its tokens, resize, write WebDataset shards.

    python -m data_pipelines.prepare data.json --output prepared --workers 8
    python -m data_pipelines.prepare data/ --output small --max-pixels 1000000 --count vlm.training.data:token_counter
    python -m data_pipelines.prepare data/ --output /shared/prepared --ray

Shards are tar files that the readers read like any other. A sample gets the fields ``sizes`` ([width, height] of every
image, the number of decoded frames of every video; none of text) and, with ``--count``, ``tokens``. Bad samples are
listed and left out. Exit status: 0 if all is well, 1 if any sample is bad, 2 if the source cannot be read.

``--count MODULE:NAME`` names a function that is called with ``--model`` and returns what counts: from messages and
sizes to a number. So this package needs to know no model.

The deciding choice: the unit of work is a stretch of records, told by two numbers. Whoever does it opens the source
itself and writes its own shards, named by their first record. So a local pool and a Ray cluster (whose machines must
see the same folders) do the same with the same functions, and give the same bytes for any number of workers.
"""

import argparse
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_pipelines.errors import DataError
from data_pipelines.images import shown
from data_pipelines.readers import FORMATS, BadLine
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


def prepare(task: Preparation, workers: int = 1, on_ray: bool = False, bar: Progress | None = None) -> Outcome:
    """Prepare everything.

    Args:
        workers: local processes; 1 works in this one.
        on_ray: leave the work to Ray Data, and how many do it.

    Raises:
        DataError: the source cannot be read, the output holds shards already, the counter cannot be had, a worker was
            killed, or Ray is asked for and not installed.
    """
    _check(task)
    work, total = stretches(task), Outcome()
    ids = bar.add_task("", total=sum(stop - first for first, stop in work)) if bar else None
    with _outcomes(task, work, workers, on_ray) as outcomes:
        for outcome in outcomes:
            total.add(outcome)
            if bar:
                bar.update(ids, completed=total.counts["samples"] + len(total.bad))
    return total


def report(outcome: Outcome, counted: bool) -> str:
    """What was done, as text."""
    shown_counts = {name: number for name, number in outcome.counts.items() if counted or name != "tokens"}
    lines = [f"{name}: {number}" for name, number in {**shown_counts, "bad samples": len(outcome.bad)}.items()]
    if counted:
        lines.append(f"longest sample: {outcome.longest} tokens")
    lines += [f"field {name!r} left out of {number} samples" for name, number in outcome.left_out.items()]
    return "\n".join([*lines, *(["", "Bad samples"] if outcome.bad else []), *(f"  {bad}" for bad in outcome.bad)])


def main(argv: list[str] | None = None) -> int:
    arguments = vars(_parser().parse_args(argv))
    workers, on_ray = arguments.pop("workers"), arguments.pop("ray")
    try:
        for name, value in {**arguments, "workers": workers}.items():
            if name in ("per_shard", "max_pixels", "workers") and value is not None and value < 1:
                raise DataError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        task = Preparation(**arguments)
        with _bar() as bar:
            outcome = prepare(task, workers, on_ray, bar)
    except (DataError, OSError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    print(report(outcome, task.count is not None))
    return 1 if outcome.bad else 0


def _packed(task: Preparation, numbers: range, outcome: Outcome) -> Iterator[tuple[str, Packed]]:
    """(key, sample) of the good records; the others go to the outcome."""
    records, count = _records(task), _counter(task.count, task.model)
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


@contextmanager
def _outcomes(
    task: Preparation, work: list[tuple[int, int]], workers: int, on_ray: bool
) -> Iterator[Iterator[Outcome]]:
    one = partial(prepare_stretch, task)
    if on_ray:
        yield _ray_outcomes(one, work)
    elif workers == 1:
        yield map(one, work)
    else:
        # Not forked: this process may have threads (a progress bar, numpy's), which a fork would cut off.
        pool = ProcessPoolExecutor(workers, get_context("spawn"))
        try:
            yield pool.map(one, work)
        except BrokenProcessPool as error:
            raise DataError("a worker process was killed: too little memory? try fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _ray_outcomes(one: Callable[[tuple[int, int]], Outcome], work: list[tuple[int, int]]) -> Iterator[Outcome]:
    try:
        import ray.data
    except ImportError as error:
        raise DataError('--ray needs Ray Data: pip install "block-diffusion-vlm[ray]"') from error

    def prepared(row: dict) -> dict:  # JSON, because Ray's tables know neither counters nor ragged lists
        return {"outcome": json.dumps(vars(one((row["first"], row["stop"]))))}

    rows = [{"first": first, "stop": stop} for first, stop in work]
    found = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(prepared)
    for row in found.iter_rows():
        said = json.loads(row["outcome"])
        yield Outcome(Counter(said["counts"]), said["bad"], Counter(said["left_out"]), said["longest"])


@cache
def _records(task: Preparation) -> Records:
    return Records(shards(task.source, task.format, task.media_root))


@cache
def _counter(name: str | None, model: str | None) -> Count | None:
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(model)
    except (ImportError, AttributeError, TypeError, ValueError, OSError) as error:
        raise DataError(f"--count {name}: no token counter ({' '.join(str(error).split())[:200]})") from error


def _check(task: Preparation) -> None:
    _counter(task.count, task.model)
    output = Path(task.output)
    output.mkdir(parents=True, exist_ok=True)
    if any(output.glob("*.tar")):
        raise DataError(f"{shown(output)}: holds shards already")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SOURCE", help="a file of samples, or a folder of shards")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the shards")
    parser.add_argument("--format", choices=FORMATS, help="of the records (default: told by their fields)")
    parser.add_argument("--media-root", metavar="DIR", help="where media paths start (default: the file's folder)")
    parser.add_argument("--per-shard", type=int, default=1000, metavar="N", help="samples of a shard (default 1000)")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="larger pictures are shrunk (default: none is)")
    parser.add_argument("--count", metavar="MODULE:NAME", help="what makes a token counter (default: no counts)")
    parser.add_argument("--model", metavar="DIR", help="what the counter is made for (default: its own)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (default: cores)")
    where.add_argument("--ray", action="store_true", help="work on Ray Data (extra: ray)")
    return parser


def _bar() -> Progress:
    return Progress(
        TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), refresh_per_second=2,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
