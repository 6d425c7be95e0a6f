"""Read everything that a training run would read, and say what is there and what is wrong with it.

    python -m data_pipelines.validate data.json shards/ --media-root images --png validation.png
    python -m data_pipelines.validate data.json --count vlm.training.data:token_counter

Counts, lengths of samples, sizes of pictures, samples with the same content, and every bad sample with its file, line
and reason. Lengths are tokens if ``--count`` names what counts them (as in `data_pipelines.prepare`), else characters.
Exit status: 0 if all is well, 1 if any sample is bad, 2 if no source can be read.

The deciding choice: media are decoded as training decodes them, and content is compared by what was decoded. So a
picture that is cut off is found here and not after a night of training, and a copy under another name is a copy.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_pipelines.errors import DataError
from data_pipelines.media import open_media, with_times
from data_pipelines.preparation import counter
from data_pipelines.readers import FORMATS, BadLine
from data_pipelines.readers.places import quick_size
from data_pipelines.readers.reading import Shard, shards
from data_pipelines.record import Sample, media_parts
from data_pipelines.shards import Count

BAR = 40  # characters of the longest bar
FRAMES = 16  # of a clip, as training takes them


@dataclass
class Findings:
    """What a reading found.

    Attributes:
        counts: samples, text-only ones, turns, images, videos, samples without an answer.
        count: a sample's tokens; None counts its texts' characters.
        lengths: of samples, by the power of two they reach.
        sides: pixels of the longer side of a picture or of a clip's first frame, likewise.
        bad: a reason a bad sample: ``file:line: what is wrong``.
        copies: (where, where its first one is) of every sample whose content was met before.
    """

    count: Count | None = None
    counts: Counter = field(default_factory=Counter)
    lengths: Counter = field(default_factory=Counter)
    sides: Counter = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    _seen: dict[bytes, str] = field(default_factory=dict)

    def take(self, where: str, sample: Sample | BadLine) -> None:
        """One sample, its media decoded. ``where`` is its place, ``file:line``."""
        self.counts["samples"] += 1
        if isinstance(sample, BadLine):
            self.bad.append(sample.reason)
            return
        try:
            media = open_media(sample.messages, FRAMES)
            length = self._length(sample, media)
        except ValueError as error:  # DataError, and a token counter's refusal
            self.bad.append(f"{where}: sample {sample.id!r}: {' '.join(str(error).split())}")
            return
        self.lengths[length.bit_length()] += 1
        self._count(sample, media)
        content = content_hash(sample, media)
        if content in self._seen:
            self.copies.append((where, self._seen[content]))
        else:
            self._seen[content] = where

    def _length(self, sample: Sample, media: list) -> int:
        if self.count is None:
            return sum(map(len, _texts(sample)))
        messages, shown = with_times(sample.messages, media)
        return self.count(messages, [len(item) if isinstance(item, list) else item.size for item in shown])

    def _count(self, sample: Sample, media: list) -> None:
        answers = sum(message["role"] == "assistant" for message in sample.messages)
        videos = sum(isinstance(item, list) for item in media)
        self.counts.update(turns=answers, images=len(media) - videos, videos=videos)
        self.counts.update({"text-only samples": not media, "samples without an answer": not answers})
        for item in media:
            self.sides[max((item[0] if isinstance(item, list) else item).size).bit_length()] += 1

    @property
    def titles(self) -> tuple[str, str]:
        """Of the histograms of lengths and of sides."""
        length = "Characters of a sample's texts" if self.count is None else "Tokens of a sample"
        return length, "Pixels of the longer side of a picture or clip"


def content_hash(sample: Sample, media: list[Image.Image | list[Image.Image]]) -> bytes:
    """Of roles, texts, the media's kinds and their pixels; not of ids, file names or formats."""
    digest = hashlib.blake2b(digest_size=16)
    kinds = [part["type"] for part in media_parts(sample.messages)]
    digest.update(json.dumps([[m["role"], _spelled(m["content"])] for m in sample.messages]).encode())
    for kind, item in zip(kinds, media):
        for picture in item if isinstance(item, list) else [item]:
            digest.update(f"{kind}{picture.size}".encode() + picture.tobytes())
    return digest.digest()


