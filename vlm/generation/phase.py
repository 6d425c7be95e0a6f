"""Window-Diffusion's phases (arXiv 2601.20332): a buffer of masks is kept, an active few are worked on."""

from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

from vlm.generation.kept import KeptRows, Stretch
from vlm.generation.ranking import require


@dataclass(frozen=True)
class PhaseKV(KeptRows):
    """Works on the first open slots, keeps a buffer of masks behind them, and leaves out those farther off.

    A phase begins with a pass that feeds everything written and the next ``window`` masks, and keeps them all; masks
    behind those do not exist until the next phase. Its other passes feed the first ``active`` open slots and every
    token written in this phase; the rest is kept. Only active slots are decided. A phase lasts ``refresh`` passes, or
    until its block or its open slots are used up.

    The defaults are the paper's for LLaDA (128, 16 and 32 for Dream). Its text is one block with one token a step;
    here slots are decided within the open block, at whose beginning a phase begins. The released code differs from
    the paper for both models: for LLaDA the pass that begins a phase feeds the far masks too and may decide them; for
    Dream it decides the leftmost slot however unsure. Ours is the paper's rule, in every pass the same.

    Attributes:
        window: masks that exist in a phase.
        active: open slots worked on, at most ``window``.
    """

    refresh: int | None = 32
    window: int = 64
    active: int = 16
    name: ClassVar[str] = "phase_kv"

    def __post_init__(self):
        super().__post_init__()
        for name in ("window", "active"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, value, "be a whole number of at least 1")
        require(self.active <= self.window, "active", self.active, f"be at most window {self.window}")

    def decides(self, rows: Stretch) -> list[int]:
        if self._begins(rows):
            return rows.open[: self.active]
        start, kept = rows.block.start, rows.state.kept
        return [slot for slot in rows.open if start + slot in kept][: self.active]

    def sees(self, rows: Stretch) -> list[int]:
        if not self._begins(rows):
            return [position for position in rows.positions if position in rows.state.kept]
        masks = [position for position in rows.positions if rows.is_mask(position)]
        far = {*masks[self.window :]}
        return [position for position in rows.positions if position not in far]

    def again(self, rows: Stretch) -> Container[int]:
        return rows.positions if self._begins(rows) else {rows.block.start + slot for slot in self.decides(rows)}

    def keeps(self, rows: Stretch, position: int) -> bool:
        # A token written in a phase is not noted as kept: it goes on counting as changed, and is fed until the end.
        return self._begins(rows) or rows.is_mask(position)

    def _begins(self, rows: Stretch) -> bool:
        kept, start = rows.state.kept, rows.block.start
        return self.refreshes(rows.state) or not any(start + slot in kept for slot in rows.open)
