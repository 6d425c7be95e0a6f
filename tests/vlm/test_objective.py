"""Objective weights by exact enumeration: the identities that tie EMRS, the NELBO and masks together."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from vlm.objective import slot_weights, weighted_cross_entropy

RNG = np.random.default_rng(0)


def masks_of(size: int):
    for k in range(size + 1):
        for chosen in combinations(range(size), k):
            yield k, np.isin(np.arange(size), chosen)


def nelbo(losses: dict) -> float:
    """sum_k E[S_k] / k, S_k the summed cross-entropy under k random masks (BD3-LM, discrete form)."""
    size = len(next(iter(losses)))
    return sum(
        sum(losses[tuple(m)][m].sum() for k, m in masks_of(size) if k == wanted) / comb(size, wanted) / wanted
        for wanted in range(1, size + 1)
    )


@pytest.mark.parametrize("size", [1, 3, 4])
def test_emrs_expectation_is_the_nelbo(size):
    """Under uniform t every mask count is equally likely, P(k) = 1/(D+1). EMRS averaged over non-empty blocks is the
    NELBO; over all blocks it is D/(D+1) of it."""
    losses = {tuple(m): RNG.random(size) for _, m in masks_of(size)}
    over_all, non_empty = 0.0, 0.0
    for k, masked in masks_of(size):
        probability = 1 / (size + 1) / comb(size, k)
        weights, normaliser = slot_weights("emrs", masked, np.ones(size, bool), np.zeros(size, int), np.array([0.5]))
        value = float((weights * losses[tuple(masked)]).sum())
        assert normaliser == (size if k else 0)
        over_all += probability * value
        non_empty += probability * (k > 0)
    truth = nelbo(losses)
    assert over_all == pytest.approx(size / (size + 1) * truth)
    assert over_all / non_empty == pytest.approx(truth)


def test_emrs_of_ragged_blocks_is_the_size_weighted_mean_of_block_means():
    masked = np.array([1, 0, 1, 0, 0, 1, 0], bool)
    maskable = np.array([1, 1, 1, 0, 1, 1, 1], bool)
    block = np.array([0, 0, 0, 0, 1, 1, 2])
    losses = RNG.random(7)
    weights, normaliser = slot_weights("emrs", masked, maskable, block, np.full(3, 0.5))
    expected = 3 * losses[[0, 2]].mean() + 2 * losses[5]
    assert (weights * losses).sum() == pytest.approx(expected)
    assert normaliser == 5  # the third block has no mask and is not counted


def test_nelbo_weights_are_unbiased_for_uniform_levels():
    """E over t and masks of sum CE/t equals sum_k E[S_k]/k (Monte Carlo, D = 3)."""
    size, draws = 3, 200_000
    losses = {tuple(m): RNG.random(size) for _, m in masks_of(size)}
    t = RNG.uniform(1e-4, 1, draws)
    masks = RNG.random((draws, size)) < t[:, None]
    total = 0.0
    for level, masked in zip(t, masks):
        if masked.any():
            total += losses[tuple(masked)][masked].sum() / level
    assert total / draws == pytest.approx(nelbo(losses), rel=0.05)
    weights, normaliser = slot_weights("nelbo", masks[0], np.ones(3, bool), np.zeros(3, int), t[:1])
    assert np.allclose(weights, masks[0] / t[0]) and normaliser == 3


def test_loss_is_a_weighted_sum_over_the_normaliser():
    logits, targets = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4])
    weights = torch.tensor([1.0, 0, 2, 0.5, 1])
    log_p = logits.log_softmax(-1)
    expected = -sum(w * log_p[i, t] for i, (w, t) in enumerate(zip(weights, targets))) / 3
    assert weighted_cross_entropy(logits, targets, weights, 3.0).item() == pytest.approx(expected.item(), rel=1e-6)
