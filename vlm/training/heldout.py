"""The fixed held-out batch on which the nominal NELBO is logged, so that recipes can be compared while they train.

Its pictures, questions and noise depend on the mixture of the recipe's last phase, or on its ``data.heldout``, on the
model's own block size and the constants below: not on the recipe's seed, noise, objective or step. The number is nats
a supervised slot, with mask noise at uniform stratified levels and weights 1 / t. Slots are the answers' tokens and
what fills their last blocks; under shift 1 not the first of a block, which the clean stream predicts.
"""

from dataclasses import replace
from pathlib import Path

import torch

from data_pipelines.batching import length_buckets
from data_pipelines.errors import DataError
from vlm.config import DiffusionTraits
from vlm.processor import VLMProcessor
from vlm.training.collate import collate, nelbo_sample
from vlm.training.data import PlaygroundStream, Prepared, n_rows
from vlm.training.own_data import OwnStream
from vlm.training.recipe import DataRecipe

SAMPLES = 32
SEED = 2  # the evaluation's own items have 1


def heldout_samples(recipe: DataRecipe, processor: VLMProcessor, traits: DiffusionTraits) -> list[Prepared]:
    """`SAMPLES` samples of the recipe's own held-out data, else of the playground's split, one noisy view each.

    Own samples that cannot be used are left out. Raises DataError if that is all of them.
    """
    plain = replace(recipe, phases=recipe.phases[-1:], block_sizes={traits.block_size: 1.0}, growth=None, views=1)
    if recipe.heldout:
        return _own_samples(replace(plain, sources=recipe.heldout), processor, traits)
    stream = PlaygroundStream(plain, processor, traits, SEED, split="heldout")
    return [stream.sample(index) for index in range(SAMPLES)]


def _own_samples(recipe: DataRecipe, processor: VLMProcessor, traits: DiffusionTraits) -> list[Prepared]:
    stream = OwnStream(recipe, processor, traits, SEED, longest=None, skipped=Path())  # `attempt` lists nothing
    tried = [stream.attempt(index) for index in range(min(SAMPLES, stream.mixture.size or SAMPLES))]
    good = [sample for sample in tried if not isinstance(sample, DataError)]
    if not good:
        raise DataError(f"none of data.heldout can be used; the first: {tried[0]}")
    return good


def heldout_batches(
    recipe: DataRecipe, processor: VLMProcessor, traits: DiffusionTraits
) -> tuple[list[dict[str, torch.Tensor]], float]:
    """The batch in pieces that keep the recipe's budget, and the number of supervised slots in all of them."""
    samples = heldout_samples(recipe, processor, traits)
    pieces = list(length_buckets(samples, n_rows, recipe.rows_per_batch, SAMPLES, seed=SEED))
    noised = [[nelbo_sample(sample, traits.mask_token_id, SEED) for sample in piece] for piece in pieces]
    pad = processor.tokenizer.pad_token_id
    batches = [collate(piece, drawn, pad) for piece, drawn in zip(pieces, noised)]
    return batches, sum(draw.normaliser for drawn in noised for draw in drawn)
