"""dKV-Cache (arXiv 2505.15781): KV of tokens is kept once it has settled, a pass after they were written.

A token's KV jumps when it is written and then hardly moves. Under full attention the rule is for the whole text;
where KV before the open block is exact, for the block's own rows. Published values are for blocks of 64, in which
there is something to save; in small blocks there is little.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

from vlm.generation.kept import KeptRows, Stretch
from vlm.generation.ranking import require
from vlm.generation.request import State


@dataclass(frozen=True)
class DelayedKV(KeptRows):
    """Keeps tokens from one pass after they were written (dKV-Cache-Decode); masks are never kept.

    Everything is fed in the first two passes of a block and in every pass whose number is a multiple of ``refresh``:
    8 in the authors' example for LLaDA, 4 by default in their function, 16 in their example for Dream.
    """

    refresh: int | None = 8
    name: ClassVar[str] = "dkv"

    def refreshes(self, state: State) -> bool:
        return state.step < 2 or KeptRows.refreshes(self, state)

    def keeps(self, rows: Stretch, position: int) -> bool:
        return not rows.is_mask(position)


@dataclass(frozen=True)
class PromptAndDelayedKV(DelayedKV):
    """Keeps the prompt for good and written tokens as `DelayedKV` does (dKV-Cache-PD, prefill and decode).

    The prompt's KV is that of the request's very first pass, when all of the answer was masks; no refresh works it
    out again. With ``refresh`` 1 the prompt alone is kept: dKV-Cache-Prefill. The released code has PD for Dream only,
    without blocks; here, as in its Decode for LLaDA, every block begins with a refresh.
    """

    name: ClassVar[str] = "dkv_pd"
    anywhere: ClassVar[bool] = False

    def again(self, rows: Stretch) -> Container[int]:
        return range(rows.state.prompt_length, rows.positions.stop) if self.refreshes(rows.state) else ()

    def keeps(self, rows: Stretch, position: int) -> bool:
        return position < rows.state.prompt_length or not rows.is_mask(position)


@dataclass(frozen=True)
class GreedyKV(KeptRows):
    """Keeps every row, masks too, but those around what happens next (dKV-Cache-Greedy).

    A pass feeds the tokens that the last pass wrote, the slots that it is going to write itself, and around each of
    these the nearest masks, left and right in turn. So the slots must be known before the pass: the commit policy has
    to go by an order of its own. The paper draws it at random, and the released code refuses any other; the policy
    ``random`` is that, ``sequential`` goes from left to right. 2 and 4 are the values of the authors' example.

    Attributes:
        window: masks fed around each slot that is written.
    """

    refresh: int | None = 2
    window: int = 4
    name: ClassVar[str] = "dkv_greedy"

    def __post_init__(self):
        super().__post_init__()
        legal = isinstance(self.window, int) and self.window >= 0
        require(legal, "window", self.window, "be a whole number of at least 0")

    def check(self, commit) -> None:
        if not hasattr(commit, "ahead"):
            raise ValueError(
                "dkv_greedy needs a policy that knows its slots before a pass, 'random' or 'sequential'; "
                f"{type(commit).__name__} chooses them by what the pass says"
            )

    def decides(self, rows: Stretch) -> list[int]:
        return rows.state.strategy.commit.ahead(rows.open)

    def again(self, rows: Stretch) -> Container[int]:
        if self.refreshes(rows.state):
            return rows.positions
        fed = {rows.block.start + slot for slot in self.decides(rows)}
        masks = {position for position in rows.positions if rows.is_mask(position)} - fed
        for at in sorted(fed):
            near = sorted(masks, key=lambda position: (abs(position - at), position > at))[: self.window]
            fed |= {*near}
            masks -= fed
        return fed

    def keeps(self, rows: Stretch, position: int) -> bool:
        return True
