"""What the data pipeline costs: frames, samples, padding, resumption, memory.

    python -m benchmarks.data
    python -m benchmarks.data --parts frames,packing --repeats 3
    python -m benchmarks.data --parts resume,memory --lines 60000 --place 50000 --read 5000

- ``frames``: frames a second of `load_video` beside decord and PyAV called directly for the same frames of the same
  generated clips, one right after the other in changing order. decord reads MP4; PyAV is what reads MPEG-TS. The
  direct call gives uint8 arrays [H, W, 3]; ours checks the header, gives the frames' times too, and Pillow's
  pictures, which are one copy more. Beside it the same ratio of processor time, which a busy machine changes less.
- ``workers``: samples a second, pictures decoded, with 0, 1 and 2 worker processes that share a mixture.
- ``packing``: of a realistic mix of lengths, how much of their budget training's batches use, packed
  (``data.row_capacity``) and in length buckets, how many batches that takes, and how much of the buckets' places is
  tokens, not padding.
- ``resume``: seconds from nothing to the sample at ``--place`` of a mixture whose files have been indexed, and the
  same sample reached from before.
- ``memory``: resident memory, mapped files apart, while ``--read`` samples of that mixture are read.

Everything is generated in a temporary folder.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.material import RATE, mixed_lengths, write_clip, write_lines, write_pictures
from benchmarks.measure import at_least, command, names, ranged, ratios, spread, turns
from data_pipelines.batching import length_buckets
from data_pipelines.media import open_media
from data_pipelines.mixture import Mixture, Source
from data_pipelines.packing import packed_batches
from data_pipelines.sampling import centres
from data_pipelines.video import load_video

PARTS = ("frames", "workers", "packing", "resume", "memory")
CLIPS = {"360p": (640, 360), "1080p": (1920, 1080)}
FRAMES = 8  # taken of a clip
PACKED = 20_000  # samples whose packing is measured
BUDGET, WINDOW = 8192, 512  # tokens of a batch and of a pack; samples cut together, as training does by default


def frames(folder: Path, repeats: int, seconds: int) -> dict:
    """Frames a second, and ours as a share of the direct call's."""
    report = {}
    for name, size in CLIPS.items():
        for suffix, direct in (("mp4", _decord), ("ts", _pyav)):
            path = folder / f"{name}.{suffix}"
            write_clip(path, size, seconds * RATE)
            wanted = centres(seconds * RATE, FRAMES)
            report[f"{name} {suffix}"] = _compare(path, wanted, direct, repeats)
    return report


def _compare(path: Path, wanted: list[int], direct: Callable, repeats: int) -> dict:
    arms = {"ours": lambda: load_video(path, FRAMES), "direct": lambda: direct(path, wanted)}
    speeds, cpu = ({arm: [] for arm in arms} for _ in range(2))
    for repeat in range(repeats + 1):
        for arm in turns(list(arms), repeat):
            begin, used = time.perf_counter(), time.process_time()
            found = arms[arm]()
            speeds[arm].append(len(found) / (time.perf_counter() - begin))
            cpu[arm].append(len(found) / (time.process_time() - used))
    speeds, cpu = ({arm: values[1:] for arm, values in kind.items()} for kind in (speeds, cpu))  # the first warms up
    return {arm: spread(values) for arm, values in speeds.items()} | {
        "with": direct.__name__.removeprefix("_"),
        "ratio": spread(ratios(speeds["ours"], speeds["direct"])),
        "cpu_ratio": spread(ratios(cpu["ours"], cpu["direct"])),
    }


def _decord(path: Path, wanted: list[int]) -> np.ndarray:
    import decord

    return decord.VideoReader(str(path), ctx=decord.cpu(0)).get_batch(wanted).asnumpy()


def _pyav(path: Path, wanted: list[int]) -> list[np.ndarray]:
    import av

    kept, chosen = [], set(wanted)
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in chosen:
                kept.append(frame.to_ndarray(format="rgb24"))
            if number == wanted[-1]:
                return kept
    return kept


class Stream(IterableDataset):
    """The samples of a mixture with their pictures, shared out among worker processes."""

    def __init__(self, path: Path, count: int):
        self.path, self.count = path, count

    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        shard, shards = (worker.id, worker.num_workers) if worker else (0, 1)
        samples = Mixture([Source(str(self.path))]).samples(shard=shard, shards=shards)
        for place, sample in samples:
            if place >= self.count:
                return
            yield sum(picture.width for picture in open_media(sample.messages))


def workers(folder: Path, count: int) -> dict:
    """Samples a second after the first one, which waits for the processes to start."""
    path = write_pictures(folder)
    report = {}
    for number in (0, 1, 2):
        loader = iter(DataLoader(Stream(path, count), batch_size=None, num_workers=number))
        next(loader)
        begin = time.perf_counter()
        rest = sum(1 for _ in loader)
        report[str(number)] = round(rest / (time.perf_counter() - begin), 1)
    return {"samples_per_s": report, "cores": os.cpu_count()}


