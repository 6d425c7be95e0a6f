"""Training on one's own data: the batches of the playground's stream, drawn from a mixture of sources.

Windows, batches, positions and the turns of several processes are `PlaygroundStream`'s; only where a sample comes from
differs. So the run resumes exactly, as far as the mixture's sources do.

A window is planned before it is read: texts are tokenised, rows counted from the headers of media, too long samples
left out, batches cut. Media are decoded batch by batch, `AHEAD` samples before the trainer. So a window costs its
texts and not its pixels. What only decoding can count (an animation's times, the frames of a converted model's videos)
is decoded when it is planned.

The deciding choice: a sample that cannot be used leaves its place empty and its reason in a file. Whichever process
met it, the run lists it at its end, and nothing takes its place: where pixels turn out damaged, a batch is smaller.
"""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import TemplateError

from data_pipelines.cache import MediaCache
from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.mixture import Mixture
from data_pipelines.readers import BadLine
from data_pipelines.readers.resolve import closed, reopened
from data_pipelines.record import Message
from data_pipelines.unread import told, unread_media
from vlm.processor import Encoded, VLMProcessor, texts_of
from vlm.training.data import Batch, PlaygroundStream, Prepared, unread
from vlm.training.prefetch import in_order
from vlm.training.recipe import DataRecipe
from vlm.training.timings import Clock

AHEAD = 64  # samples whose media are decoded before the trainer asks
LISTED = 20  # skipped samples on the terminal; the file has all
BARREN = 1000  # as many bad samples in a row, and at least all there are, end the run


Stage = Literal["plan", "read"]


@dataclass
class Planned:
    """A sample whose media are not read yet: what is needed to read them, and what it will come to."""

    index: int
    where: str
    id: str
    messages: list[Message]
    rows: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.where}: sample {self.id!r}"


