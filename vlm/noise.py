"""How much of a block is masked, and which tokens.

A noise level t is the probability that a maskable token becomes a mask (linear schedule, alpha_t = 1 - t). Levels are
drawn per block (asynchronous block-wise noise, SDAR-VL arXiv 2512.14068) or per sequence, from a uniform (perhaps
clipped) or a Beta distribution; the Beta distribution may move with training progress (progressive Beta noise
curriculum, same source). Everything here is NumPy on a `Generator` it is handed: noise is reproducible by seed.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Uniform:
    """t ~ U(low, high). ``low`` stays above zero so that the 1/t weight is finite (1e-3 in the published code)."""

    low: float = 1e-3
    high: float = 1.0

    def __post_init__(self):
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"noise range [{self.low}, {self.high}] must satisfy 0 <= low < high <= 1")

    def sample(self, rng: np.random.Generator, n: int, progress: float) -> np.ndarray:
        return rng.uniform(self.low, self.high, n)


@dataclass(frozen=True)
class BetaCurriculum:
    """t ~ Beta(mu C, (1 - mu) C); mean mu and concentration C move linearly with progress u in [0, 1].

    The defaults are the released SDAR-VL settings: from Beta(1, 1), the uniform distribution, to Beta(40, 10) with
    mean 0.8 and standard deviation 0.056. The paper's ablation uses mu .5 -> .7 with C 4 -> 25 or 4 -> 50.
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

    def at(self, progress: float) -> tuple[float, float]:
        """(alpha, beta) at a given progress."""
        mean = self.mean_start + (self.mean_end - self.mean_start) * progress
        concentration = self.concentration_start + (self.concentration_end - self.concentration_start) * progress
        return mean * concentration, (1 - mean) * concentration

    def sample(self, rng: np.random.Generator, n: int, progress: float) -> np.ndarray:
        return rng.beta(*self.at(progress), n)


Schedule = Uniform | BetaCurriculum
Level = Literal["block", "sequence"]


def levels(schedule: Schedule, level: Level, rng: np.random.Generator, n_blocks: int, progress: float) -> np.ndarray:
    """Noise levels of one sequence's blocks [n_blocks]: independent (``block``) or one shared (``sequence``)."""
    if level == "block":
        return schedule.sample(rng, n_blocks, progress)
    return np.repeat(schedule.sample(rng, 1, progress), n_blocks)


def draw_masks(rng: np.random.Generator, t: np.ndarray, block: np.ndarray, maskable: np.ndarray) -> np.ndarray:
    """Which rows become masks: independent Bernoulli(t of the row's block) over maskable rows.

    Args:
        t: noise levels [n_blocks].
        block: block index of every noisy row [R].
        maskable: which noisy rows may be masked [R] (answers and their fill; never prompt or vision).
    """
    return maskable & (rng.random(len(block)) < t[block])


def noise_rng(seed: int, step: int, sample_id: str, view: int) -> np.random.Generator:
    """The stream that noises one view of one sample at one optimiser step, whatever process draws it."""
    return np.random.default_rng([seed, step, zlib.crc32(sample_id.encode()), view])
