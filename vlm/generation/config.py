"""Generation settings of a block-diffusion model, saved as ``generation_config.json``."""

import math
from dataclasses import fields
from numbers import Integral
from typing import Any

from transformers import GenerationConfig

from vlm.generation.commit import POLICIES, STEPPED, THRESHOLDED, CommitPolicy
from vlm.generation.slots import check_slots

MODES = ("block", "ar", "speculative")


class BlockGenerationConfig(GenerationConfig):
    """Settings of `VLMForBlockDiffusion.generate`, beside transformers' own (``max_new_tokens``, ``temperature`` …).

    Args:
        mode: ``block`` (block diffusion), ``ar`` (one token per forward from the same weights) or ``speculative``
            (blocks drafted in parallel and read by the AR mode, whose greedy output it gives).
        policy: which slots a denoising step commits, a name in `vlm.generation.commit.POLICIES`.
        policy_args: fields of that policy other than its threshold or steps, by name.
        block_size: tokens per block; None means the checkpoint's default, in mode ``speculative`` the largest trained.
        denoising_steps: steps per block under ``static`` and ``learn2pd``; None means one token per step.
        threshold: confidence from which policies that have one (`THRESHOLDED`) commit, in (0, 1].
        slots: strategies of the scoring, finish and spans slots by name, each with its fields, see
            `vlm.generation.slots`; None means fixed blocks ranked by confidence.
        decoder: the preset that these settings started from, see `vlm.generation.presets`.
        seed: of sampling; ignored when greedy.
    """

    def __init__(self, **kwargs: Any):
        self.mode: str = kwargs.pop("mode", "block")
        self.policy: str = kwargs.pop("policy", "threshold")
        self.policy_args: dict[str, Any] | None = kwargs.pop("policy_args", None)
        self.block_size: int | None = kwargs.pop("block_size", None)
        self.denoising_steps: int | None = kwargs.pop("denoising_steps", None)
        self.threshold: float = kwargs.pop("threshold", 0.9)
        self.slots: dict[str, dict[str, Any]] | None = kwargs.pop("slots", None)
        self.decoder: str | None = kwargs.pop("decoder", None)
        self.seed: int = kwargs.pop("seed", 0)
        kwargs.setdefault("max_new_tokens", 256)
        super().__init__(**kwargs)

    @classmethod
    def from_model_config(cls, model_config) -> "BlockGenerationConfig":
        """A model config holds no generation settings of ours; its checkpoint's ``generation_config.json`` does."""
        return cls()

    def check(self) -> None:
        """Raises ValueError with the offending value and what is allowed."""
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.policy not in POLICIES:
            raise ValueError(f"policy {self.policy!r} is not one of {', '.join(POLICIES)}")
        known = [f.name for f in fields(POLICIES[self.policy])]
        for name in self.policy_args or {}:
            if name not in known:
                raise ValueError(f"policy {self.policy!r} has no {name!r}; it has {', '.join(known)}")
        check_slots(self.slots or {}, self.mode)
        if self.max_new_tokens is None:
            raise ValueError("max_new_tokens None must be a number of at least 1")
        for name in ("block_size", "denoising_steps", "max_new_tokens", "seed", "top_k"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Integral):
                raise ValueError(f"{name} {value!r} must be a whole number")
        for name in ("block_size", "denoising_steps", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} must lie in [0, 2**63)")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold {self.threshold} must lie in (0, 1]")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} must be 0 (greedy) or a positive number")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty {self.repetition_penalty} must be a positive number")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must lie in (0, 1]")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (off) or positive")

    def commit_policy(self) -> CommitPolicy:
        """The policy these settings name.

        Raises:
            ValueError: for a value that the policy cannot have, naming it.
        """
        given = {"tau": self.threshold} if self.policy in THRESHOLDED else {}
        given |= {"steps": self.denoising_steps} if self.policy in STEPPED else {}
        try:
            return POLICIES[self.policy](**{**given, **(self.policy_args or {})})
        except TypeError as error:
            raise ValueError(f"policy {self.policy!r} cannot be built from {self.policy_args}: {error}") from None
