"""What the engine does not do, kept to be measured against what it does."""

import torch
from transformers import DynamicCache

from vlm.attention import Rows
from vlm.generation.feed import Feed, plan
from vlm.generation.loop import Loop
from vlm.generation.request import State


class SeparateClose(Loop):
    """A loop that closes a block in a pass of its own, before the one that opens the next block."""

    def _pass(self, states: list[State], feeds: list[Feed]) -> None:
        closes = [state.cached >= state.prompt_length and 0 < feed.n_clean < len(feed.ids)
                  for state, feed in zip(states, feeds)]  # fmt: skip
        if any(closes):
            alone = [Feed(f.ids[: f.n_clean], f.n_clean) if c else Feed() for f, c in zip(feeds, closes)]
            super()._pass(states, alone)
            feeds = [plan(s, self.traits) if c else f for s, f, c in zip(states, feeds, closes)]
        super()._pass(states, feeds)


class ConcatCache(DynamicCache):
    """Transformers' own cache in place of `vlm.cache.BlockCache`, for one batch row.

    Every pass copies all keys and values to append its rows; what it does not commit is cropped off again.
    """

    def __init__(self):
        super().__init__()
        self.rows: Rows | None = None  # of the committed tokens, fields [1, n]
        self.length = 0

    def place(self, rows: Rows, slots: None = None) -> Rows:
        """The `Rows` of every key that the coming pass will see."""
        self._drop()
        self.seen = rows if self.rows is None else _joined(self.rows, rows)
        return self.seen

    def commit(self, counts: torch.Tensor) -> None:
        """Make the first ``counts`` [1] rows of the last pass permanent."""
        self.length += int(counts[0])
        self.rows = self.seen.map(lambda t: t[:, : self.length])
        self._drop()

    def load(self, rows: Rows, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Fill the empty cache with the keys and values [H, n, d] of the tokens at ``rows``, fields [1, n]."""
        for index, (keys, values) in enumerate(layers):
            self.update(keys.unsqueeze(0), values.unsqueeze(0), index)
        self.rows, self.length = rows, rows.shape[1]

    def _drop(self) -> None:
        """Forget what was not committed."""
        extra = self.get_seq_length() - self.length
        if extra:
            self.crop(-extra)


def _joined(a: Rows, b: Rows) -> Rows:
    return Rows(**{name: torch.cat([column, getattr(b, name)], 1) for name, column in vars(a).items()})
