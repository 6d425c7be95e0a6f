"""What every benchmark shares: medians with quartiles, whose turn it is, a clock, and the frame of a command.

Speeds are compared as ratios of things timed one right after the other, in changing order, so that whatever else the
machine does meets all of them alike. A ratio is told with its spread.
"""

import json
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers.utils import logging

T = TypeVar("T")


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and quartiles; None of nothing."""
    if not values:
        return None
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": round(float(middle), 4), "q25": round(float(low), 4), "q75": round(float(high), 4)}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Pairwise quotients, without the pairs in which a side took no time."""
    return [a / b for a, b in zip(above, below, strict=True) if a and b]


def turns(arms: Sequence[T], index: int) -> list[T]:
    """Every arm once: the first one, and the direction, change from item to item."""
    first = index % len(arms)
    order = [*arms[first:], *arms[:first]]
    return order[::-1] if index // len(arms) % 2 else order


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def settled(seconds: Sequence[float]) -> float:
    """Median without the first quarter, which warms up."""
    return statistics.median(seconds[len(seconds) // 4 :])


def machine() -> dict:
    """What a figure depends on beside the code."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}


def ranged(ratio: dict[str, float] | None) -> str:
    """A ratio with its quartiles, for a terminal."""
    return "–" if ratio is None else f"{ratio['median']:.2f} ({ratio['q25']:.2f} – {ratio['q75']:.2f})"


def names(text: str, known: Sequence[str], what: str) -> list[str]:
    """A comma-separated list of known words, each once.

    Raises:
        ValueError: for a word that is not known.
    """
    chosen = list(dict.fromkeys(text.split(",")))
    for name in chosen:
        if name not in known:
            raise ValueError(f"{what} {name!r} is not one of {', '.join(known)}")
    return chosen


def whole_numbers(text: str, option: str) -> list[int]:
    """A comma-separated list of numbers of at least 1, each once.

    Raises:
        ValueError: for anything else, naming the option.
    """
    found = text.split(",")
    for word in found:
        if not word.isascii() or not word.isdigit() or int(word) < 1:
            raise ValueError(f"{option} {word!r} must be a number of at least 1")
    return list(dict.fromkeys(map(int, found)))


def at_least(arguments: Namespace, **least: int) -> None:
    """ValueError for an argument below its least value."""
    for name, low in least.items():
        value = getattr(arguments, name)
        if value < low:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {low}")


def parser(name: str, doc: str, items: int, counted: str = "items per family") -> ArgumentParser:
    """A benchmark's command line with what all of them take; ``items`` is the default of ``--limit``."""
    found = ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=RawDescriptionHelpFormatter
    )
    found.add_argument("--model", help="a checkpoint (default: the embedded model)")
    found.add_argument("--limit", type=int, default=items, help=f"{counted} (default {items})")
    found.add_argument("--seed", type=int, default=1, help="of the held-out items (default 1)")
    found.add_argument("--output", default=f"runs/benchmarks/{name}.json", help="default: %(default)s")
    return found


def command(output: str, run: Callable[[], dict], lines: Callable[[dict], str]) -> int:
    """Run a benchmark, write its report to the file ``output`` and print it; the exit status.

    A user's mistake is one line and status 2. Whether the file can be written is found out before the work.
    """
    logging.disable_progress_bar()
    try:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        report = run()
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    print(lines(report))
    return 0
