"""The training loop: a transformers `Trainer` that draws noise per update and computes the recipe's two losses.

What differs from the stock trainer: micro-batches become tensors in the main process when an update is gathered (so
noise is a function of the update and normalisers are its totals), checkpoints appear whole or not at all, the data
stream restarts at its position instead of being replayed, and dropout needs no state to go on from.

Several processes (``torchrun``, ``accelerate launch``) take the stream's batches in turn, so N of them with A
micro-batches a step do what one does with N x A. Each backpropagates its own share of the loss over the normalisers of
all. Gradients are then averaged over processes where the sum is wanted, so a share is multiplied by their number.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer
from transformers.trainer_utils import unwrap_peft_model

from vision_encoders import Pictures
from vlm.composite import part_of
from vlm.model import VLMForBlockDiffusion
from vlm.noise import noise_rng
from vlm.processor import VLMProcessor
from vlm.training.arguments import arguments_of
from vlm.training.callbacks import Metrics, ProgressLine
from vlm.training.collate import IGNORED, collate, noise_sample, noise_tokens
from vlm.training.curricula import draw_block_size, frozen_parts
from vlm.training.data import Batch, PlaygroundStream, Prepared, lay_out
from vlm.training.heldout import heldout_batches
from vlm.training.losses import losses, nelbo
from vlm.training.optim import build_optimizer, warmup_stable_decay
from vlm.training.precision import autocast
from vlm.training.prefetch import pinned
from vlm.training.recipe import Recipe
from vlm.training.saving import PARTIAL, each_once, written_whole
from vlm.training.timings import Clock

POSITION_FILE = "data_position.json"


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became NaN or infinite; the message names the samples of the update."""


