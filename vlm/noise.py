"""How much of a block is corrupted, which tokens, and what stands in their place.

A noise level t is the probability that a maskable token is hidden (linear schedule, alpha_t = 1 - t). Levels are drawn
per block (asynchronous block-wise noise, SDAR-VL arXiv 2512.14068), per sequence, or once for an update's whole batch,
from a uniform (perhaps clipped) or a Beta distribution; the Beta distribution may move with training progress
(progressive Beta noise curriculum, same source). Everything here is NumPy on a `Generator` it is handed, and
`noise_rng` makes that a pure function of (seed, optimiser step, sample id, view).
"""

import zlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

LOWEST = 1e-3  # the published trainers' floor of uniform noise; a higher one is called clipped here
_PER_STRATUM = 64  # draws that stand for one stratum of a Beta distribution


@dataclass(frozen=True)
class Uniform:
    """t ~ U(low, high). ``low`` stays above zero so that the 1/t weight is finite (1e-3 in the published code).

    A narrower range is the clipped noise of BD3-LM (arXiv 2503.09573).
    """

    low: float = LOWEST
    high: float = 1.0

    def __post_init__(self):
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"noise range [{self.low}, {self.high}] must satisfy 0 <= low < high <= 1")

    @property
    def symmetric(self) -> bool:
        """Whether t and 1 - t are equally likely, which complementary views need: not if the range is clipped."""
        return self.low <= LOWEST and self.high == 1

    def sample(self, rng: np.random.Generator, n: int, progress: float) -> np.ndarray:
        """``n`` independent levels [n]."""
        return rng.uniform(self.low, self.high, n)

    def stratified(self, rng: np.random.Generator, n: int, progress: float) -> np.ndarray:
        """``n`` levels [n], one in each n-th of the range, in random order; each alone is distributed as `sample`."""
        return self.low + (self.high - self.low) * (rng.permutation(n) + rng.random(n)) / n


@dataclass(frozen=True)
class BetaCurriculum:
    """t ~ Beta(mu C, (1 - mu) C); mean mu and concentration C move linearly with progress u in [0, 1].

    The defaults are the released SDAR-VL settings: from Beta(1, 1), the uniform distribution, to Beta(40, 10) with
    mean 0.8 and standard deviation 0.056. Equal ends give a Beta distribution that stays.
    """

    mean_start: float = 0.5
    mean_end: float = 0.8
    concentration_start: float = 2.0
    concentration_end: float = 50.0

    def __post_init__(self):
        if not (0 < self.mean_start < 1 and 0 < self.mean_end < 1):
            raise ValueError(f"Beta means {self.mean_start} -> {self.mean_end} must lie strictly between 0 and 1")
        if min(self.concentration_start, self.concentration_end) <= 0:
            pair = f"{self.concentration_start} -> {self.concentration_end}"
            raise ValueError(f"Beta concentrations {pair} must be positive")

    @property
    def symmetric(self) -> bool:
        """Whether t and 1 - t are equally likely at every progress."""
        return self.mean_start == self.mean_end == 0.5

    def at(self, progress: float) -> tuple[float, float]:
        """(alpha, beta) at a given progress."""
        mean = self.mean_start + (self.mean_end - self.mean_start) * progress
        concentration = self.concentration_start + (self.concentration_end - self.concentration_start) * progress
        return mean * concentration, (1 - mean) * concentration

    def sample(self, rng: np.random.Generator, n: int, progress: float) -> np.ndarray:
        """``n`` independent levels [n]."""
        return rng.beta(*self.at(progress), n)

    def stratified(self, rng: np.random.Generator, n: int, progress: float) -> np.ndarray:
        """``n`` levels [n] spread over the distribution, in random order; each alone is distributed as `sample`.

        A stratum is a run of a larger sorted sample. One random member of a random run is one random member of the
        sample, so a level's distribution is exact without the inverse of the incomplete beta function.
        """
        draws = np.sort(self.sample(rng, n * _PER_STRATUM, progress)).reshape(n, _PER_STRATUM)
        return rng.permutation(draws[np.arange(n), rng.integers(_PER_STRATUM, size=n)])


Schedule = Uniform | BetaCurriculum
Level = Literal["block", "sequence", "batch"]
Corruption = Literal["mask", "uniform", "mixed"]

