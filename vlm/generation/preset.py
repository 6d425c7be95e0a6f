"""What a published decoder is to us; the tables are `presets_commit` and `presets_passes`."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One decoder.

    Attributes:
        source: paper or code.
        rule: what it does, in a line.
        differs: between paper, released code and ours; empty if nothing does.
        needs: of the checkpoint, beyond what every block decoder needs; empty if nothing.
        policy, policy_args, threshold, denoising_steps, slots, mode: settings of `BlockGenerationConfig`.
        block_size: at most; the largest trained size up to it is taken. None: the checkpoint's default.
    """

    source: str
    rule: str
    policy: str
    differs: str = ""
    needs: str = ""
    policy_args: dict[str, Any] | None = None
    threshold: float = 0.9
    denoising_steps: int | None = None
    slots: dict[str, dict[str, Any]] = field(default_factory=dict)
    mode: str = "block"
    block_size: int | None = None
