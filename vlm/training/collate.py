"""From prepared samples to the tensors of one forward pass: noise drawn, losses weighted, rows packed and padded.

Runs in the main process when an update's micro-batches are gathered, so noise depends on (seed, step, sample id, view)
and on nothing else: not on workers, ranks, or how samples were batched or packed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vision_encoders.pictures import joined
from vlm.attention import PADDING, Rows
from vlm.composite import joined_media
from vlm.config import DiffusionTraits
from vlm.layout import pack
from vlm.noise import (
    LOWEST,
    NoiseTokens,
    complement,
    corrupt,
    draw_exact_masks,
    draw_masks,
    levels,
    noise_rng,
)
from vlm.objective import slot_weights
from vlm.training.data import Prepared
from vlm.training.recipe import NoiseRecipe, ObjectiveRecipe

IGNORED = -100


@dataclass
class NoisedSample:
    """One sample's rows after noising: ids, 1 at masks, diffusion targets and their weights, AR targets; all [R]."""

    ids: np.ndarray
    masked: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    normaliser: float
    next_targets: np.ndarray


def noise_tokens(tokenizer, traits: DiffusionTraits, noise: NoiseRecipe) -> NoiseTokens:
    """The token ids that a recipe's noise needs.

    Raises:
        ValueError: for an always-masked token that the tokenizer lacks, or noise of another kind than the model's.
    """
    if noise.corruption != traits.noise:
        raise ValueError(f"noise.corruption {noise.corruption!r} differs from the model's noise {traits.noise!r}")
    vocabulary = tokenizer.get_vocab()
    for token in noise.always_masked:
        if token not in vocabulary:
            raise ValueError(f"noise.always_masked {token!r} is not a token of the model")
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {traits.mask_token_id}
    ordinary = np.array(sorted(set(vocabulary.values()) - special))
    return NoiseTokens(traits.mask_token_id, tuple(vocabulary[token] for token in noise.always_masked), ordinary)


def noise_sample(
    sample: Prepared,
    tokens: NoiseTokens,
    noise: NoiseRecipe,
    objective: ObjectiveRecipe,
    seed: int,
    step: int,
    progress: float,
) -> NoisedSample:
    """Draw levels and masks of every view of one sample and weigh its slots."""
    layout, name = sample.layout, sample.encoded.id
    ids, weights, normaliser = layout.ids.copy(), np.zeros(len(layout.ids)), 0.0
    drawn = None  # levels and masks of the view before
    for view in range(1, int(layout.noise_view.max()) + 1):
        rows = np.flatnonzero(layout.noise_view == view)
        block, maskable = layout.block[rows] - layout.block[rows[0]], layout.maskable[rows]
        always = maskable & np.isin(layout.ids[rows], tokens.always)
        rng = noise_rng(seed, step, name, view)
        if noise.complementary and view % 2 == 0:
            drawn = complement(*drawn, maskable & ~always)
        else:
            shared = noise_rng(seed, step, "", view) if noise.level == "batch" else rng
            drawn = _draw(noise, rng, shared, block, maskable & ~always, progress)
        t, masked = drawn
        masked, probability = masked | always, np.where(always, 1.0, t[block])
        weights[rows], share = slot_weights(
            objective.weighting, masked, maskable, block, probability, objective.normaliser
        )
        normaliser += share
        ids[rows] = corrupt(rng, layout.ids[rows], masked, tokens, noise.corruption, noise.random_share)
    targets = np.where(weights > 0, layout.ids, IGNORED)
    next_ids = np.append(layout.ids[1:], IGNORED)
    next_targets = np.where(layout.next_supervised, next_ids, IGNORED)
    return NoisedSample(ids, (ids == tokens.mask).astype(np.int64), targets, weights, normaliser, next_targets)


def nelbo_sample(sample: Prepared, mask_token_id: int, seed: int) -> NoisedSample:
    """Noise by which recipes are compared: uniform stratified levels, 1 / t weights, the same at every step."""
    noise, objective = NoiseRecipe(stratified=True), ObjectiveRecipe(weighting="nelbo")
    return noise_sample(sample, NoiseTokens(mask_token_id), noise, objective, seed, step=0, progress=0.0)


def _draw(noise: NoiseRecipe, rng, level_rng, block, maskable, progress) -> tuple[np.ndarray, np.ndarray]:
    """Levels [n_blocks] and masks [R] of one view."""
    t = levels(noise.schedule, noise.level, level_rng, int(block.max()) + 1, progress, noise.stratified)
    if noise.complementary:
        t = np.minimum(t, 1 - LOWEST)  # the twin's level 1 - t has the same floor
    return t, (draw_exact_masks if noise.exact_count else draw_masks)(rng, t, block, maskable)


def _pad(arrays: list[np.ndarray], fill: float) -> torch.Tensor:
    """Right-pad 1-D arrays to one length: [B, R]."""
    out = np.full((len(arrays), max(map(len, arrays))), fill, dtype=arrays[0].dtype)
    for row, array in zip(out, arrays):
        row[: len(array)] = array
    return torch.from_numpy(out)


def collate(
    samples: list[Prepared], noised: list[NoisedSample], pad_token_id: int, packs: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """Tensors of one micro-batch: ids, source, row fields [B, R]; targets and weights [B, R]; pixels.

    Args:
        packs: how many of the samples, in their order, share each row; None gives each its own.

    Raises:
        ValueError: for packs of more or fewer samples than there are.
    """
    groups = list(_shared(len(samples), [1] * len(samples) if packs is None else packs))
    layouts = [pack([samples[i].layout for i in group]) for group in groups]
    columns: dict[str, list[np.ndarray]] = {
        name: [np.concatenate([getattr(noised[i], name) for i in group]) for group in groups]
        for name in ("ids", "masked", "targets", "weights", "next_targets")
    }
    batch = {
        "ids": _pad(columns["ids"], pad_token_id),
        **{name: _pad([getattr(layout, name) for layout in layouts], fill) for name, fill in _ROW_FILL.items()},
        "masked": _pad(columns["masked"], 0),
        "targets": _pad(columns["targets"], IGNORED),
        "weights": _pad([w.astype(np.float32) for w in columns["weights"]], 0),
        "next_targets": _pad(columns["next_targets"], IGNORED),
    }
    for name, field in (("pixel_values", "images"), ("pixel_values_videos", "frames")):
        pixels = joined([getattr(sample.encoded, field) for sample in samples])
        if pixels is not None:
            batch[name] = pixels
    media = [sample.encoded.media for sample in samples]
    if any(found is not None for found in media):
        batch["media"] = joined_media([found for found in media if found is not None])
    return batch


def _shared(n_samples: int, packs: Sequence[int]) -> Iterator[range]:
    """The samples of each row."""
    if sum(packs) != n_samples:
        raise ValueError(f"packs of {sum(packs)} samples, but there are {n_samples}")
    first = 0
    for length in packs:
        yield range(first, first + length)
        first += length


# What padding holds in each field of a layout that the model reads.
_ROW_FILL = {"source": -1, "position": 0, "segment": PADDING, "view": 0, "block_start": 0, "block_end": 0}


def rows_of(batch: dict[str, torch.Tensor]) -> Rows:
    return Rows(*(batch[name] for name in ("position", "segment", "view", "block_start", "block_end", "masked")))
