"""Optimisers: AdamW, or Muon for the decoder's matrices with AdamW for everything else.

Muon (K. Jordan, 2024) orthogonalises each matrix's momentum; on small models trained from scratch it needs fewer
tokens than AdamW. It is meant for hidden matrices only: embeddings, norms, convolutions and the projector use AdamW.
"""

import math

import torch
from torch import nn
from torch.optim import AdamW, Muon

from vlm.training.recipe import OptimRecipe


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimisers behind one interface; the groups of both are visible to schedulers and checkpoints."""

    def __init__(self, muon: Muon, adamw: AdamW):
        self.parts = {"muon": muon, "adamw": adamw}
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]
        self.defaults = {}
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}

    @property
    def state(self) -> dict:
        return {key: value for part in self.parts.values() for key, value in part.state.items()}

    def step(self, closure=None) -> None:
        for part in self.parts.values():
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]


def build_optimizer(model: nn.Module, recipe: OptimRecipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe over ``model``'s trainable parameters; vectors and tables get no weight decay."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = {
        n: p for n, p in trainable.items() if p.ndim == 2 and n.startswith("language_model") and ".layers." in n
    }
    rest = {n: p for n, p in trainable.items() if recipe.name == "adamw" or n not in matrices}
    adamw = AdamW(_groups(rest, recipe), lr=recipe.lr, betas=(0.9, 0.98))
    if recipe.name == "adamw":
        return adamw
    muon = Muon(matrices.values(), lr=recipe.muon_lr, weight_decay=recipe.weight_decay)
    return MuonWithAdamW(muon, adamw)


def _groups(parameters: dict[str, nn.Parameter], recipe: OptimRecipe) -> list[dict]:
    """Matrices and vectors apart, and so is each part of the model that has a learning rate of its own."""
    own = {"vision_tower": recipe.vision_lr, "projector": recipe.projector_lr}
    rates = {**{part: lr for part, lr in own.items() if lr is not None}, "": recipe.lr}
    groups = []
    for part, lr in rates.items():
        others = [name for name in rates if name and name != part]
        mine = {n: p for n, p in parameters.items() if n.startswith(part) and n.split(".")[0] not in others}
        decayed = [p for n, p in mine.items() if p.ndim >= 2 and "embed" not in n]
        kept = [p for n, p in mine.items() if p.ndim < 2 or "embed" in n]
        groups.append({"params": decayed, "lr": lr, "weight_decay": recipe.weight_decay})
        groups.append({"params": kept, "lr": lr, "weight_decay": 0.0})
    return groups


def warmup_stable_decay(recipe: OptimRecipe, max_steps: int):
    """Learning-rate factor of a step: linear up, constant, down to zero over the last ``decay_steps``."""

    def factor(step: int) -> float:
        up = (step + 1) / max(recipe.warmup_steps, 1)
        down = (max_steps - step) / max(recipe.decay_steps, 1)
        if recipe.decay == "cosine":
            down = (1 - math.cos(math.pi * max(0.0, min(1.0, down)))) / 2
        return max(0.0, min(1.0, up, down))

    return factor
