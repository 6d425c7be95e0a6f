"""Losses and their normalisers.

The diffusion loss is a weighted sum of cross-entropies at masked slots; a recipe chooses the weight. The weights are
computed per sample (NumPy, beside the noise draw), summed over the whole update for the normaliser, and handed to
`weighted_cross_entropy`, so that one big batch and its accumulated pieces give the same gradient.

- ``emrs`` (effective mask ratio scaling, SDAR-VL arXiv 2512.14068): each block counts by its size n, and within a
  block every masked slot counts n / k for k realised masks; blocks without a mask are not counted. For equal blocks
  under uniform t its expectation is exactly the NELBO.
- ``nelbo``: weight 1 / t, normalised by the number of maskable tokens (BD3-LM arXiv 2503.09573, LLaDA).
- ``none``: every masked slot counts 1, normalised by their number.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

Weighting = Literal["emrs", "nelbo", "none"]


def slot_weights(
    weighting: Weighting, masked: np.ndarray, maskable: np.ndarray, block: np.ndarray, t: np.ndarray
) -> tuple[np.ndarray, float]:
    """Weight of every noisy row's cross-entropy [R] and this sample's share of the normaliser.

    Args:
        masked, maskable: boolean per noisy row [R]; ``block`` its block index [R]; ``t`` the level of each block.
    """
    if weighting == "nelbo":
        return masked / t[block], float(maskable.sum())
    if weighting == "none":
        return masked.astype(np.float64), float(masked.sum())
    size = np.bincount(block, weights=maskable, minlength=len(t))  # n_b
    count = np.bincount(block, weights=masked, minlength=len(t))  # k_b
    ratio = size / np.maximum(count, 1)
    return masked * ratio[block], float(size[count > 0].sum())


def weighted_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, normaliser: float
) -> torch.Tensor:
    """``sum_i w_i CE_i / normaliser`` over supervised slots.

    Args:
        logits: [S, V]; targets: int64 [S]; weights: float [S].
        normaliser: the update's total over all micro-batches and ranks.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")  # [S]
    return (losses * weights).sum() / max(normaliser, 1e-8)