class BlockDiffusionTrainer(Trainer):
    """Trains `VLMForBlockDiffusion` on a stream of prepared samples.

    Args:
        model, processor: what is trained, and what is saved beside it.
        dataset: yields `vlm.training.data.Batch`.
        recipe: the run.
    """

    def __init__(
        self, model: VLMForBlockDiffusion, processor: VLMProcessor, dataset: PlaygroundStream, recipe: Recipe
    ):
        self.recipe, self.processor = recipe, processor
        self.tokens = noise_tokens(processor.tokenizer, model.config.traits, recipe.noise)
        self.position = (0, 0)  # of the last batch consumed
        self.last: dict[str, float] = {}
        self.frozen: set[str] = set()  # of this update
        self._partial = False
        self._computed = 0  # micro-batches of this update
        self.clock = Clock()
        for part in _parts(model, recipe.optim.frozen):
            part.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"optim.frozen {recipe.optim.frozen} leaves no part of this model to train")
        # A converted model's padding is its end token. transformers writes it into the config that is saved, and would
        # keep that token's embedding from learning in a run that goes on.
        model.get_input_embeddings().padding_idx = None
        super().__init__(model=model, args=arguments_of(recipe), train_dataset=dataset, processing_class=processor)
        self.model_accepts_loss_kwargs = True  # losses are normalised over the whole update already
        dataset.shard = (self.args.process_index, self.args.world_size)
        self.progress = ProgressLine(self)
        self.remove_callback(PrinterCallback)
        self.callback_handler.callbacks.insert(0, Metrics(self))
        self.add_callback(self.progress)

    def get_train_dataloader(self) -> DataLoader:
        """The stream has its own workers, so that their number does not change the order of its batches."""
        return DataLoader(self.train_dataset, batch_size=None, collate_fn=_as_is)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimizer(unwrap_peft_model(self.model), self.recipe.optim)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None:
            factor = warmup_stable_decay(self.recipe.optim, self.recipe.max_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Gather an update's micro-batches, draw their noise, and total their normalisers."""
        with self.clock("wait"):
            gathered = [next(epoch_iterator) for _ in range(num_batches)]
        for sample in (sample for batch in gathered for sample in batch.samples):
            self.clock.add(sample.seconds)
        with self.clock("collate"):
            return self._noised(gathered)

    def _noised(self, gathered: list[Batch]) -> tuple[list[dict], float]:
        self.position = gathered[-1].position
        self._check_lengths(gathered)
        step, tokens = self.state.global_step, self.tokens
        recipe, pad = self.recipe, self.processor.tokenizer.pad_token_id
        base = {"vision_tower"} if recipe.adapter is not None else set()  # an adapter leaves it as it is
        self.frozen = frozen_parts(recipe.optim.frozen, recipe.optim.vision_start, step) | base
        for tower in _parts(self.model, ("vision_tower",)):
            tower.requires_grad_("vision_tower" not in self.frozen)
        progress = min(1.0, step / recipe.max_steps)
        gathered = [replace(batch, samples=self._resized(batch.samples, step, progress)) for batch in gathered]
        noised = [
            [noise_sample(s, tokens, recipe.noise, recipe.objective, recipe.seed, step, progress) for s in b.samples]
            for b in gathered
        ]
        batches = [collate(b.samples, n, pad, b.packs) for b, n in zip(gathered, noised)]
        budget = 0 if recipe.data.row_capacity is None else recipe.data.rows_per_batch
        self.totals = self.over_processes({
            "diffusion": sum(n.normaliser for batch in noised for n in batch),
            "next": float(sum((n.next_targets != IGNORED).sum() for batch in noised for n in batch)),
            "rows": sum(len(s.layout.ids) for b in gathered for s in b.samples),
            "slots": sum(max(batch["ids"].numel(), budget) for batch in batches),  # padding too, and a budget's room
        })  # fmt: skip
        self._computed = 0
        self.update_ids = [s.encoded.id for b in gathered for s in b.samples]
        self.last = {"diffusion_loss": 0.0, "ar_loss": 0.0}
        return [pinned(batch, self.args.device) for batch in batches], self.totals["diffusion"]

    def _prepare_input(self, data):
        if isinstance(data, torch.Tensor | Pictures) and data.is_pinned() and not self.is_deepspeed_enabled:
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _check_lengths(self, batches: list[Batch]) -> None:
        """ValueError for a sample that has more positions than the model."""
        most = getattr(self.model.config.text_config, "max_position_embeddings", None)
        for sample in (s for batch in batches for s in batch.samples):
            needed = int(sample.layout.position.max()) + 1
            if most is not None and needed > most:
                raise ValueError(f"sample {sample.encoded.id}: {needed} positions, but the model has {most}")

    def over_processes(self, shares: dict[str, float]) -> dict[str, float]:
        """The sums, over all processes, of what each has a share of."""
        if self.args.world_size == 1:
            return shares
        values = torch.tensor(list(shares.values()), dtype=torch.float64, device=self.args.device)
        torch.distributed.all_reduce(values)
        return dict(zip(shares, values.tolist()))

    def _resized(self, samples: list[Prepared], step: int, progress: float) -> list[Prepared]:
        """The samples at the block sizes that growth draws for this update."""
        data, traits, end = self.recipe.data, self.model.config.traits, self.processor.tokenizer.eos_token_id
        if data.growth is None:
            return samples
        shares = data.growth.block_sizes(progress)
        rngs = [noise_rng(self.recipe.seed, step, s.encoded.id, view=0) for s in samples]  # noise has views from 1
        sizes = [draw_block_size(shares, rng) for rng in rngs]
        return [lay_out(sample.encoded, size, data, traits, end) for sample, size in zip(samples, sizes)]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        for part in _parts(self.model, self.frozen):
            part.eval()  # its running statistics must not move either
        self._seed_dropout()
        diffusion, ar = losses(model, inputs, self.shift, self.totals)
        loss = diffusion + self.recipe.objective.ar_weight * ar
        if not torch.isfinite(loss):
            raise NonFiniteLoss(f"loss is {loss.item()} at step {self.state.global_step}; samples {self.update_ids}")
        self.last["diffusion_loss"] += diffusion.item()
        self.last["ar_loss"] += ar.item()
        return loss * self.args.world_size

    def _get_grad_norm(self, model, grad_norm=None):
        """As transformers', but gradients that are not finite stop the run before they reach the weights."""
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        if found is not None and not math.isfinite(found):
            where = f"at step {self.state.global_step}; samples {self.update_ids}"
            raise NonFiniteLoss(f"the loss is finite, but the gradient's norm is {float(found)} {where}")
        return found

    def _seed_dropout(self) -> None:
        """Dropout is drawn as noise is: from the seed, the step and the micro-batch's place among all processes'."""
        place = self._computed * self.args.world_size + self.args.process_index
        self._computed += 1
        sequence = np.random.SeedSequence([self.recipe.seed, self.state.global_step, place])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    @property
    def sharded(self) -> bool:
        """Whether a process holds a part of the weights only."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    @property
    def shift(self) -> int:
        return self.model.config.traits.prediction_shift

    @property
    def measures_nelbo(self) -> bool:
        """Whether there is something to measure it on; the playground's pictures are nothing to a model of text."""
        return bool(self.recipe.data.heldout or _parts(self.model, ("vision_tower",)))

    @cached_property
    def heldout(self) -> tuple[list[dict[str, torch.Tensor]], float]:
        return heldout_batches(self.recipe.data, self.processor, self.model.config.traits)

    @torch.no_grad()
    def nelbo(self) -> float:
        """The nominal NELBO of the fixed held-out batch, nats a supervised slot (`vlm.training.heldout`).

        Every process measures the same: they wait for each other anyway.
        """
        batches, slots = self.heldout
        model, was_training, total = self.model_wrapped, self.model.training, 0.0
        model.eval()
        for batch in map(self._prepare_inputs, batches):
            with autocast(self.recipe.precision):
                total += nelbo(model, batch, self.shift, slots)
        model.train(was_training)
        return total

    def _get_output_dir(self, trial) -> str:
        base = super()._get_output_dir(trial)
        return os.path.join(base, PARTIAL) if self._partial else base

    def _issue_warnings_after_load(self, load_result) -> None:
        """None: `vlm.checkpoints.load` has checked the same checkpoint, and a tied head is not missing."""

    def _save(self, output_dir=None, state_dict=None) -> None:
        super()._save(output_dir, state_dict=each_once(self.model, state_dict))

    def _save_checkpoint(self, model, trial) -> None:
        """Write beside, then rename: a checkpoint directory is whole or does not exist."""
        run, first = Path(self.args.output_dir), self.is_world_process_zero()
        with written_whole(run / f"checkpoint-{self.state.global_step}", renames=first) as written:
            self._partial = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._partial = False
            self.accelerator.wait_for_everyone()  # every process has added its random state
            if first:
                (written / POSITION_FILE).write_text(json.dumps(self.position))
        for old in checkpoints(run)[:-2] if first else []:
            shutil.rmtree(old)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{checkpoint}: its optimiser's state does not fit this recipe; optim.name, optim.frozen and which "
                "parts have a learning rate of their own must stay as they were"
            ) from error
        except (RuntimeError, EOFError, UnpicklingError) as error:
            raise ValueError(f"{checkpoint}: its optimiser's state is damaged") from error

    def resume(self) -> None:
        """Train, from the newest checkpoint of the run if it has one; a run that has all its steps is left alone."""
        run = Path(self.args.output_dir)
        found = checkpoints(run)
        if found and _step_of(found[-1]) >= self.recipe.max_steps:
            return
        if found:
            window, number = _position(found[-1] / POSITION_FILE)
            self.position = (window, number)
            self.train_dataset.start = (window, number + 1)
        if self.is_world_process_zero():
            shutil.rmtree(run / PARTIAL, ignore_errors=True)  # what a kill left
        try:
            self.train(resume_from_checkpoint=str(found[-1]) if found else None)
        finally:
            self.progress.bar.stop()  # whatever stopped the run, the terminal gets its cursor back


def _parts(model, names: Iterable[str]) -> list[nn.Module]:
    """The parts of ``model`` with these names; a model of text alone lacks two of them."""
    return [part for part in (part_of(model, name) for name in names) if part is not None]


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run directory, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if _step_of(p) >= 0 and (p / POSITION_FILE).exists()]
    return sorted(found, key=_step_of)


def _position(file: Path) -> tuple[int, int]:
    """Where a checkpoint's data stream stood. Raises ValueError, in one line, for a damaged file."""
    try:
        window, number = json.loads(file.read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a position of the data stream") from error
    return window, number


def _step_of(checkpoint: Path) -> int:
    """The step in a checkpoint directory's name; -1 for a name that somebody else gave."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def _as_is(batch):
    return batch
