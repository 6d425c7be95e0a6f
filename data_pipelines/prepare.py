"""Prepare a collection once for many runs: check every sample, count its tokens, resize, write WebDataset shards.

    python -m data_pipelines.prepare data.json --output prepared --workers 8
    python -m data_pipelines.prepare data/ --output small --max-pixels 1000000 --count vlm.training.data:token_counter
    python -m data_pipelines.prepare data/ --output /shared/prepared --ray

Shards are tar files that the readers read like any other. A sample gets the fields ``sizes`` ([width, height] of every
image, the number of decoded frames of every video; none of text) and, with ``--count``, ``tokens``. Bad samples are
listed and left out. Exit status: 0 if all is well, 1 if any sample is bad, 2 if the source cannot be read.

``--count MODULE:NAME`` names a function that is called with ``--model`` and returns what counts: from messages and
sizes to a number. So this package needs to know no model.

The deciding choice: a local pool and a Ray cluster (whose machines must see the same folders) do the same with the
same functions (`data_pipelines.preparation`), and give the same bytes for any number of workers.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_pipelines.errors import DataError
from data_pipelines.images import shown
from data_pipelines.preparation import Outcome, Preparation, counter, prepare_stretch, stretches
from data_pipelines.ray_pool import prepared_on_ray
from data_pipelines.readers import FORMATS


def prepare(task: Preparation, workers: int = 1, on_ray: bool = False, bar: Progress | None = None) -> Outcome:
    """Prepare everything.

    Args:
        workers: local processes; 1 works in this one.
        on_ray: leave the work to Ray Data, and how many do it.

    Raises:
        DataError: the source cannot be read, the output holds shards already, the counter cannot be had, a worker was
            killed, or Ray is asked for and not installed or fails.
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


@contextmanager
def _outcomes(
    task: Preparation, work: list[tuple[int, int]], workers: int, on_ray: bool
) -> Iterator[Iterator[Outcome]]:
    one = partial(prepare_stretch, task)
    if on_ray:
        yield prepared_on_ray(task, work)
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


def _check(task: Preparation) -> None:
    counter(task.count, task.model)
    output = Path(task.output)
    output.mkdir(parents=True, exist_ok=True)
    if any(output.glob("*.tar")):
        raise DataError(f"{shown(output)}: holds shards already")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SOURCE", help="a file of samples, a folder or an address of shards")
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
