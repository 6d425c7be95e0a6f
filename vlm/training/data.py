"""The training stream: playground samples, tokenised, laid out and cut into batches.

The samples of a window are cut into batches of similar length, one sample a row; under ``row_capacity`` into batches
of packs, which fill their rows best fit first (`data_pipelines.packing`). A pack becomes one row as it was packed.

A window of samples is a pure function of (seed, window number), so the stream restarts at any batch without replaying
what came before: a position is (window, batch within it).

Several processes take its batches in turn, so that together they train on what one would, whatever their number. How a
window is cut depends on the lengths of all its samples, so each of them draws every sample.

A window of the playground is drawn before it is cut: its pictures have no headers that would tell what they come to.
Of files, numbers are counted first and media read when their batch is due (`vlm.training.own_data`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from data_pipelines import playground
from data_pipelines.batching import length_buckets
from data_pipelines.packing import packed_batches
from data_pipelines.playground.base import Split, stream
from data_pipelines.playground.conversation import chat
from vlm.checkpoints.load import EMBEDDED
from vlm.composite_processor import processor_of
from vlm.config import DiffusionTraits, VLMConfig
from vlm.layout import Layout, answer_spans, build_layout
from vlm.processor import Encoded, VLMProcessor
from vlm.training.curricula import Phase, draw_block_size
from vlm.training.prefetch import in_order
from vlm.training.recipe import DataRecipe
from vlm.training.timings import Clock


@dataclass
class Prepared:
    """A tokenised, laid-out sample; only the noise is missing."""

    encoded: Encoded
    layout: Layout
    block_size: int
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, of making it (`vlm.training.timings`)

    @property
    def rows(self) -> int:
        return len(self.layout.ids)


@dataclass
class Batch:
    """Samples that train together, and how far the stream has come when all processes have theirs."""

    samples: list[Prepared]
    position: tuple[int, int]
    packs: list[int] | None = None  # how many of the samples, in their order, share each row; None: each has its own

    @classmethod
    def of(cls, packs: Iterable[list[Prepared]], position: tuple[int, int]) -> "Batch":
        """Of the samples of each row; an empty row is left out."""
        kept = [pack for pack in packs if pack]
        return cls(list(chain.from_iterable(kept)), position, [len(pack) for pack in kept])


class PlaygroundStream(IterableDataset):
    """Endless batches of playground samples.

    Args:
        recipe: mixture, block sizes and batch budget.
        processor, traits: how to tokenise and lay out.
        seed: of everything drawn here.
        split: of the playground.

    Attributes:
        start: position of the first batch.
        shard: (index, number) of the processes that share the batches; all of them start at the same position.
    """

    def __init__(self, recipe: DataRecipe, processor: VLMProcessor, traits, seed: int, split: Split = "train"):
        self.recipe, self.processor, self.traits, self.seed, self.split = recipe, processor, traits, seed, split
        self.start, self.shard = (0, 0), (0, 1)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(f"the playground stream has one order: use 0 or 1 workers, not {worker.num_workers}")
        (index, number), batches = self.shard, self._batches()
        while True:
            turn = list(islice(batches, number))
            yield replace(turn[index], position=turn[-1].position)

    def _batches(self) -> Iterator[Batch]:
        """Samples are made up to a window ahead, while the trainer is busy with the one before."""
        (window, _), size = self.start, self.recipe.window
        made = in_order(self.attempt, count(window * size), self.recipe.workers, ahead=size)
        return (Batch.of(packs, position) for position, packs in self._cut_on(made, self.good))

    def _cut_on(self, results: Iterator, good: Callable[[Iterable], Iterable]) -> Iterator[tuple[tuple, list]]:
        """Position and packs of every batch from the start on, of the results from the first window's first on."""
        (window, first), size = self.start, self.recipe.window
        while True:
            for number, packs in enumerate(self._cut(window, good(islice(results, size)))):
                if number >= first:
                    yield (window, number), packs
            window, first = window + 1, 0

    def window(self, number: int) -> Iterator[list[Prepared]]:
        """The samples of every batch of one window, in their seeded order."""
        size = self.recipe.window
        samples = self.samples(range(number * size, (number + 1) * size))
        return (list(chain(*packs)) for packs in self._cut(number, samples))

    def _cut(self, window: int, samples: Iterable) -> Iterator[list[list]]:
        """Batches of packs of samples, or of whatever else has rows."""
        recipe, seed = self.recipe, self.seed + window
        if recipe.row_capacity is None:
            buckets = length_buckets(samples, n_rows, recipe.rows_per_batch, recipe.window, seed)
            return ([[sample] for sample in bucket] for bucket in buckets)
        return packed_batches(samples, n_rows, recipe.row_capacity, recipe.rows_per_batch, seed)

    def samples(self, indices: Iterable[int]) -> Iterator[Prepared]:
        """The samples at ``indices``, in their order."""
        return self.good(map(self.attempt, indices))

    def attempt(self, index: int) -> Prepared:
        """What a worker makes of an index: a sample, or what `good` understands in its place."""
        return self.sample(index)

    def good(self, results: Iterable) -> Iterator[Prepared]:
        """The samples among the results of attempts, in order."""
        return iter(results)

    def sample(self, index: int) -> Prepared:
        """Sample ``index`` of the stream, whatever was drawn before it."""
        rng = np.random.default_rng([self.seed, 1, index])
        phase = self.phase(index)
        names, weights = list(phase.weights), np.array(list(phase.weights.values()))
        family = names[rng.choice(len(names), p=weights / weights.sum())]
        fewest, most = phase.turns_of.get(family, phase.turns)
        turns = int(rng.integers(fewest, most + 1))
        clock = Clock()
        with clock("read"):
            source = stream(family, self.split, self.seed, index)
            item = playground.FAMILIES[family](source, self.split, turns, phase.max_side)
            messages, media = chat(item, self.recipe.spelled)
        with clock("encode"):
            encoded = self.processor.encode(messages, media)
            encoded.id = f"{family}/{index}"
            prepared = self.laid_out(encoded, rng)
        prepared.seconds = clock.seconds
        return prepared

    def laid_out(self, encoded: Encoded, rng: np.random.Generator) -> Prepared:
        """Training rows at a block size that ``rng`` draws."""
        growth = self.recipe.growth  # the size is drawn later; the largest bounds a batch's rows
        size = growth.sizes[-1] if growth else draw_block_size(self.recipe.block_sizes, rng)
        return lay_out(encoded, size, self.recipe, self.traits, self.processor.tokenizer.eos_token_id)

    def phase(self, index: int) -> Phase:
        for phase in self.recipe.phases:
            if index < phase.samples:
                return phase
            index -= phase.samples
        return self.recipe.phases[-1]