def validate(files: list[Shard], bar: Progress | None = None, count: Count | None = None) -> Findings:
    """Read every sample of the files."""
    findings, task = Findings(count), None
    if bar is not None:
        task = bar.add_task("", total=quick_size(files))
    for shard in files:
        try:
            for where, sample in _samples(shard):
                findings.take(where, sample)
                if bar is not None:
                    bar.advance(task)
        except DataError as error:  # the whole file's fault, such as a table without a header
            findings.bad.append(str(error))
    return findings


def report(findings: Findings) -> str:
    """Everything found, as text."""
    counts = {**findings.counts, "bad samples": len(findings.bad), "copies": len(findings.copies)}
    lines = [f"{name}: {number}" for name, number in counts.items()]
    for title, counted in zip(findings.titles, (findings.lengths, findings.sides)):
        lines += ["", title, *_bars(counted)]
    if findings.copies:
        lines += ["", "Copies", *(f"  {copy} has the content of {first}" for copy, first in findings.copies)]
    if findings.bad:
        lines += ["", "Bad samples", *(f"  {reason}" for reason in findings.bad)]
    return "\n".join(lines)


def plot(findings: Findings, path: Path) -> None:
    """Both histograms as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    pairs = zip(figure.subplots(1, 2), (findings.lengths, findings.sides), findings.titles, ("samples", "media"))
    for axes, counts, title, counted in pairs:
        bins = _bins(counts)
        axes.bar(range(len(bins)), [number for _, number in bins], width=0.9, color="#4477aa")
        axes.set_xticks(range(len(bins)), [label for label, _ in bins], rotation=45, ha="right", fontsize=8)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel(f"{counted} ({sum(counts.values())} in all)", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.validate", description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a file, or a folder or address of shards")
    parser.add_argument("--format", choices=FORMATS, help="of the records (default: told by their fields)")
    parser.add_argument("--media-root", metavar="DIR", help="where media paths start (default: the file's folder)")
    parser.add_argument("--png", metavar="FILE", default="validation.png", help="histograms (default validation.png)")
    parser.add_argument("--count", metavar="MODULE:NAME", help="what makes a token counter (default: characters)")
    parser.add_argument("--model", metavar="DIR", help="what the counter is made for (default: its own)")
    arguments = parser.parse_args(argv)
    try:
        count = counter(arguments.count, arguments.model)
        files, unreadable = _files(arguments.sources, arguments.format, arguments.media_root)
        with _bar() as bar:
            findings = validate(files, bar, count)
        findings.bad += unreadable
        print(report(findings))
        plot(findings, Path(arguments.png))
    except (DataError, OSError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 1 if findings.bad else 0


def _files(sources: list[str], format: str | None, root: str | None) -> tuple[list[Shard], list[str]]:
    """The sources' files, and why others cannot be read. Raises DataError if that is all of them."""
    files, wrong = [], []
    for source in sources:
        try:
            files += shards(source, format, root)
        except DataError as error:
            wrong.append(str(error))
    if not files:
        raise DataError(wrong[0])
    return files, wrong


def _samples(shard: Shard) -> Iterator[tuple[str, Sample | BadLine]]:
    return ((row.where, shard.sample(row)) for row in shard.rows(shard.path))


def _texts(sample: Sample) -> Iterator[str]:
    for message in sample.messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else (p["text"] for p in content if p["type"] == "text")


def _spelled(content: str | list[dict]) -> list:
    """Texts and kinds of a message's content; one text is the same as a string and as a part."""
    return [content] if isinstance(content, str) else [part.get("text", [part["type"]]) for part in content]


def _bins(counts: Counter) -> list[tuple[str, int]]:
    """(range, number) from the lowest power of two to the highest; a key is a number's bit length."""
    if not counts:
        return []
    return [
        ("0" if bits == 0 else f"{2 ** (bits - 1)}–{2**bits - 1}", counts[bits])
        for bits in range(min(counts), max(counts) + 1)
    ]


def _bars(counts: Counter) -> list[str]:
    most, bins = max(counts.values(), default=1), _bins(counts)
    width = max((len(label) for label, _ in bins), default=0)
    return [f"  {label:>{width}} {'█' * -(-BAR * number // most):<{BAR}} {number}" for label, number in bins]


def _bar() -> Progress:
    return Progress(
        TextColumn("validating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), refresh_per_second=2,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
