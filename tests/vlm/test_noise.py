"""Noise distributions by their moments and end points; draws by their streams."""

import numpy as np
import pytest

from vlm.noise import BetaCurriculum, Uniform, draw_masks, levels, noise_rng


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_beta_curriculum_moments(progress):
    """Mean mu and variance mu (1 - mu) / (C + 1), both moving linearly (SDAR-VL)."""
    schedule = BetaCurriculum(0.5, 0.7, 4.0, 50.0)
    mean = 0.5 + 0.2 * progress
    concentration = 4 + 46 * progress
    t = schedule.sample(np.random.default_rng(0), 200_000, progress)
    assert t.mean() == pytest.approx(mean, abs=3e-3)
    assert t.var() == pytest.approx(mean * (1 - mean) / (concentration + 1), rel=0.02)


def test_released_settings_start_uniform_and_end_at_beta_40_10():
    schedule = BetaCurriculum()
    assert schedule.at(0.0) == (1.0, 1.0)
    assert schedule.at(1.0) == pytest.approx((40.0, 10.0))


def test_sequence_level_is_shared_and_block_level_is_not():
    shared = levels(Uniform(), "sequence", np.random.default_rng(0), 6, 0.0)
    independent = levels(Uniform(), "block", np.random.default_rng(0), 6, 0.0)
    assert len(set(shared)) == 1 and len(set(independent)) == 6


def test_asynchronous_levels_lower_the_variance_by_the_published_amount():
    """ABNS Lemma 2: with B blocks the variance of the mean falls by (1 - 1/B) Var_t(mu(t)); here mu(t) = t^2."""
    rng, blocks, draws = np.random.default_rng(0), 5, 40_000
    noise = rng.normal(0, 0.1, (draws, blocks))
    estimate = {
        level: np.mean([levels(Uniform(), level, rng, blocks, 0.0) ** 2 for _ in range(draws)] + noise, axis=1).var()
        for level in ("sequence", "block")
    }
    var_mu = 1 / 5 - 1 / 9
    assert estimate["sequence"] - estimate["block"] == pytest.approx((1 - 1 / blocks) * var_mu, rel=0.05)


def test_masks_stay_within_maskable_rows_and_follow_their_block():
    rng = np.random.default_rng(0)
    block, maskable = np.repeat([0, 1, 2], 4000), np.tile([True, False], 6000)
    masked = draw_masks(rng, np.array([0.0, 0.4, 1.0]), block, maskable)
    assert not masked[~maskable].any()
    rates = [masked[(block == b) & maskable].mean() for b in range(3)]
    assert rates[0] == 0 and rates[2] == 1 and rates[1] == pytest.approx(0.4, abs=0.03)


def test_streams_depend_on_every_argument():
    keys = [(0, 0, "a", 1), (1, 0, "a", 1), (0, 1, "a", 1), (0, 0, "b", 1), (0, 0, "a", 2)]
    draws = [noise_rng(*key).random() for key in keys]
    assert len(set(draws)) == len(keys)
    assert noise_rng(0, 0, "a", 1).random() == draws[0]


@pytest.mark.parametrize("wrong", [lambda: Uniform(0.5, 0.5), lambda: Uniform(0, 1.5), lambda: BetaCurriculum(0.0)])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="noise range|Beta means"):
        wrong()


def test_negative_concentration_is_refused():
    with pytest.raises(ValueError, match="concentrations"):
        BetaCurriculum(concentration_start=-1)
