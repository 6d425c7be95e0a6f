"""Losses and their normalisers.

The diffusion loss is a weighted sum of cross-entropies at noisy slots; a recipe chooses the weight and what the sum is
divided by. Weights are computed per sample and view (NumPy, beside the noise draw), the normaliser is summed over the
whole update, and both are handed to `weighted`, so that one big batch and its accumulated pieces give the same
gradient. Logits exist for supervised rows only, and for a chunk of those at a time (`cross_entropies`): over 150
thousand words a thousand rows of them take 600 MB, and their gradient as much again.

Weights of a hidden slot:

- ``emrs`` (effective mask ratio scaling, SDAR-VL arXiv 2512.14068): n / k in a block of n maskable slots of which k
  are hidden, so each block with a mask counts by its size. For equal blocks under uniform t the expectation over
  blocks with a mask is exactly the NELBO, over all blocks D / (D + 1) of it.
- ``nelbo``: 1 / t (BD3-LM arXiv 2503.09573, LLaDA).
- ``gamma``: 1 / t, divided by the sum of the weights and not by a count (self-normalised; WeDLM).
- ``none``: 1.
- ``flat``: 1, and so does every slot that is not hidden: for random-token noise, where a visible token may be wrong.

Only ``nelbo`` over answer tokens, or by block, under uniform noise estimates a likelihood bound.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

Weighting = Literal["emrs", "nelbo", "gamma", "none", "flat"]
Normaliser = Literal["weights", "answer", "masked", "block", "sample"]
CHUNK = 2**24  # logits made at a time: 64 MB in float32


def slot_weights(
    weighting: Weighting,
    masked: np.ndarray,
    maskable: np.ndarray,
    block: np.ndarray,
    probability: np.ndarray,
    normaliser: Normaliser | None = None,
) -> tuple[np.ndarray, float]:
    """Weight of every noisy row's cross-entropy [R], and this view's share of the update's normaliser.

    Args:
        masked, maskable: which noisy rows are hidden, and may be hidden: boolean [R].
        block: block index of every row [R].
        probability: chance that noise hides a row [R]: its block's level, 1 for tokens that are always hidden.
        normaliser: what the weighted sum is divided by: the sum of ``weights``, the number of ``answer`` (maskable)
            slots, of ``masked`` slots, of ``block``s (every block counts the same; under ``emrs`` only blocks with a
            mask), or of views of a ``sample`` (every view counts the same). None is the weighting's own: ``answer``
            for ``nelbo``, ``weights`` for the others.
    """
    size = np.bincount(block, weights=maskable)  # n_b [n_blocks]
    count = np.bincount(block, weights=masked)  # k_b [n_blocks]
    weights = _raw_weights(weighting, masked, maskable, (size / np.maximum(count, 1))[block], probability)
    normaliser = normaliser or ("answer" if weighting == "nelbo" else "weights")
    if normaliser == "weights":
        return weights, float((size[count > 0] if weighting == "emrs" else weights).sum())  # equal, but whole numbers
    if normaliser == "answer":
        return weights, float(maskable.sum())
    if normaliser == "masked":
        return weights, float(masked.sum())
    if normaliser == "sample":
        return weights / max(maskable.sum(), 1), 1.0
    counted = count if weighting == "emrs" else size
    return weights / np.maximum(size, 1)[block], float((counted > 0).sum())


def _raw_weights(weighting, masked, maskable, ratio, probability) -> np.ndarray:
    """Weights [R] before any division; ``ratio`` is n / k of each row's block."""
    if weighting == "emrs":
        return masked * ratio
    if weighting in ("nelbo", "gamma"):
        return np.divide(1.0, probability, out=np.zeros(len(masked)), where=masked)
    return (masked if weighting == "none" else maskable).astype(np.float64)


def cross_entropies(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Cross-entropy of every supervised row [S], in float32 at least, with at most about `CHUNK` logits in memory.

    Several chunks are made again, one by one, in the backward pass; a single one is kept.

    Args:
        head: logits [S, V] of hidden states [S, D].
        hidden: [S, D]; targets: int64 [S].
        vocab_size: V.
    """
    rows = max(1, CHUNK // vocab_size)
    if len(hidden) <= rows:
        return _cross_entropy(head, hidden, targets)
    pieces = zip(hidden.split(rows), targets.split(rows))
    return torch.cat([checkpoint(_cross_entropy, head, h, t, use_reentrant=False) for h, t in pieces])


def _cross_entropy(head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = head(hidden)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")


def weighted(losses: torch.Tensor, weights: torch.Tensor, normaliser: float) -> torch.Tensor:
    """``sum_i w_i CE_i / normaliser`` over supervised slots.

    Args:
        losses, weights: float [S].
        normaliser: the update's total over all micro-batches and ranks.
    """
    return (losses * weights).sum() / max(normaliser, 1e-8)
