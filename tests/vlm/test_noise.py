"""Noise distributions by their moments and end points; draws by their streams."""

import numpy as np
import pytest

from vlm.noise import (
    PUBLISHED,
    BetaCurriculum,
    NoiseTokens,
    Uniform,
    complement,
    corrupt,
    draw_exact_masks,
    draw_masks,
    levels,
    noise_rng,
)


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


@pytest.mark.parametrize(
    "name, start, end, deviation",
    [
        ("pbnc_paper_reasoning", (2.0, 2.0), (17.5, 7.5), 0.090),
        ("pbnc_paper_general", (2.0, 2.0), (35.0, 15.0), 0.064),
        ("pbnc_released", (1.0, 1.0), (40.0, 10.0), 0.056),
    ],
)
def test_published_curricula_by_name(name, start, end, deviation):
    schedule = PUBLISHED[name]
    assert schedule.at(0.0) == pytest.approx(start) and schedule.at(1.0) == pytest.approx(end)
    assert schedule.sample(np.random.default_rng(0), 100_000, 1.0).std() == pytest.approx(deviation, abs=1e-3)


def test_stratified_levels_fill_every_stratum_once_and_are_permuted():
    rng, n = np.random.default_rng(0), 8
    draws = np.array([levels(Uniform(0.2, 1.0), "block", rng, n, 0.0, stratified=True) for _ in range(4000)])
    strata = np.floor((draws - 0.2) / 0.8 * n).astype(int)  # [draws, n]
    assert (np.sort(strata, axis=1) == np.arange(n)).all()
    counts = np.array([np.bincount(column, minlength=n) for column in strata.T])  # where each place's level fell
    assert np.abs(counts / 4000 - 1 / n).max() < 0.03  # the published trainers tie place k to stratum k


@pytest.mark.parametrize("schedule", [Uniform(), BetaCurriculum(0.5, 0.8, 2.0, 50.0)])
def test_stratified_levels_keep_the_distribution_and_lower_the_variance(schedule):
    """Every place alone has the schedule's distribution; the mean of a sequence varies far less."""
    rng, n = np.random.default_rng(0), 8
    plain = np.array([levels(schedule, "block", rng, n, 0.1) for _ in range(4000)])
    spread = np.array([levels(schedule, "block", rng, n, 0.1, stratified=True) for _ in range(4000)])
    quantiles = np.linspace(0.05, 0.95, 10)
    for place in range(n):
        assert np.quantile(spread[:, place], quantiles) == pytest.approx(np.quantile(plain, quantiles), abs=0.03)
    assert spread.mean(axis=1).var() < 0.1 * plain.mean(axis=1).var()


def test_one_stream_gives_every_sample_of_a_batch_one_level():
    first, second = (levels(Uniform(), "batch", noise_rng(0, 4, "", 1), n, 0.0) for n in (3, 5))
    assert len({*first, *second}) == 1


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


def test_exact_masks_hide_the_rounded_count_of_each_block_evenly():
    rng, t = np.random.default_rng(0), np.array([0.0, 0.3, 0.5, 1.0])
    block, maskable = np.repeat([0, 1, 2, 3], 6), np.tile([True, True, False, True, True, True], 4)
    draws = np.array([draw_exact_masks(rng, t, block, maskable) for _ in range(4000)])
    assert not draws[:, ~maskable].any()
    for b, expected in enumerate([0, 2, 3, 5]):  # of five: 1.5 and 2.5 round up
        assert (draws[:, block == b].sum(axis=1) == expected).all()
        assert draws[:, (block == b) & maskable].mean(axis=0) == pytest.approx(expected / 5, abs=0.04)


def test_a_mask_and_its_complement_hide_every_maskable_row_once():
    rng = np.random.default_rng(0)
    block, maskable = np.repeat([0, 1], 50), rng.random(100) < 0.7
    t = np.array([0.2, 0.9])
    masked = draw_masks(rng, t, block, maskable)
    other, twin = complement(t, masked, maskable)
    assert np.array_equal(masked.astype(int) + twin, maskable.astype(int))
    assert other == pytest.approx([0.8, 0.1])


def test_corruption_writes_masks_random_tokens_or_both():
    rng, hidden = np.random.default_rng(0), np.arange(20_000) % 2 == 0
    ids, tokens = np.full(20_000, 7), NoiseTokens(3, ordinary=np.array([10, 11, 12, 13]))
    shown = {kind: corrupt(rng, ids, hidden, tokens, kind, 0.25) for kind in ("mask", "uniform", "mixed")}
    for written in shown.values():
        assert (written[~hidden] == 7).all()
    assert (shown["mask"][hidden] == 3).all()
    shares = np.bincount(shown["uniform"][hidden], minlength=14) / hidden.sum()
    assert shares[10:] == pytest.approx(0.25, abs=0.02) and shares[:10].sum() == 0
    assert (shown["mixed"][hidden] == 3).mean() == pytest.approx(0.75, abs=0.02)
    assert np.isin(shown["mixed"][hidden], [3, *tokens.ordinary]).all()


@pytest.mark.parametrize(
    "schedule, symmetric",
    [
        (Uniform(), True),
        (Uniform(0.0, 1.0), True),
        (Uniform(0.2, 0.8), False),
        (Uniform(1e-3, 0.9), False),
        (BetaCurriculum(0.5, 0.5, 2.0, 50.0), True),
        *((curriculum, False) for curriculum in PUBLISHED.values()),
    ],
)
def test_only_unclipped_noise_about_one_half_is_symmetric(schedule, symmetric):
    assert schedule.symmetric is symmetric


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
