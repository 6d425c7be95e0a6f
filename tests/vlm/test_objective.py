"""Objective weights by exact enumeration: the identities that tie EMRS, the NELBO and masks together."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from vlm import objective
from vlm.objective import cross_entropies, slot_weights, weighted

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
        weights, normaliser = slot_weights(
            "emrs", masked, np.ones(size, bool), np.zeros(size, int), np.full(size, 0.5)
        )
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
    weights, normaliser = slot_weights("emrs", masked, maskable, block, np.full(7, 0.5))
    expected = 3 * losses[[0, 2]].mean() + 2 * losses[5]
    assert (weights * losses).sum() == pytest.approx(expected)
    assert normaliser == 5  # the third block has no mask and is not counted


def test_emrs_of_ragged_blocks_made_exact_is_the_nelbo():
    """With (n + 1) / k for n / k, averaged over all blocks, blocks of any size give their NELBO exactly: all masks of
    two blocks of 2 and 3 slots, each count of a block equally likely."""
    block = np.array([0, 0, 1, 1, 1])
    losses = [{tuple(m): RNG.random(size) for _, m in masks_of(size)} for size in (2, 3)]
    total = 0.0
    for k_a, a in masks_of(2):
        for k_b, b in masks_of(3):
            probability = 1 / 3 / comb(2, k_a) / 4 / comb(3, k_b)
            weights, _ = slot_weights("emrs", np.append(a, b), np.ones(5, bool), block, np.full(5, 0.5))
            exact = weights * np.array([3 / 2, 3 / 2, 4 / 3, 4 / 3, 4 / 3])
            total += probability * float(exact @ np.append(losses[0][tuple(a)], losses[1][tuple(b)]))
    assert total == pytest.approx(nelbo(losses[0]) + nelbo(losses[1]))


MASKED = np.array([1, 0, 1, 0, 0, 1, 0], bool)
MASKABLE = np.array([1, 1, 1, 0, 1, 1, 1], bool)
BLOCK = np.array([0, 0, 0, 0, 1, 1, 2])
LEVEL = np.array([0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.1])


@pytest.mark.parametrize(
    "weighting, normaliser, weights, share",
    [
        ("emrs", None, [1.5, 0, 1.5, 0, 0, 2, 0], 5),
        ("emrs", "answer", [1.5, 0, 1.5, 0, 0, 2, 0], 6),
        ("emrs", "block", [0.5, 0, 0.5, 0, 0, 1, 0], 2),  # the mean of block means: the paper's form
        ("nelbo", None, [2, 0, 2, 0, 0, 4, 0], 6),
        ("nelbo", "masked", [2, 0, 2, 0, 0, 4, 0], 3),  # the released SDAR-VL file
        ("nelbo", "block", [2 / 3, 0, 2 / 3, 0, 0, 2, 0], 3),
        ("nelbo", "sample", [2 / 6, 0, 2 / 6, 0, 0, 4 / 6, 0], 1),  # DiffusionVL, LLaDA-V
        ("gamma", None, [2, 0, 2, 0, 0, 4, 0], 8),  # WeDLM: weights sum to one
        ("none", None, [1, 0, 1, 0, 0, 1, 0], 3),
        ("flat", None, [1, 1, 1, 0, 1, 1, 1], 6),
    ],
)
def test_weights_and_normalisers_by_hand(weighting, normaliser, weights, share):
    found, total = slot_weights(weighting, MASKED, MASKABLE, BLOCK, LEVEL, normaliser)
    assert found == pytest.approx(weights) and total == pytest.approx(share)


@pytest.mark.parametrize("weighting", ["nelbo", "gamma", "emrs", "none"])
def test_a_level_of_zero_hides_nothing_and_weighs_nothing(weighting):
    none = np.zeros(2, bool)
    weights, share = slot_weights(weighting, none, ~none, np.zeros(2, int), np.zeros(2))
    assert not weights.any() and share == (2 if weighting == "nelbo" else 0)


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
    weights, normaliser = slot_weights("nelbo", masks[0], np.ones(3, bool), np.zeros(3, int), t[:1].repeat(3))
    assert np.allclose(weights, masks[0] / t[0]) and normaliser == 3


def test_loss_is_a_weighted_sum_over_the_normaliser():
    hidden, targets = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4])
    table, weights = torch.randn(7, 3, dtype=torch.float64), torch.tensor([1.0, 0, 2, 0.5, 1])
    log_p = (hidden @ table.T).log_softmax(-1)
    expected = -sum(w * log_p[i, t] for i, (w, t) in enumerate(zip(weights, targets))) / 3
    losses = cross_entropies(lambda rows: rows @ table.T, hidden, targets, len(table))
    assert weighted(losses, weights, 3.0).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 10, 11, 25])
def test_logits_in_chunks_give_the_losses_and_gradients_of_all_at_once(monkeypatch, rows):
    """And no more than a chunk of them exists at a time: 70 logits are ten rows of seven words."""
    hidden, targets = torch.randn(rows, 3, dtype=torch.float64), torch.randint(7, (rows,))
    table, weights, asked = torch.randn(7, 3, dtype=torch.float64), torch.rand(rows), []

    def head(some):
        asked.append(len(some))
        return some @ parameter.T

    found = []
    for chunk in (2**24, 70):
        monkeypatch.setattr(objective, "CHUNK", chunk)
        parameter, inputs = table.clone().requires_grad_(), hidden.clone().requires_grad_()
        losses = cross_entropies(head, inputs, targets, len(table))
        (losses * weights).sum().backward()
        found.append((losses, parameter.grad, inputs.grad))
    for whole, pieces in zip(*found):
        assert torch.allclose(whole, pieces, rtol=1e-6, atol=1e-9)
    assert asked[0] == rows and max(asked[1:]) <= 10
    assert sum(asked[1:]) == (rows if rows <= 10 else 2 * rows)  # several chunks are made again for the backward pass
