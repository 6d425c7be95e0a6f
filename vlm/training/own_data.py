"""Training on one's own data: the batches of the playground's stream, drawn from a mixture of sources.

Windows, batches, positions and the turns of several processes are `PlaygroundStream`'s; only where a sample comes from
differs. So the run resumes exactly, as far as the mixture's sources do.

The deciding choice: a sample that cannot be used leaves its place empty and its reason in a file. Whichever process
met it, the run lists it at its end, and nothing takes its place.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jinja2 import TemplateError

from data_pipelines.cache import MediaCache
from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.mixture import Mixture
from data_pipelines.readers import BadLine
from vlm.processor import VLMProcessor, texts_of
from vlm.training.data import PlaygroundStream, Prepared, n_rows
from vlm.training.recipe import DataRecipe
from vlm.training.timings import Clock

LISTED = 20  # skipped samples on the terminal; the file has all
BARREN = 1000  # as many bad samples in a row, and at least all there are, end the run


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
        self._barren = 0  # bad samples in a row
        self._listed: set[str] | None = None

    def sample(self, index: int) -> Prepared:
        """Sample ``index`` of the stream. Raises DataError for one that cannot be used."""
        clock = Clock()
        with clock("read"):
            where, found = self.mixture.named(index)
        if isinstance(found, BadLine):
            raise DataError(found.reason)
        try:
            with clock("decode"):
                media = open_media(found.messages, sampling=self.recipe.video, cache=self.cache)
            with clock("encode"):
                encoded = self.processor.encode(found.messages, media)
                encoded.id = f"{where} (place {index})"
                prepared = self.laid_out(encoded, np.random.default_rng([self.seed, 1, index]))
            self._check_length(prepared)
        except (ValueError, TemplateError) as error:
            raise DataError(f"{where}: sample {found.id!r}: {' '.join(str(error).split())}") from error
        prepared.seconds = clock.seconds
        return prepared

    def _check_length(self, sample: Prepared) -> None:
        positions, rows = int(sample.layout.position.max()) + 1, n_rows(sample)
        if self.longest is not None and positions > self.longest:
            raise DataError(f"{positions} positions, but the model has {self.longest}")
        if rows > self.recipe.rows_per_batch:
            raise DataError(f"{rows} rows, more than data.rows_per_batch {self.recipe.rows_per_batch}")

    def attempt(self, index: int) -> Prepared | DataError:
        """A sample, or why there is none: workers only make samples, this process skips and lists."""
        try:
            return self.sample(index)
        except DataError as error:
            return error

    def good(self, results: Iterable[Prepared | DataError]) -> Iterator[Prepared]:
        for result in results:
            if isinstance(result, DataError):
                self._skip(result)
                continue
            self._barren = 0
            yield result

    def _skip(self, error: DataError) -> None:
        if self.recipe.bad_samples == "raise":
            raise error
        if self._listed is None:
            self._listed = set(skipped_reasons(self.skipped))
        reason, index = str(error), self.shard[0]
        if index == 0 and reason not in self._listed:  # every process reads every sample
            with self.skipped.open("a", encoding="utf-8") as file:
                file.write(json.dumps(reason, ensure_ascii=False) + "\n")
            self._listed.add(reason)
        self._barren += 1
        if self._barren >= max(BARREN, self.mixture.size):
            raise DataError(f"the last {self._barren} samples cannot be used; the last of them: {reason}")


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
