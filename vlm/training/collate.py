"""From prepared samples to the tensors of one forward pass: noise drawn, rows padded, losses weighted.

Runs in the main process when an update's micro-batches are gathered, so noise depends on (seed, step, sample id, view)
and on nothing else: not on workers, ranks, or how samples were batched.
"""

from dataclasses import dataclass

import numpy as np
import torch

from vlm.attention import PADDING, Rows
from vlm.noise import draw_masks, levels, noise_rng
from vlm.objective import slot_weights
from vlm.training.data import Prepared
from vlm.training.recipe import NoiseRecipe, ObjectiveRecipe

IGNORED = -100


@dataclass
class NoisedSample:
    """One sample's rows after noising: ids [R], diffusion targets and weights [R], AR targets [R]."""

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    normaliser: float
    next_targets: np.ndarray


def noise_sample(
    sample: Prepared,
    mask_token_id: int,
    noise: NoiseRecipe,
    objective: ObjectiveRecipe,
    seed: int,
    step: int,
    progress: float,
) -> NoisedSample:
    """Draw levels and masks of one sample and weigh its slots."""
    layout = sample.layout
    noisy = layout.view > 0
    block, maskable = layout.block[noisy], layout.maskable[noisy]
    rng = noise_rng(seed, step, sample.encoded.id, view=1)
    t = levels(noise.schedule, noise.level, rng, layout.n_blocks, progress)
    masked = draw_masks(rng, t, block, maskable)
    slot, normaliser = slot_weights(objective.weighting, masked, maskable, block, t)
    ids, targets, weights = layout.ids.copy(), np.full(len(layout.ids), IGNORED), np.zeros(len(layout.ids))
    targets[noisy] = np.where(masked, layout.ids[noisy], IGNORED)
    weights[noisy] = slot
    ids[noisy] = np.where(masked, mask_token_id, layout.ids[noisy])
    next_ids = np.append(layout.ids[1:], IGNORED)
    return NoisedSample(ids, targets, weights, normaliser, np.where(layout.next_supervised, next_ids, IGNORED))


def _pad(arrays: list[np.ndarray], fill: float) -> torch.Tensor:
    """Right-pad 1-D arrays to one length: [B, R]."""
    out = np.full((len(arrays), max(map(len, arrays))), fill, dtype=arrays[0].dtype)
    for row, array in zip(out, arrays):
        row[: len(array)] = array
    return torch.from_numpy(out)


def collate(samples: list[Prepared], noised: list[NoisedSample], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Tensors of one micro-batch: ids, source, row fields [B, R]; targets and weights [B, R]; pixels."""
    layouts = [sample.layout for sample in samples]
    batch = {
        "ids": _pad([n.ids for n in noised], pad_token_id),
        "source": _pad([layout.source for layout in layouts], -1),
        "position": _pad([layout.position for layout in layouts], 0),
        "segment": _pad([np.zeros(len(layout.ids), np.int64) for layout in layouts], PADDING),
        "view": _pad([layout.view for layout in layouts], 0),
        "block_start": _pad([layout.block_start for layout in layouts], 0),
        "block_end": _pad([layout.block_end for layout in layouts], 0),
        "targets": _pad([n.targets for n in noised], IGNORED),
        "weights": _pad([n.weights.astype(np.float32) for n in noised], 0),
        "next_targets": _pad([n.next_targets for n in noised], IGNORED),
    }
    for name, field in (("pixel_values", "images"), ("pixel_values_videos", "frames")):
        pixels = np.concatenate([getattr(sample.encoded, field) for sample in samples])
        if len(pixels):
            batch[name] = torch.from_numpy(pixels)
    return batch


def rows_of(batch: dict[str, torch.Tensor]) -> Rows:
    return Rows(*(batch[name] for name in ("position", "segment", "view", "block_start", "block_end")))