class OwnStream(PlaygroundStream):
    """Endless batches of a recipe's own sources.

    Args:
        recipe: sources, shuffle, block sizes, batch budget and what to do about bad samples.
        processor, traits: how to tokenise and lay out.
        seed: of everything drawn here.
        longest: the most positions that the model has; a longer sample is a bad one.
        skipped: the file that lists bad samples.

    Raises:
        DataError: for a source that cannot be read; while iterating, for a bad sample under the policy ``raise``, and
            when no sample is good.
    """

    def __init__(
        self, recipe: DataRecipe, processor: VLMProcessor, traits, seed: int, longest: int | None, skipped: Path
    ):
        super().__init__(recipe, processor, traits, seed)
        self.mixture = Mixture(recipe.sources, seed, recipe.buffer)
        kept = recipe.cache
        self.cache = None if kept is None else MediaCache(kept.folder, int(kept.max_gb * 10**9))
        self.longest, self.skipped = longest, skipped
        self._barren: dict[Stage, int] = {"plan": 0, "read": 0}  # bad samples in a row
        self._listed: set[str] | None = None

    def _batches(self) -> Iterator[Batch]:
        """Windows are planned by one process, media read by the others."""
        (window, _), recipe = self.start, self.recipe
        plans = in_order(self.plan, count(window * recipe.window), min(1, recipe.workers), ahead=recipe.window)
        cut: deque[tuple[tuple[int, int], list[int]]] = deque()  # packs' lengths, of the batches that are being read

        def due() -> Iterator[Planned | Prepared]:
            for position, packs in self._cut_on(plans, partial(self.good, stage="plan")):
                cut.append((position, [len(pack) for pack in packs]))
                yield from chain(*packs)

        read = in_order(self.read, due(), recipe.workers, ahead=AHEAD)
        for first in read:
            position, lengths = cut.popleft()
            results = chain([first], islice(read, sum(lengths) - 1))
            batch = Batch.of([list(self.good(islice(results, length))) for length in lengths], position)
            if batch.samples:
                yield batch

    def window(self, number: int) -> Iterator[list[Prepared]]:
        size = self.recipe.window
        plans = self.good(map(self.plan, range(number * size, (number + 1) * size)), stage="plan")
        batches = (list(self.good(map(self.read, chain(*packs)))) for packs in self._cut(number, plans))
        return (batch for batch in batches if batch)

    def sample(self, index: int) -> Prepared:
        """Sample ``index`` of the stream. Raises DataError for one that cannot be used."""
        result = self.attempt(index)
        if isinstance(result, DataError):
            raise result
        return result

    def attempt(self, index: int) -> Prepared | DataError:
        return self.read(self.plan(index))

    def plan(self, index: int) -> Planned | Prepared | DataError:
        """A sample without its media, or with them if they are needed to count it, or why there is none."""
        clock = Clock()
        try:
            with clock("read"):
                where, found = self.mixture.named(index)
        except DataError as error:  # the file is another one now
            return error
        if isinstance(found, BadLine):
            return DataError(found.reason)
        planned = Planned(index, where, found.id, closed(found.messages), 0, clock.seconds)
        try:
            with clock("read"):
                media = unread_media(found.messages, self.recipe.video)
            with clock("encode"):
                sample = self._rows_of(planned, unread(*told(found.messages, media), self.processor))
        except (ValueError, TemplateError):  # what is wrong with it, or how long it is, reading it tells
            return self.read(planned)
        planned.rows = sample.rows
        return self._fault(planned, sample) or planned

    def read(self, planned: Planned | Prepared | DataError) -> Prepared | DataError:
        """A planned sample with its media: workers only make samples, the main process skips and lists."""
        if not isinstance(planned, Planned):
            return planned
        clock, messages = Clock(), planned.messages
        try:
            with clock("decode"):
                messages = reopened(messages)
                media = open_media(messages, sampling=self.recipe.video, cache=self.cache)
            with clock("encode"):
                sample = self._rows_of(planned, self.processor.encode(messages, media))
        except (ValueError, TemplateError) as error:
            return DataError(f"{planned.name}: {' '.join(str(error).split())}")
        clock.add(planned.seconds)
        sample.seconds = clock.seconds
        return self._fault(planned, sample) or sample

    def _rows_of(self, planned: Planned, encoded: Encoded) -> Prepared:
        encoded.id = f"{planned.where} (place {planned.index})"
        return self.laid_out(encoded, np.random.default_rng([self.seed, 1, planned.index]))

    def _fault(self, planned: Planned, sample: Prepared) -> DataError | None:
        """Why a sample is too long; None if it is not."""
        positions, most = int(sample.layout.position.max()) + 1, self.recipe.rows_per_batch
        if self.longest is not None and positions > self.longest:
            return DataError(f"{planned.name}: {positions} positions, but the model has {self.longest}")
        if sample.rows > most:
            return DataError(f"{planned.name}: {sample.rows} rows, more than data.rows_per_batch {most}")
        return None

    def good(self, results: Iterable, stage: Stage = "read") -> Iterator:
        for result in results:
            if isinstance(result, DataError):
                self._skip(result, stage)
                continue
            self._barren[stage] = 0
            yield result

    def _skip(self, error: DataError, stage: Stage) -> None:
        if self.recipe.bad_samples == "raise":
            raise error
        if self._listed is None:
            self._listed = set(skipped_reasons(self.skipped))
        reason, index = str(error), self.shard[0]
        if index == 0 and reason not in self._listed:  # every process reads every sample
            with self.skipped.open("a", encoding="utf-8") as file:
                file.write(json.dumps(reason, ensure_ascii=False) + "\n")
            self._listed.add(reason)
        self._barren[stage] += 1
        if self._barren[stage] >= max(BARREN, self.mixture.size):
            raise DataError(f"the last {self._barren[stage]} samples cannot be used; the last of them: {reason}")


def skipped_reasons(skipped: Path) -> list[str]:
    """Why samples were skipped, one reason a sample."""
    if not skipped.exists():
        return []
    return [json.loads(line) for line in skipped.read_text("utf-8").splitlines()]


def list_skipped(skipped: Path) -> None:
    """Say on stderr which samples were skipped; nothing if none was."""
    reasons = skipped_reasons(skipped)
    if reasons:
        print(f"{len(reasons)} samples were skipped, all of them listed in {skipped}:", file=sys.stderr)
    for reason in reasons[:LISTED]:
        print(f"  {reason}", file=sys.stderr)


def own_texts(recipe: DataRecipe, seed: int, n_samples: int = 4000) -> Iterator[str]:
    """Texts of the sources' first samples, for training a tokenizer."""
    for _, sample in islice(Mixture(recipe.sources, seed, recipe.buffer).samples(), n_samples):
        if not isinstance(sample, BadLine):
            yield from (text for message in sample.messages for text in texts_of(message))
