"""Several sources as one stream of samples: files of any format, text-only ones, and playground families.

    seed: 0
    buffer: 4096
    sources:
      - {path: llava/chat.json, weight: 2, media_root: llava/images}
      - {path: shards/, weight: 1, strategy: "random:25%"}
      - {playground: {scene_chat: 3, charts: 1}, weight: 0.5}

**Shares.** Either every source has a weight, its share of the samples, or none has: then shares are the sources'
sizes. A playground source is endless and needs a weight, unless its strategy gives it a size.

**Epochs.** A mixture is endless. Each source goes through its own epochs at its own pace: it gives every one of its
samples once before it gives any again, in another order each epoch. So with sizes for shares all sources end an epoch
together, give or take a draw. With ``once`` the mixture ends when every source has given each of its samples once,
evenly interleaved; weights do not count then.

**Shuffle.** Inside windows of ``buffer`` consecutive records of a source, windows and files in an order of their own
(`data_pipelines.order`); 1 keeps the order of the files. A source whose records must be read in order (Parquet row
groups, tar shards, tables) holds a window of records in memory, JSON lines and arrays hold none.

**Resumption and sharding.** Every sample has a place, from 0, whoever reads it. Reading starts at any place without
replaying what came before, except inside a file that is a pure stream (`data_pipelines.readers.places`). Shard r of R
gives the places r, r + R, r + 2R, ...: no sample twice, none lost. Each shard that draws on a pure stream reads it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import playground
from data_pipelines.errors import DataError
from data_pipelines.images import check_file, shown
from data_pipelines.order import Order, Turns
from data_pipelines.playground.base import stream
from data_pipelines.playground.conversation import chat
from data_pipelines.readers import BadLine
from data_pipelines.readers.addresses import is_address
from data_pipelines.readers.places import Records
from data_pipelines.readers.reading import shards as files_of
from data_pipelines.record import Sample

PREFIX = "playground:"
STRATEGY = re.compile(r"(first|random):(\d+(?:\.\d+)?)(%?)")
SPAN = 256  # draws that are put in order together
MAX_SIDE, TURNS = 256, (1, 4)  # of playground pictures and chats


@dataclass(frozen=True)
class Source:
    """One source of a mixture.

    Args:
        path: a file, a folder or an address of shards, or ``playground:FAMILY``.
        playground: families and their shares, in place of a path.
        weight: its share of the mixture; None means its size.
        strategy: which samples take part: ``all``; ``first:N`` or ``first:P%``; ``random:N`` or ``random:P%``, a fixed
            choice of the mixture's seed.
        format: one of `data_pipelines.readers.FORMATS`, if the records' own fields should not decide.
        media_root: where relative media paths start; by default the file's own folder.
    """

    path: str = ""
    playground: dict[str, float] = field(default_factory=dict)
    weight: float | None = None
    strategy: str = "all"
    format: str | None = None
    media_root: str | None = None

    def __post_init__(self):
        if bool(self.path) == bool(self.playground):
            raise DataError("a source needs one of path and playground")
        if not isinstance(self.playground, dict):
            raise DataError(f"playground must be families and their shares, not {self.playground!r}")
        for name, share in self.families.items():
            if name not in playground.FAMILIES:
                raise DataError(f"unknown playground family {name!r} (known: {', '.join(playground.FAMILIES)})")
            if not _is_positive(share):
                raise DataError(f"the share of playground family {name!r} must be positive, not {share!r}")
        if self.weight is not None and not _is_positive(self.weight):
            raise DataError(f"source {self.name}: the weight must be positive, not {self.weight!r}")
        if self.strategy != "all" and not STRATEGY.fullmatch(str(self.strategy)):
            raise DataError(f"source {self.name}: the strategy {self.strategy!r} is not all, first:N or random:N%")

    @property
    def name(self) -> str:
        return shown(self.path) if self.path else PREFIX + "+".join(self.playground)

    @property
    def families(self) -> dict[str, float]:
        """Playground families and their shares; empty for files."""
        return {self.path.removeprefix(PREFIX): 1.0} if self.path.startswith(PREFIX) else self.playground

    def chosen(self, size: int | None, seed: Sequence[int]) -> Sequence[int] | np.ndarray | None:
        """Ascending numbers of the samples that take part, of ``size`` (None: endless); None for all of endless ones.

        Raises:
            DataError: if the source has too few samples, or endless ones of which a share is asked for.
        """
        if self.strategy == "all":
            return None if size is None else range(size)
        kind, amount, percent = STRATEGY.fullmatch(self.strategy).groups()
        if size is None and (percent or kind == "random"):
            raise DataError(f"source {self.name}: {self.strategy} needs a size, which an endless source does not have")
        number = round(size * float(amount) / 100) if percent else int(float(amount))
        if number < 1 or (size is not None and number > size):
            raise DataError(f"source {self.name}: {self.strategy} asks for {number} samples of {size}")
        if kind == "first":
            return range(number)
        return np.sort(np.random.default_rng([*seed, 2]).choice(size, number, replace=False))


class Mixture:
    """A deterministic stream of samples from several sources; see this module's text for its rules.

    Args:
        sources: at least one.
        seed: of order and choice.
        buffer: records of a source that are shuffled together, at least 1.
        once: one pass, in place of an endless stream.

    Raises:
        DataError: for a source that cannot be read or holds no samples, or weights that do not go together.
    """

    def __init__(self, sources: Sequence[Source], seed: int = 0, buffer: int = 4096, once: bool = False):
        if not sources:
            raise DataError("a mixture needs at least one source")
        if not isinstance(seed, int) or seed < 0:
            raise DataError(f"the seed must be a whole number from 0 on, not {seed!r}")
        if not isinstance(buffer, int) or buffer < 1:
            raise DataError(f"the shuffle buffer must be at least 1, not {buffer!r}")
        kinds = [_Playground if source.families else _Files for source in sources]
        self.feeds = [kind(source, [seed, n], buffer) for n, (kind, source) in enumerate(zip(kinds, sources))]
        self.sizes = [feed.size for feed in self.feeds]
        if once and None in self.sizes:
            raise DataError(f"source {sources[self.sizes.index(None)].name} is endless: one pass needs first:N")
        self.turns = Turns(self._shares(sources, once), seed, self.sizes if once else [None] * len(sources))
        self.size = sum(size or 0 for size in self.sizes)  # of all finite sources together
        self.length = self.size if once else None
        self._first, self._span = 0, []  # the draws around the last place asked for

    def samples(self, start: int = 0, shard: int = 0, shards: int = 1) -> Iterator[tuple[int, Sample | BadLine]]:
        """(place, sample) from place ``start`` on, of the places that leave ``shard`` when divided by ``shards``."""
        for place in count(start + (shard - start) % shards, shards):
            if self.length is not None and place >= self.length:
                return
            yield place, self.sample(place)

    def sample(self, place: int) -> Sample | BadLine:
        """The sample at one place, below ``length`` if there is one; ascending places are the quickest."""
        return self.named(place)[1]

    def named(self, place: int) -> tuple[str, Sample | BadLine]:
        """The sample at one place, and where its source holds it: ``file:line``."""
        if not self._first <= place < self._first + len(self._span):
            self._turn_to(place)
        source, k = self._span[place - self._first]
        return self.feeds[source].draw(k)

    def _turn_to(self, place: int) -> None:
        """Put the draws of the span that holds a place in order."""
        span = place // SPAN  # nearly: it is off by less than a draw a source
        while span and self._before(span) > place:
            span -= 1
        while self._before(span + 1) <= place:
            span += 1
        self._first, self._span = self._before(span), self.turns.between(span * SPAN, (span + 1) * SPAN)

    def _before(self, span: int) -> int:
        return sum(self.turns.before(span * SPAN))

    def _shares(self, sources: Sequence[Source], once: bool) -> list[float]:
        weights = [source.weight for source in sources]
        if once:
            return self.sizes
        if None not in weights:
            return weights
        if any(weight is not None for weight in weights):
            raise DataError(f"source {sources[weights.index(None)].name} has no weight, but others have: all or none")
        if None in self.sizes:
            raise DataError(f"source {sources[self.sizes.index(None)].name} is endless: it needs a weight")
        return self.sizes


def read_mixture(path: str | Path, once: bool = False) -> Mixture:
    """The mixture that a YAML file describes; its relative paths start at the file's own folder.

    Raises:
        DataError: for a file that cannot be read, or a key or value in it that is wrong.
    """
    import yaml

    path = check_file(path)
    try:
        recipe = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)}: not YAML ({' '.join(str(error).split())[:100]})") from error
    try:
        recipe = _known(recipe, {"sources", "seed", "buffer"})
        entries = recipe.pop("sources", None)
        if not isinstance(entries, list):
            raise DataError("sources must be a list")
        return Mixture([_source(entry, path.parent) for entry in entries], **recipe, once=once)
    except (DataError, TypeError) as error:
        raise DataError(f"{shown(path)}: {error}") from error


class _Files:
    """Draws of a source that lies in files."""

    def __init__(self, source: Source, seed: list[int], buffer: int):
        self.records = Records(files_of(source.path, source.format, source.media_root))
        if not len(self.records):
            raise DataError(f"source {source.name} holds no records")
        self.chosen = source.chosen(len(self.records), seed)
        stretches = self.records.stretches
        starts, chosen = self.records.starts, self.chosen
        ends = np.minimum(starts, len(chosen)) if isinstance(chosen, range) else np.searchsorted(chosen, starts)
        sizes = np.diff(ends).tolist()  # [S] of the chosen
        self.seeks = all(stretch.places is not None for stretch in stretches)
        pieces = [
            _cut(size, buffer if stretch.places is not None else size) for size, stretch in zip(sizes, stretches)
        ]
        self.order = Order([piece for cut in pieces for piece in cut], buffer, seed)
        self.size = self.order.n
        self._at: tuple[int, int] | None = None

    def draw(self, k: int) -> tuple[str, Sample | BadLine]:
        epoch, window, place = self.order.place(k)
        if self._at != (epoch, window):
            reading = [int(self.chosen[i]) for i in self.order.reading(epoch, window)]
            self._held = reading if self.seeks else [self.records.read(number) for number in reading]
            self._shuffle, self._at = self.order.shuffle(epoch, window), (epoch, window)
        found = self._held[self._shuffle[place]]
        shard, row = self.records.read(found) if self.seeks else found
        return row.where, shard.sample(row)


class _Playground:
    """Draws of playground families; with ``first:N``, N items over and over."""

    def __init__(self, source: Source, seed: list[int], buffer: int):
        self.families, self.seed = list(source.families), seed
        shares = np.array(list(source.families.values()))
        self.shares = shares / shares.sum()
        chosen = source.chosen(None, seed)
        self.size = None if chosen is None else len(chosen)
        self.order = None if chosen is None else Order(_cut(self.size, buffer), buffer, seed)

    def draw(self, k: int) -> tuple[str, Sample]:
        if self.order is not None:
            epoch, window, place = self.order.place(k)
            k = int(self.order.reading(epoch, window)[self.order.shuffle(epoch, window)[place]])
        rng = np.random.default_rng([*self.seed, 3, k])
        family = self.families[rng.choice(len(self.families), p=self.shares)]
        turns = int(rng.integers(TURNS[0], TURNS[1] + 1))
        item = playground.FAMILIES[family](stream(family, "train", self.seed[0], k), "train", turns, MAX_SIDE)
        return f"playground/{family}/{k}", Sample(f"{family}/{k}", chat(item)[0], f"playground/{family}", item.meta)


def _cut(size: int, piece: int) -> list[int]:
    """``size`` in pieces of at most ``piece``."""
    return [min(piece, size - start) for start in range(0, size, max(piece, 1))]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _source(entry: Any, folder: Path) -> Source:
    entry = _known(entry, {f.name for f in fields(Source)})
    for key in ("path", "media_root"):
        if entry.get(key) and not str(entry[key]).startswith(PREFIX) and not is_address(entry[key]):
            entry[key] = str(folder / entry[key])
    return Source(**entry)


def _known(entry: Any, keys: set[str]) -> dict[str, Any]:
    if not isinstance(entry, dict) or not entry.keys() <= keys:
        wrong = sorted(map(str, entry.keys() - keys)) if isinstance(entry, dict) else entry
        raise DataError(f"{wrong!r}: the known keys are {', '.join(sorted(keys))}")
    return dict(entry)
