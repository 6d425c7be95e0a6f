"""Rows whose KV is kept for a few passes although it is not exact: they need not be fed meanwhile.

Under full attention no KV is exact for longer than a pass, and these rows may be any. Elsewhere KV before the open
block is exact and kept anyway, and these rows are the open block's own. A strategy says which rows it keeps, which
kept ones a pass works out again, and which open slots the pass may decide; `planning` does the rest. What is worked
out again is written over in its place in the cache, so that nothing kept has to move.
"""

from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from vlm.generation.ranking import require
from vlm.generation.request import State


@dataclass
class Stretch:
    """Neighbouring rows of one request that its coming pass may feed.

    Attributes:
        state: the request's, its open block among these rows.
        first: position of the first row.
        tokens: of all of them, the mask id where nothing is written.
        mask_token_id: the checkpoint's.
    """

    state: State
    first: int
    tokens: list[int]
    mask_token_id: int

    @property
    def positions(self) -> range:
        return range(self.first, self.first + len(self.tokens))

    @property
    def block(self) -> range:
        """Positions of the open block."""
        return range(self.state.block_start, self.state.block_start + len(self.state.canvas))

    @cached_property
    def open(self) -> list[int]:
        """Slots of the open block that are not filled."""
        return [slot for slot, token in enumerate(self.state.canvas) if token == self.mask_token_id]

    def token(self, position: int) -> int:
        return self.tokens[position - self.first]

    def is_mask(self, position: int) -> bool:
        return self.token(position) == self.mask_token_id


@dataclass(frozen=True)
class KeptRows:
    """The strategy that keeps nothing, and what all others are made from.

    Attributes:
        refresh: work everything kept out again after as many passes within a block; None: at every block only.
    """

    refresh: int | None = None
    name: ClassVar[str] = ""
    anywhere: ClassVar[bool] = True  # whether it has something to keep where KV before the open block is exact

    def __post_init__(self):
        legal = self.refresh is None or (isinstance(self.refresh, int) and self.refresh >= 1)
        require(legal, "refresh", self.refresh, "be a whole number of at least 1")

    @classmethod
    def for_checkpoint(cls, model, commit, **fields) -> "KeptRows":
        """Raises ValueError where the checkpoint leaves it nothing to keep, or ``commit`` does not go with it."""
        made, context = cls(**fields), model.config.traits.context_attention
        if not made.anywhere and context != "full":
            raise ValueError(
                f"{made.name} is for context_attention 'full'; this checkpoint has {context!r}, under which KV of "
                "closed blocks is exact and kept anyway"
            )
        made.check(commit)
        return made

    def check(self, commit) -> None:
        """Raises ValueError for a commit policy that it cannot go with."""

    def refreshes(self, state: State) -> bool:
        """Whether the coming pass of a block works everything out again."""
        return state.step == 0 or (self.refresh is not None and state.step % self.refresh == 0)

    def decides(self, rows: Stretch) -> list[int]:
        """The open slots that the coming pass may decide, in order; at least one if any is open."""
        return rows.open

    def sees(self, rows: Stretch) -> list[int] | range:
        """Positions that there are for the coming pass, fed or kept."""
        return rows.positions

    def again(self, rows: Stretch) -> Container[int]:
        """Positions to feed even if their KV is kept; those that slots are read from, or that changed, always are."""
        return rows.positions if self.refreshes(rows.state) else ()

    def keeps(self, rows: Stretch, position: int) -> bool:
        """Whether what the coming pass works out for a position is kept for the passes behind it."""
        return False


NOTHING = KeptRows()
