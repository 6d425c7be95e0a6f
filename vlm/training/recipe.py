"""What a training run is, as typed dataclasses; `train.py` fills them from YAML and the command line.

One YAML file a recipe. Every field has a default that stands for the plain choice, so a recipe states only what
distinguishes it.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jsonargparse import ArgumentParser, set_parsing_settings

from data_pipelines.mixture import Source
from data_pipelines.playground.dense import PAGES
from vision_encoders.config import nearest
from vlm.checkpoints.quantize import Kind
from vlm.config import TRAIT_NAMES
from vlm.layout import LastBlock
from vlm.noise import PUBLISHED, BetaCurriculum, Corruption, Level, Published, Uniform
from vlm.objective import Normaliser, Weighting
from vlm.training.curricula import PARTS, Growth, Part, Phase, Stage
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
        growth: block sizes that grow with progress; they take the place of ``block_sizes``.
        sources: one's own data, mixed as `data_pipelines.mixture` says; it takes the place of ``phases``, of which the
            last still gives the held-out batch.
        buffer: samples of a source that are shuffled together.
        bad_samples: ``skip`` leaves out what cannot be used or is longer than ``rows_per_batch``, and lists it at the
            end and in ``skipped.jsonl``; ``raise`` stops the run.
    """

    phases: list[Phase] = field(default_factory=lambda: [Phase(0, {"scene_chat": 1.0})])
    block_sizes: dict[int, float] = field(default_factory=lambda: {8: 1.0})
    rows_per_batch: int = 6144
    window: int = 512
    workers: int = 1
    views: int = 1
    last_block: LastBlock = "fill"
    row_capacity: int | None = None
    growth: Growth | None = None
    sources: list[Source] = field(default_factory=list)
    buffer: int = 4096
    bad_samples: Literal["skip", "raise"] = "skip"

    @property
    def sizes(self) -> list[int]:
        """Every block size that training will see."""
        return list(self.growth.sizes if self.growth else self.block_sizes)

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
        _at_least_one(self, "data.", ("rows_per_batch", "window", "views", "buffer", *capacity))


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
        _at_least_one(self, "adapter.", ("rank", "alpha"))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter.dropout {self.dropout} must lie in [0, 1)")
        if self.quantize not in (None, "nf4"):
            raise ValueError(
                f"adapter.quantize {self.quantize!r} does not train: only nf4 passes gradients everywhere"
            )


@dataclass
class Recipe:
    """A whole run.

    Args:
        output_dir: where checkpoints, metrics and the final model go.
        max_steps: optimiser steps in all.
        save_steps: steps between checkpoints; the newest two are kept.
        log_steps: steps between lines of metrics.
        accumulation: micro-batches per optimiser step, of each process.
        seed: of weights, data order, noise and block sizes.
        init_from: directory of a model to start from, or ``embedded``; None builds one from ``model`` and warms its
            tower up, or with an adapter starts from the embedded model.
        adapter: trains an adapter of the model, everything else frozen; None trains the model itself.
        eval_steps: steps between measurements of the nominal NELBO on a fixed held-out batch (`vlm.training.heldout`).
        stages: runs in a row, each from where the one before ended (`vlm.training.curricula.Stage`); ``max_steps`` is
            the sum of their steps, and ``optim``'s warm-up and decay are the same shares of a stage as of the whole.
        precision: of matrix products; ``auto`` is bf16 where the machine is quick at it, fp32 elsewhere.
        gradient_checkpointing: the decoder's layers keep only their input and compute the rest again for the backward
            pass: less memory, a third more time.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    tower: TowerRecipe = field(default_factory=TowerRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    adapter: AdapterRecipe | None = None
    output_dir: str = "runs/demo"
    init_from: str | None = None
    max_steps: int = 1000
    save_steps: int = 200
    log_steps: int = 10
    accumulation: int = 1
    seed: int = 0
    precision: Precision = "auto"
    eval_steps: int = 100
    stages: list[Stage] = field(default_factory=list)
    gradient_checkpointing: bool = False

    def __post_init__(self):
        _at_least_one(self, "", ("max_steps", "save_steps", "log_steps", "accumulation", "eval_steps"))
        if self.noise.complementary and self.data.views % 2:
            raise ValueError(f"noise.complementary needs an even number of data.views, not {self.data.views}")
        if self.adapter is not None and (self.stages or self.optim.frozen):
            named = "stages" if self.stages else "optim.frozen"
            raise ValueError(f"{named} cannot go with an adapter, which freezes everything but itself")
        if self.stages:
            self._check_stages()
            self.in_stages()  # what is wrong with the last stage is said before the first begins

    def _check_stages(self) -> None:
        total = sum(stage.steps for stage in self.stages)
        if self.max_steps != total:
            raise ValueError(f"max_steps {self.max_steps} must be the sum of the stages' steps, {total}")
        if self.optim.name != "adamw":
            raise ValueError(f"stages need optim.name 'adamw', not {self.optim.name!r}: their rates are AdamW's")
        if self.data.sources and any(stage.phases for stage in self.stages):
            raise ValueError("data.sources and the phases of a stage exclude each other")
        if self.data.growth and any(stage.block_sizes for stage in self.stages):
            raise ValueError("data.growth and the block_sizes of a stage exclude each other")

    def in_stages(self) -> "list[Recipe]":
        """The runs that this one is made of; without stages, the recipe itself. The last has its output directory."""
        runs, start = [], self.init_from
        for number, stage in enumerate(self.stages, 1):
            output = self.output_dir if number == len(self.stages) else f"{self.output_dir}/stage-{number}"
            changes = {"stages": [], "max_steps": stage.steps, "init_from": start, "output_dir": output}
            runs.append(replace(self, **changes, **self._in_stage(stage), seed=self.seed + number - 1))
            start = f"{output}/final"
        return runs or [self]

    def _in_stage(self, stage: Stage) -> dict[str, Any]:
        share = stage.steps / self.max_steps
        optim = replace(
            self.optim,
            lr=stage.lr.get("language_model", self.optim.lr),
            vision_lr=stage.lr.get("vision_tower"),
            projector_lr=stage.lr.get("projector"),
            vision_start=0,
            frozen=[part for part in PARTS if part not in stage.lr],
            warmup_steps=round(self.optim.warmup_steps * share),
            decay_steps=round(self.optim.decay_steps * share),
        )
        return {
            "optim": optim,
            "noise": replace(self.noise, schedule=stage.schedule or self.noise.schedule),
            "data": replace(
                self.data,
                phases=stage.phases or self.data.phases,
                block_sizes=stage.block_sizes or self.data.block_sizes,
            ),
        }


def _at_least_one(recipe, prefix: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(recipe, name) < 1:
            raise ValueError(f"{prefix}{name} must be at least 1, not {getattr(recipe, name)}")


def read_recipe(argv: list[str] | None, description: str = "") -> Recipe:
    """The recipe that ``--config FILE`` and overriding arguments describe.

    Raises:
        argparse.ArgumentError, ValueError: for an unknown key or an impossible value, naming it.
    """
    set_parsing_settings(subclasses_enabled=[Uniform, BetaCurriculum])  # so that a printed recipe names its schedule
    parser = ArgumentParser(description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML recipe; later arguments override it")
    parser.add_class_arguments(Recipe, None)
    values = parser.instantiate(parser.parse_args(argv))
    return Recipe(**{name: values[name] for name in Recipe.__dataclass_fields__})
