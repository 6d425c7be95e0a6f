"""What a training run is, as a typed dataclass; `train.py` fills it from YAML and the command line.

One YAML file a recipe. Its sections are `vlm.training.sections`; here is what holds them together: the run itself,
what no two sections may say at once, and the stages, each of which is a recipe again.
"""

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

from jsonargparse import ArgumentParser, set_parsing_settings

from vlm.noise import BetaCurriculum, Uniform
from vlm.training.curricula import PARTS, Stage
from vlm.training.precision import Precision
from vlm.training.sections import (
    AdapterRecipe,
    DataRecipe,
    ModelRecipe,
    NoiseRecipe,
    ObjectiveRecipe,
    OptimRecipe,
    TowerRecipe,
    at_least_one,
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
        init_from: directory of a model to start from, or ``embedded``, with the traits of ``model.diffusion`` if that
            says anything; None builds one from ``model`` and warms its tower up, or with an adapter starts from the
            embedded model.
        adapter: trains an adapter of the model, everything else frozen; None trains the model itself.
        eval_steps: steps between measurements of the nominal NELBO on a fixed held-out batch (`vlm.training.heldout`).
        stages: runs in a row, each from where the one before ended (`vlm.training.curricula.Stage`); ``max_steps`` is
            the sum of their steps, and ``optim``'s warm-up and decay are the same shares of a stage as of the whole.
        precision: of matrix products; ``auto`` is bf16 where the machine is quick at it, fp32 elsewhere.
        sample_answers: held-out questions that are answered at every measurement (`vlm.training.samples`); none where
            the weights are sharded over processes.
        report_to: where metrics go beside ``metrics.jsonl``; ``wandb`` and ``trackio`` are to be installed apart.
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
    sample_answers: int = 4
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self):
        at_least_one(self, "", ("max_steps", "save_steps", "log_steps", "accumulation", "eval_steps"))
        if self.sample_answers < 0:
            raise ValueError(f"sample_answers must not be negative, but is {self.sample_answers}")
        for name in self.report_to:
            if find_spec(name) is None:
                raise ValueError(f"report_to {name!r} is not installed: pip install {name}")
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