def packing(count: int, seed: int) -> dict:
    """Shares of the budgets of training's batches that samples fill, window by window as training cuts them."""
    lengths = mixed_lengths(np.random.default_rng(seed), count)
    kept = [length for length in lengths if length <= BUDGET]
    windows = [kept[at : at + WINDOW] for at in range(0, len(kept), WINDOW)]
    packed = [b for n, window in enumerate(windows) for b in packed_batches(window, int, BUDGET, BUDGET, seed + n)]
    buckets = list(length_buckets(kept, int, BUDGET, WINDOW, seed))
    return {
        "fill": round(sum(kept) / (len(packed) * BUDGET), 4),
        "samples": count,
        "batches": len(packed),
        "dropped": count - len(kept),
        "median_length": int(np.median(lengths)),
        "bucket_fill": round(sum(kept) / (len(buckets) * BUDGET), 4),
        "bucket_batches": len(buckets),
        "bucket_tokens": round(sum(kept) / sum(max(b) * len(b) for b in buckets), 4),
    }


def resume(sources: list[Source], place: int) -> dict:
    """Seconds of the first opening, which indexes the files, and of resumption after it."""
    begin = time.perf_counter()
    Mixture(sources)
    indexed, seconds = time.perf_counter() - begin, []
    for _ in range(3):
        begin = time.perf_counter()
        found = next(Mixture(sources).samples(start=place))
        seconds.append(time.perf_counter() - begin)
    before = min(place, 1000)
    *_, reached = islice(Mixture(sources).samples(start=place - before), before + 1)
    same = (reached[0], reached[1].id) == (found[0], found[1].id)
    return {"place": place, "index_s": round(indexed, 3), "resume_s": spread(seconds), "same_sample": same}


def memory(sources: list[Source], count: int) -> dict:
    """Megabytes of the process's own after a tenth and at the end."""
    seen = []
    begin = time.perf_counter()
    for number, _ in enumerate(islice(Mixture(sources).samples(), count), 1):
        if number % max(1, count // 10) == 0:
            seen.append(_own_mb())
    took = time.perf_counter() - begin
    return {
        "samples": count,
        "samples_per_s": round(count / took),
        "mb_after_a_tenth": round(seen[0], 1),
        "mb_at_the_end": round(seen[-1], 1),
        "growth_mb": round(max(seen) - seen[0], 1),
    }


def _own_mb() -> float:
    """Resident memory without what only maps files, such as the mixture's indices: the system takes that back."""
    found = psutil.Process().memory_info()
    return (found.rss - getattr(found, "shared", 0)) / 2**20


def run(arguments: argparse.Namespace) -> dict:
    chosen = names(arguments.parts, PARTS, "part")
    at_least(arguments, repeats=1, seconds=1, samples=2, lines=10, place=0, read=10)
    report: dict = {"cores": os.cpu_count(), "load": [round(value, 1) for value in os.getloadavg()]}
    with tempfile.TemporaryDirectory(prefix="data-benchmark-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # indices go with the files
        if "frames" in chosen:
            report["frames"] = frames(folder, arguments.repeats, arguments.seconds)
        if "workers" in chosen:
            report["workers"] = workers(folder, arguments.samples)
        if "packing" in chosen:
            report["packing"] = packing(PACKED, arguments.seed)
        if {"resume", "memory"} & {*chosen}:
            sources = write_lines(folder, arguments.lines)
            for part, work in (
                ("resume", lambda: resume(sources, arguments.place)),
                ("memory", lambda: memory(sources, arguments.read)),
            ):
                if part in chosen:
                    report[part] = work()
    return report


def lines(report: dict) -> str:
    """The report for a terminal."""
    out = [f"{report['cores']} cores, load {report['load'][0]} when it began"]
    for clip, found in report.get("frames", {}).items():
        speed = f"{found['ours']['median']:.1f} frames/s, {found['with']} directly {found['direct']['median']:.1f}"
        out.append(
            f"frames {clip}: {speed}; ratio {ranged(found['ratio'])}, of processor time {ranged(found['cpu_ratio'])}"
        )
    if found := report.get("workers"):
        out.append("samples/s: " + ", ".join(f"{n} workers {speed}" for n, speed in found["samples_per_s"].items()))
    if found := report.get("packing"):
        out.append(f"batches of packs use {found['fill']:.1%} of their budget ({found['samples']} samples,"
                   f" {found['dropped']} too long, {found['batches']} batches); length buckets"
                   f" {found['bucket_fill']:.1%} ({found['bucket_batches']}; {found['bucket_tokens']:.1%} of their"
                   " places are tokens)")  # fmt: skip
    if found := report.get("resume"):
        same = "the same sample" if found["same_sample"] else "ANOTHER SAMPLE"
        out.append(
            f"resumed at {found['place']} in {found['resume_s']['median']} s ({same}); indexing {found['index_s']} s"
        )
    if found := report.get("memory"):
        out.append(f"memory over {found['samples']} samples: {found['mb_after_a_tenth']} MB after a tenth,"
                   f" {found['mb_at_the_end']} MB at the end; {found['samples_per_s']} samples/s")  # fmt: skip
    return "\n".join(out)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=10, help="readings of every clip (default 10)")
    parser.add_argument("--seconds", type=int, default=10, help="length of the clips (default 10)")
    parser.add_argument("--samples", type=int, default=1000, help="read with workers (default 1000)")
    parser.add_argument("--lines", type=int, default=1_200_000, help="samples of the mixture (default 1200000)")
    parser.add_argument("--place", type=int, default=1_000_000, help="where it is resumed (default 1000000)")
    parser.add_argument("--read", type=int, default=100_000, help="samples for the memory (default 100000)")
    parser.add_argument("--seed", type=int, default=1, help="of the lengths (default 1)")
    parser.add_argument("--output", default="runs/benchmarks/data.json", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    return command(arguments.output, lambda: run(arguments), lines)


if __name__ == "__main__":
    sys.exit(main())