def lay_out(encoded: Encoded, block_size: int, recipe: DataRecipe, traits: DiffusionTraits, end: int) -> Prepared:
    """Training rows of one tokenised sample; ``end`` is the token that fills an answer's last block.

    Raises:
        ValueError: for a sample without an answer, or with one that is empty.
    """
    for number, (first, stop) in enumerate(answer_spans(encoded.is_answer), 1):
        if (encoded.input_ids[first:stop] == end).all():
            raise ValueError(f"answer {number} is empty")
    layout = build_layout(
        encoded.input_ids,
        encoded.is_answer,
        block_size=block_size,
        traits=traits,
        end_token_id=end,
        views=recipe.views,
        last_block=recipe.last_block,
    )
    return Prepared(encoded, layout, block_size)


def n_rows(sample) -> int:
    """Of a sample, or of one whose media are not read yet."""
    return sample.rows


Sizes = Sequence[tuple[int, int] | int]  # (width, height) of every image, frames of every video, in reading order


def row_count(
    messages: list[dict], sizes: Sizes, processor: VLMProcessor, recipe: DataRecipe, traits, block_size: int
) -> int:
    """`n_rows` of a sample before its media are read."""
    encoded = unread(messages, sizes, processor)
    return n_rows(lay_out(encoded, block_size, recipe, traits, processor.tokenizer.eos_token_id))


def unread(messages: list[dict], sizes: Sizes, processor: VLMProcessor) -> Encoded:
    """A conversation without its pixels. Raises ValueError as `VLMProcessor.tokens`."""
    none = np.empty(0, np.float32)
    return Encoded(*processor.tokens(messages, sizes), none, none)


def token_counter(model: str | None = None) -> Callable[[list[dict], Sizes], int]:
    """What counts a conversation's tokens as a checkpoint's processor makes them (default: the embedded one's)."""
    directory = str(model or EMBEDDED)
    processor = processor_of(directory, VLMConfig.from_pretrained(directory))
    return lambda messages, sizes: len(processor.tokens(messages, sizes)[0])


# Families whose answers are mostly read off the picture: their words must not enter the vocabulary whole.
_READ_OFF = {"reading"}


def tokenizer_texts(recipe: DataRecipe, seed: int, n_items: int = 4000) -> Iterator[str]:
    """Questions and answers of the mixture, for training a tokenizer."""
    families = sorted({name for phase in recipe.phases for name in phase.weights})
    for index in range(n_items):
        family = families[index % len(families)]
        item = playground.FAMILIES[family](stream(family, "train", seed + 1, index), "train", 4, 96)
        for turn in item.turns:
            yield turn.question
            if family not in _READ_OFF:
                yield turn.answer
