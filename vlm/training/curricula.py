"""Curricula as data: what changes while a run goes on, each a pure function of how far it has come.

`Phase` is the mixture by number of the sample, `Growth` the block size by progress, `Stage` a run that begins where
the one before it ended, with parts and learning rates of its own.

Under `Growth` a block size is drawn as noise is: in the main process, when an update is gathered, from (seed, step,
sample id). The stream prepares samples ahead, in batches of varying number, so a sample's index does not tell the step
that will train on it; the step itself does, exactly, and a resumed run draws the same again. The stream lays samples
out at the largest size, so that batches hold their budget whatever is drawn.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from data_pipelines.playground import FAMILIES
from data_pipelines.playground.scene import MIN_SIDE
from vision_encoders.config import nearest
from vlm.noise import BetaCurriculum, Published, Uniform

Part = Literal["vision_tower", "projector", "language_model"]
PARTS: tuple[Part, ...] = get_args(Part)
Pace = Literal["doubling", "sqrt", "plateaus"]
_ROUNDING = 1e-12


@dataclass
class Phase:
    """A stretch of the data stream with its own mixture.

    Args:
        samples: how many samples it lasts; the last phase goes on for ever.
        weights: share of each playground family, any positive numbers.
        max_side: largest picture side in pixels.
        turns: fewest and most question-answer turns about one picture.
        turns_of: the same for single families, by name, where it differs.
    """

    samples: int
    weights: dict[str, float]
    max_side: int = 256
    turns: tuple[int, int] = (1, 4)
    turns_of: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self):
        for turns in (self.turns, *self.turns_of.values()):
            if not 1 <= turns[0] <= turns[1]:
                raise ValueError(f"a phase's turns {list(turns)} must be the fewest and the most turns, from 1")
        for name, weight in self.weights.items():
            if name not in FAMILIES:
                raise ValueError(f"unknown playground family {name!r}; {nearest(name, FAMILIES)}")
            if weight <= 0:
                raise ValueError(f"the weight of family {name!r} must be positive, not {weight}")
        if not self.weights:
            raise ValueError("a phase needs the weight of at least one playground family")
        if self.max_side < MIN_SIDE:
            raise ValueError(f"a phase's max_side must be at least {MIN_SIDE} pixels, not {self.max_side}")


@dataclass(frozen=True)
class Growth:
    """Blocks that grow with progress u = step / planned steps, in plateaus.

    Args:
        sizes: block sizes, smallest first, each a multiple of the one before, so that the largest takes most rows.
        pace: ``doubling`` (NBDiff arXiv 2512.06776): each size is twice the one before and lasts as long, the last
            one from ``end`` on. ``sqrt`` (Fast-dVLM arXiv 2604.06832): the size of index floor(sqrt(u) n) of n.
            ``plateaus``: each size from its own ``starts`` on.
        end: of ``doubling``: the progress at which the last size is reached.
        starts: of ``plateaus``: the progress at which each size begins, from 0.
        earlier: share of samples that take one of the sizes already passed, so that all of them stay trained.
    """

    sizes: list[int]
    pace: Pace = "doubling"
    end: float = 1.0
    starts: list[float] = field(default_factory=list)
    earlier: float = 0.0

    def __post_init__(self):
        pairs = list(zip(self.sizes, self.sizes[1:]))
        if not self.sizes or min(self.sizes) < 1 or any(b <= a or b % a for a, b in pairs):
            raise ValueError(f"data.growth.sizes {self.sizes} must be block sizes from 1, each a multiple of the last")
        if self.pace == "doubling" and any(b != 2 * a for a, b in pairs):
            raise ValueError(f"data.growth.sizes {self.sizes} must double from each to the next at pace 'doubling'")
        if not 0 < self.end <= 1:
            raise ValueError(f"data.growth.end {self.end} must lie in (0, 1]")
        if not 0 <= self.earlier < 1:
            raise ValueError(f"data.growth.earlier {self.earlier} must lie in [0, 1)")
        if self.pace == "plateaus":
            self._check_starts()
        elif self.starts:
            raise ValueError(f"data.growth.starts goes with pace 'plateaus', not {self.pace!r}")

    def _check_starts(self) -> None:
        rising = sorted(set(self.starts)) == self.starts
        if len(self.starts) != len(self.sizes) or not rising or self.starts[0] != 0 or self.starts[-1] >= 1:
            raise ValueError(
                f"data.growth.starts {self.starts} must rise from 0 to below 1, one for each of the sizes"
            )

    def begins(self) -> list[float]:
        """The progress at which each size begins."""
        n = len(self.sizes)
        if self.pace == "plateaus":
            return self.starts
        return [(k / n) ** 2 if self.pace == "sqrt" else self.end * k / max(n - 1, 1) for k in range(n)]

    def block_sizes(self, progress: float) -> dict[int, float]:
        """Block size to its share among samples at ``progress`` in [0, 1]; the shares sum to 1."""
        reached = self.sizes[: sum(begin <= progress + _ROUNDING for begin in self.begins())]
        passed = reached[:-1] if self.earlier else []
        return {
            **dict.fromkeys(passed, self.earlier / max(len(passed), 1)),
            reached[-1]: 1 - self.earlier * bool(passed),
        }


def draw_block_size(shares: dict[int, float], rng: np.random.Generator) -> int:
    """One block size, by its share."""
    sizes, weights = list(shares), np.array(list(shares.values()))
    return int(sizes[rng.choice(len(sizes), p=weights / weights.sum())])


@dataclass(frozen=True)
class Stage:
    """A run that begins with the weights of the stage before, and with a new optimiser, schedule and noise curriculum.

    Args:
        steps: optimiser steps.
        lr: part of the model (``vision_tower``, ``projector``, ``language_model``) to its peak learning rate; a part
            without one is frozen.
        name: what the stage is for.
        phases: its mixture; empty means the recipe's.
        block_sizes: its block sizes; empty means the recipe's.
        schedule: its noise levels; None means the recipe's.
    """

    steps: int
    lr: dict[str, float]
    name: str = ""
    phases: list[Phase] = field(default_factory=list)
    block_sizes: dict[int, float] = field(default_factory=dict)
    schedule: Uniform | BetaCurriculum | Published | None = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"the steps of stage {self.name!r} must be at least 1, not {self.steps}")
        if not self.lr:
            raise ValueError(f"stage {self.name!r} trains nothing: lr needs one of {', '.join(PARTS)}")
        for part, lr in self.lr.items():
            if part not in PARTS:
                raise ValueError(f"unknown part {part!r} in the lr of stage {self.name!r}; {nearest(part, PARTS)}")
            if lr <= 0:
                raise ValueError(f"the lr of {part} in stage {self.name!r} must be positive, not {lr}")


def frozen_parts(frozen: list[Part], vision_start: int, step: int) -> set[Part]:
    """The parts that an update leaves alone: those named, and the vision tower before step ``vision_start``."""
    return {*frozen, *(("vision_tower",) if step < vision_start else ())}