# SDAR-VL's two disagreeing settings: the paper's ablation (text-rich and reasoning data; general data) and the
# released training files, whose start, not written there, is read as the uniform distribution.
Published = Literal["pbnc_paper_reasoning", "pbnc_paper_general", "pbnc_released"]
PUBLISHED: dict[Published, BetaCurriculum] = {
    "pbnc_paper_reasoning": BetaCurriculum(0.5, 0.7, 4.0, 25.0),
    "pbnc_paper_general": BetaCurriculum(0.5, 0.7, 4.0, 50.0),
    "pbnc_released": BetaCurriculum(0.5, 0.8, 2.0, 50.0),
}


def levels(
    schedule: Schedule,
    level: Level,
    rng: np.random.Generator,
    n_blocks: int,
    progress: float,
    stratified: bool = False,
) -> np.ndarray:
    """Noise levels of one view's blocks [n_blocks]: independent (``block``) or one shared by all.

    For ``batch`` every sample is handed the same ``rng``. ``stratified`` spreads the blocks' levels over the
    distribution, permuted: the published trainers leave them in order, which ties a block's noise to its place.
    """
    if level != "block":
        return np.repeat(schedule.sample(rng, 1, progress), n_blocks)
    draw = schedule.stratified if stratified else schedule.sample
    return draw(rng, n_blocks, progress)


def draw_masks(rng: np.random.Generator, t: np.ndarray, block: np.ndarray, maskable: np.ndarray) -> np.ndarray:
    """Which rows are hidden [R]: independent Bernoulli(t of the row's block) over maskable rows.

    Args:
        t: noise levels [n_blocks].
        block: block index of every noisy row [R].
        maskable: which noisy rows may be hidden [R] (answers and their fill; never prompt or vision).
    """
    return maskable & (rng.random(len(block)) < t[block])


def draw_exact_masks(rng: np.random.Generator, t: np.ndarray, block: np.ndarray, maskable: np.ndarray) -> np.ndarray:
    """As `draw_masks`, but exactly round(t n) of a block's n maskable rows, any of them equally likely (WeDLM)."""
    rows, size = np.bincount(block, minlength=len(t)), np.bincount(block, weights=maskable, minlength=len(t))
    order = np.lexsort((rng.random(len(block)), ~maskable, block))  # block by block, maskable rows first, shuffled
    rank = np.empty(len(block), np.int64)
    rank[order] = np.arange(len(block)) - (np.cumsum(rows) - rows)[block[order]]
    return maskable & (rank < np.floor(t * size + 0.5)[block])


def complement(t: np.ndarray, masked: np.ndarray, maskable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels and masks of the view that hides what its twin shows: together they hide each maskable row once."""
    return 1 - t, maskable & ~masked


@dataclass(frozen=True)
class NoiseTokens:
    """The vocabulary as noise sees it.

    Args:
        mask: id of the mask token.
        always: ids that are hidden wherever they are maskable, whatever the level (end of turn, think tags).
        ordinary: ids [N] that random corruption draws from: no special tokens, no media placeholders.
    """

    mask: int
    always: tuple[int, ...] = ()
    ordinary: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def corrupt(
    rng: np.random.Generator,
    ids: np.ndarray,
    hidden: np.ndarray,
    tokens: NoiseTokens,
    kind: Corruption,
    random_share: float,
) -> np.ndarray:
    """``ids`` [R] with hidden rows overwritten: by the mask, by random ordinary tokens, or by either (``mixed``).

    Args:
        random_share: under ``mixed``, the chance that a hidden row gets a random token and not the mask.
    """
    if kind == "mask":
        return np.where(hidden, tokens.mask, ids)
    share = 1.0 if kind == "uniform" else random_share
    written = np.where(rng.random(len(ids)) < share, rng.choice(tokens.ordinary, len(ids)), tokens.mask)
    return np.where(hidden, written, ids)


def noise_rng(seed: int, step: int, sample_id: str, view: int) -> np.random.Generator:
    """The stream that noises one view of one sample at one optimiser step, whatever process draws it."""
    return np.random.default_rng([seed, step, zlib.crc32(sample_id.encode()), view])
