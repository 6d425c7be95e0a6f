"""Fast-dLLM's approximate caches: prefix and dual of the first version, sub-blocks of the second."""

from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

from vlm.generation.kept import KeptRows, Stretch
from vlm.generation.ranking import require


@dataclass(frozen=True)
class PrefixKV(KeptRows):
    """Keeps what stands before the open block (Fast-dLLM's prefix cache, arXiv 2505.22618).

    The first pass of a block feeds everything and is its first denoising step. As published, ``refresh`` is None.
    """

    name: ClassVar[str] = "prefix_kv"
    anywhere: ClassVar[bool] = False

    def keeps(self, rows: Stretch, position: int) -> bool:
        return position < rows.block.start


@dataclass(frozen=True)
class DualKV(KeptRows):
    """Keeps what stands before the open block and the masks behind it (Fast-dLLM's dual cache, arXiv 2505.22618)."""

    name: ClassVar[str] = "dual_kv"
    anywhere: ClassVar[bool] = False

    def again(self, rows: Stretch) -> Container[int]:
        return rows.positions if self.refreshes(rows.state) else rows.block

    def keeps(self, rows: Stretch, position: int) -> bool:
        return position not in rows.block


@dataclass(frozen=True)
class SubBlocks(KeptRows):
    """A block in parts, left to right, with a dual cache within the block (Fast-dLLM v2, arXiv 2509.26328).

    Only slots of the first part that has an open one are decided. While that part's first slot is open, a pass feeds
    the whole block; from then on only the part, and the rest of the block is kept. So a part costs one whole pass at
    least, and as many as its first slot takes. In v2's code the size is an argument of generation, 8 as a rule in
    blocks of 32; blocks as large as the part are plain ones. There a batch's rows go together: the whole block is fed
    as long as any row's first slot is open; here every request goes its own way.

    v2's models are block-causal, and their KV before the block is exact. Under full attention, which v2 does not
    treat, everything outside the block is kept from the block's first pass on besides, as in `DualKV`.

    Attributes:
        size: slots of a part; the last part of a block may be shorter.
    """

    size: int = 8
    name: ClassVar[str] = "sub_blocks"

    def __post_init__(self):
        super().__post_init__()
        require(isinstance(self.size, int) and self.size >= 1, "size", self.size, "be a whole number of at least 1")

    def decides(self, rows: Stretch) -> list[int]:
        return [slot for slot in rows.open if slot // self.size == rows.open[0] // self.size]

    def again(self, rows: Stretch) -> Container[int]:
        if self.refreshes(rows.state):
            return rows.positions
        if not rows.open:
            return rows.block
        start = rows.block.start + rows.open[0] // self.size * self.size
        return rows.block if rows.is_mask(start) else range(start, min(start + self.size, rows.block.stop))

    def keeps(self, rows: Stretch, position: int) -> bool:
        return True
