"""What a training run is, as typed dataclasses; `train.py` fills them from YAML and the command line.

One YAML file a recipe. Every field has a default that stands for the plain choice, so a recipe states only what
distinguishes it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from data_pipelines.playground import FAMILIES
from data_pipelines.playground.dense import PAGES
from vision_encoders.config import nearest
from vlm.config import TRAIT_NAMES
from vlm.layout import LastBlock
from vlm.noise import PUBLISHED, BetaCurriculum, Corruption, Level, Published, Uniform
from vlm.objective import Normaliser, Weighting
from vlm.training.precision import Precision


@dataclass
class ModelRecipe:
    """A model to build from scratch.

    Args:
        text: fields of the language model's transformers config; ``model_type`` names the architecture.
        vision: fields of `vision_encoders.VisionConfig`.
        diffusion: fields of `vlm.DiffusionTraits`; ``mask_token_id`` comes from the tokenizer.
        projector_hidden_size: width inside the projector; None means the language model's.
        frame_pool: side of the square of features that a video frame averages into one.
        vocab_size: size of the tokenizer trained on the data's text.
    """

    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    diffusion: dict[str, Any] = field(default_factory=dict)
    projector_hidden_size: int | None = None
    frame_pool: int = 2
    vocab_size: int = 1024

    def __post_init__(self):
        for name in self.diffusion:
            if name not in TRAIT_NAMES:
                raise ValueError(f"unknown key {name!r} in model.diffusion; {nearest(name, TRAIT_NAMES)}")


@dataclass
class TowerRecipe:
    """Warm-up of a new vision tower on densely labelled pictures (`vlm.training.warmup`).

    Args:
        steps: optimiser steps; 0 leaves the tower's weights as they are.
        batch_size: pictures a step.
        lr: peak learning rate: up over 50 steps, down to zero over the last third.
        shares: kind of page to its share, any positive numbers.
        max_side: largest picture side in pixels.
    """

    steps: int = 0
    batch_size: int = 64
    lr: float = 2e-3
    shares: dict[str, float] = field(default_factory=lambda: {"scenes": 0.4, "objects": 0.2, "glyphs": 0.4})
    max_side: int = 320

    def __post_init__(self):
        for name, share in self.shares.items():
            if name not in PAGES:
                raise ValueError(f"unknown kind of page {name!r} in tower.shares; {nearest(name, PAGES)}")
            if share <= 0:
                raise ValueError(f"tower.shares {name!r} must be positive, not {share}")
        if self.steps < 0:
            raise ValueError(f"tower.steps must not be negative, but is {self.steps}")
        _at_least_one(self, "tower.", ("batch_size",))


@dataclass
class Phase:
    """A stretch of the data stream with its own mixture.

    Args:
        samples: how many samples it lasts; the last phase goes on for ever.
        weights: share of each playground family, any positive numbers.
        max_side: largest picture side in pixels.
        turns: fewest and most question-answer turns about one picture.
    """

    samples: int
    weights: dict[str, float]
    max_side: int = 256
    turns: tuple[int, int] = (1, 4)

    def __post_init__(self):
        if not 1 <= self.turns[0] <= self.turns[1]:
            raise ValueError(f"a phase's turns {list(self.turns)} must be the fewest and the most turns, from 1")
        for name, weight in self.weights.items():
            if name not in FAMILIES:
                raise ValueError(f"unknown playground family {name!r}; {nearest(name, FAMILIES)}")
            if weight <= 0:
                raise ValueError(f"the weight of family {name!r} must be positive, not {weight}")
        if not self.weights:
            raise ValueError("a phase needs the weight of at least one playground family")


@dataclass
class DataRecipe:
    """The playground stream and how it is cut into batches.

    Args:
        phases: the mixture over time.
        block_sizes: block size to its share among samples.
        rows_per_batch: a batch holds at most this many rows, padding included.
        window: samples sorted by length at a time.
        workers: processes that draw pictures ahead of the trainer.
        views: noisy views of every sample.
        last_block: ``fill`` completes an answer's last block with end tokens, ``truncate`` leaves it short.
        row_capacity: samples of a batch share rows up to this many rows; None gives each sample its own.
    """

    phases: list[Phase] = field(default_factory=lambda: [Phase(0, {"scene_chat": 1.0})])
    block_sizes: dict[int, float] = field(default_factory=lambda: {8: 1.0})
    rows_per_batch: int = 6144
    window: int = 512
    workers: int = 1
    views: int = 1
    last_block: LastBlock = "fill"
    row_capacity: int | None = None

    def __post_init__(self):
        if not self.phases:
            raise ValueError("data.phases needs at least one phase")
        if self.workers not in (0, 1):
            raise ValueError(f"data.workers must be 0 or 1, not {self.workers}: the stream has one order")
        if not self.block_sizes:
            raise ValueError("data.block_sizes needs at least one block size")
        for size, share in self.block_sizes.items():
            if size < 1 or share <= 0:
                raise ValueError(f"data.block_sizes {size}: {share}: both must be positive")
        capacity = () if self.row_capacity is None else ("row_capacity",)
        _at_least_one(self, "data.", ("rows_per_batch", "window", "views", *capacity))


@dataclass
class NoiseRecipe:
    """Noise of the answer blocks.

    Args:
        schedule: distribution of the noise levels, or the name of a published one (`vlm.noise.PUBLISHED`).
        level: what shares a level: a ``block``, a ``sequence``, or the whole ``batch`` of an update.
        stratified: spread the levels of a sequence's blocks over the distribution, in random order.
        exact_count: hide exactly round(t n) of a block's n tokens and not each with probability t.
        corruption: what stands in a hidden token's place: the ``mask`` token, ``uniform`` random tokens, or ``mixed``.
        random_share: under ``mixed``, the share of hidden tokens that random ones replace.
        always_masked: tokens that are hidden whatever the level, such as the end of turn and think tags.
        complementary: every second view hides exactly what the view before it shows.
    """

    schedule: Uniform | BetaCurriculum | Published = field(default_factory=Uniform)
    level: Level = "block"
    stratified: bool = False
    exact_count: bool = False
    corruption: Corruption = "mask"
    random_share: float = 0.1
    always_masked: list[str] = field(default_factory=list)
    complementary: bool = False

    def __post_init__(self):
        if isinstance(self.schedule, str):
            if self.schedule not in PUBLISHED:
                raise ValueError(f"unknown noise.schedule {self.schedule!r}; {nearest(self.schedule, PUBLISHED)}")
            self.schedule = PUBLISHED[self.schedule]
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"noise.random_share {self.random_share} must lie between 0 and 1")
        if self.complementary and not self.schedule.symmetric:
            raise ValueError(
                f"noise.complementary needs noise symmetric about 1/2, which {self.schedule} is not: "
                "every second view would train on levels of another distribution"
            )


@dataclass
class ObjectiveRecipe:
    """Loss = ``weighting`` diffusion loss + ``ar_weight`` x next-token loss of the clean stream.

    Args:
        weighting: weight of a hidden slot's cross-entropy, see `vlm.objective`.
        ar_weight: 0 leaves the next-token loss out.
        normaliser: what the update's weighted sum is divided by; None is the weighting's own.
    """

    weighting: Weighting = "emrs"
    ar_weight: float = 1.0
    normaliser: Normaliser | None = None


@dataclass
class OptimRecipe:
    """Optimiser and learning-rate schedule.

    Args:
        name: ``muon`` (Muon for the matrices of the decoder's layers, AdamW for the rest) or ``adamw``.
        muon_lr, lr: peak learning rates of the two groups.
        vision_lr: peak learning rate of the vision tower; None means ``lr``.
        vision_start: the vision tower is frozen before this step.
        weight_decay: decoupled, on matrices only.
        warmup_steps, decay_steps: linear warm-up, constant, then linear decay to zero over the last ``decay_steps``.
        max_grad_norm: longer gradients are clipped to this length.
    """

    name: Literal["muon", "adamw"] = "adamw"
    muon_lr: float = 0.02
    lr: float = 1e-3
    vision_lr: float | None = None
    vision_start: int = 0
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_steps: int = 500
    max_grad_norm: float = 1.0


@dataclass
class Recipe:
    """A whole run.

    Args:
        output_dir: where checkpoints, metrics and the final model go.
        max_steps: optimiser steps in all.
        save_steps: steps between checkpoints; the newest two are kept.
        log_steps: steps between lines of metrics.
        accumulation: micro-batches per optimiser step.
        seed: of weights, data order, noise and block sizes.
        init_from: directory of a model to start from; None builds one from ``model`` and warms its tower up.
        precision: of matrix products; ``auto`` is bf16 where the machine is quick at it, fp32 elsewhere.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    tower: TowerRecipe = field(default_factory=TowerRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    output_dir: str = "runs/demo"
    init_from: str | None = None
    max_steps: int = 1000
    save_steps: int = 200
    log_steps: int = 10
    accumulation: int = 1
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self):
        _at_least_one(self, "", ("max_steps", "save_steps", "log_steps", "accumulation"))
        if self.noise.complementary and self.data.views % 2:
            raise ValueError(f"noise.complementary needs an even number of data.views, not {self.data.views}")


def _at_least_one(recipe, prefix: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(recipe, name) < 1:
            raise ValueError(f"{prefix}{name} must be at least 1, not {getattr(recipe, name)}")
