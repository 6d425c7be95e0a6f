"""The sections of a recipe as typed dataclasses: model, tower, data, noise, objective, optimiser, adapter.

Every field has a default that stands for the plain choice, so a recipe states only what distinguishes it. A section
refuses what is impossible in itself; what sections contradict in each other, `vlm.training.recipe` refuses.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from data_pipelines.mixture import Source
from data_pipelines.playground import FAMILIES
from data_pipelines.playground.dense import PAGES
from data_pipelines.sampling import Sampling
from vision_encoders.config import nearest
from vlm.checkpoints.quantize import Kind
from vlm.config import TRAIT_NAMES
from vlm.layout import LastBlock
from vlm.noise import PUBLISHED, BetaCurriculum, Corruption, Level, Published, Uniform
from vlm.objective import Normaliser, Weighting
from vlm.training.curricula import PARTS, Growth, Part, Phase


@dataclass
class ModelRecipe:
    """A model to build from scratch.

    Args:
        text: fields of the language model's transformers config; ``model_type`` names the architecture.
        vision: fields of `vision_encoders.VisionConfig`.
        diffusion: fields of `vlm.DiffusionTraits`; ``mask_token_id`` comes from the tokenizer. A model to start from
            gets them too (`vlm.training.start`).
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
    """Warm-up of a new vision tower and its projector on densely labelled pictures (`vlm.training.warmup`).

    Args:
        steps: optimiser steps; 0 leaves the weights as they are.
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
        at_least_one(self, "tower.", ("batch_size",))


@dataclass
class CacheRecipe:
    """Decoded media on the disk, of all runs that name the folder (`data_pipelines.cache`).

    Args:
        folder: made if it is not there.
        max_gb: 10^9 bytes of it; the oldest entries make room. Less than an epoch decodes helps little.
    """

    folder: str
    max_gb: float = 20.0

    def __post_init__(self):
        if not 0 < self.max_gb < float("inf"):
            raise ValueError(f"data.cache.max_gb must be a positive number, not {self.max_gb}")


@dataclass
class DataRecipe:
    """The playground stream and how it is cut into batches.

    Args:
        phases: the mixture over time.
        block_sizes: block size to its share among samples.
        rows_per_batch: a batch holds at most this many rows, padding included.
        window: samples sorted by length, or packed, at a time.
        workers: processes that make samples ahead of the trainer: the playground's up to a window, those of
            ``sources``, which one more process plans, up to 64.
        views: noisy views of every sample.
        spelled: playground families whose answers are learnt a character a token; one's own data say it by message.
        last_block: ``fill`` completes an answer's last block with end tokens, ``truncate`` leaves it short.
        row_capacity: samples of a window share rows of a batch, up to this many tokens in each, best fit first; a
            longer sample has a row of its own, and ``rows_per_batch`` holds all the same. None gives each sample its
            own row, in batches of similar length.
        growth: block sizes that grow with progress; they take the place of ``block_sizes``.
        sources: one's own data, mixed as `data_pipelines.mixture` says; it takes the place of ``phases``, of which the
            last still gives the held-out batch.
        heldout: one's own data that training does not see, for the NELBO and the sample answers, in place of the
            playground's; none means no NELBO for a model that reads text only.
        buffer: samples of a source that are shuffled together.
        bad_samples: ``skip`` leaves out what cannot be used or is longer than ``rows_per_batch``, and lists it at the
            end and in ``skipped.jsonl``; ``raise`` stops the run.
        video: how videos of ``sources`` are sampled that do not say it themselves.
        cache: keeps decoded media of ``sources`` on the disk; None decodes them every time.
    """

    phases: list[Phase] = field(default_factory=lambda: [Phase(0, {"scene_chat": 1.0})])
    block_sizes: dict[int, float] = field(default_factory=lambda: {8: 1.0})
    rows_per_batch: int = 6144
    window: int = 512
    workers: int = 1
    views: int = 1
    spelled: list[str] = field(default_factory=list)
    last_block: LastBlock = "fill"
    row_capacity: int | None = None
    growth: Growth | None = None
    sources: list[Source] = field(default_factory=list)
    heldout: list[Source] = field(default_factory=list)
    buffer: int = 4096
    bad_samples: Literal["skip", "raise"] = "skip"
    video: Sampling = field(default_factory=Sampling)
    cache: CacheRecipe | None = None

    @property
    def sizes(self) -> list[int]:
        """Every block size that training will see."""
        return list(self.growth.sizes if self.growth else self.block_sizes)

    def __post_init__(self):
        if not self.phases:
            raise ValueError("data.phases needs at least one phase")
        if self.workers < 0:
            raise ValueError(f"data.workers must not be negative, but is {self.workers}")
        if not self.block_sizes:
            raise ValueError("data.block_sizes needs at least one block size")
        for size, share in self.block_sizes.items():
            if size < 1 or share <= 0:
                raise ValueError(f"data.block_sizes {size}: {share}: both must be positive")
        for name in self.spelled:
            if name not in FAMILIES:
                raise ValueError(f"data.spelled: unknown playground family {name!r}; {nearest(name, FAMILIES)}")
        capacity = () if self.row_capacity is None else ("row_capacity",)
        at_least_one(self, "data.", ("rows_per_batch", "window", "views", "buffer", *capacity))


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
        if self.stratified and self.level != "block":
            raise ValueError(f"noise.stratified spreads the levels of blocks, but noise.level is {self.level!r}")
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
        warmup_steps, decay_steps: linear warm-up, constant, then decay to zero over the last ``decay_steps``.
        max_grad_norm: longer gradients are clipped to this length.
        projector_lr: peak learning rate of the projector; None means ``lr``.
        frozen: parts that do not train at all.
        decay: ``linear``, or ``cosine``: half a wave.
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
    projector_lr: float | None = None
    frozen: list[Part] = field(default_factory=list)
    decay: Literal["linear", "cosine"] = "linear"

    def __post_init__(self):
        later = {"vision_tower"} if self.vision_start else set()
        if set(PARTS) <= {*self.frozen, *later}:
            raise ValueError(f"optim.frozen {self.frozen} leaves no part to train from the first step")
        if self.name == "muon" and "language_model" in self.frozen:
            raise ValueError(
                "optim.name 'muon' trains the language model's matrices, but optim.frozen names that part"
            )


@dataclass
class AdapterRecipe:
    """A low-rank adapter that trains in the model's stead (`vlm.training.adapters`).

    Args:
        rank: of the two factors beside a linear layer.
        alpha: their product is scaled by ``alpha / rank``.
        dropout: of the factors' input.
        targets: regular expression of the full names of the linear layers.
        train_projector: the projector trains whole, and is saved with the adapter.
        train_tokens: tokens whose embeddings train too, such as a mask token that the model did not have.
        quantize: ``nf4`` keeps the decoder's own weights in 4 bits (QLoRA).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
    train_projector: bool = False
    train_tokens: list[str] = field(default_factory=list)
    quantize: Kind | None = None

    def __post_init__(self):
        at_least_one(self, "adapter.", ("rank", "alpha"))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter.dropout {self.dropout} must lie in [0, 1)")
        if self.quantize not in (None, "nf4"):
            raise ValueError(
                f"adapter.quantize {self.quantize!r} does not train: only nf4 passes gradients everywhere"
            )


def at_least_one(recipe, prefix: str, names: tuple[str, ...]) -> None:
    """ValueError for a field below 1; ``prefix`` is the section's name."""
    for name in names:
        if getattr(recipe, name) < 1:
            raise ValueError(f"{prefix}{name} must be at least 1, not {getattr(recipe, name)}")
