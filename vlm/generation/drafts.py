"""The spans of the speculative mode: blocks that are drafted, read, and kept as far as they agree."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from vlm.config import DiffusionTraits
from vlm.generation.diffuspec import AdaptiveLength, Drafting, PathSearch
from vlm.generation.request import State
from vlm.generation.spans import begin, require_ar, require_causal, trained_size

if TYPE_CHECKING:
    from vlm.generation.verifier import Verifier


@dataclass(frozen=True)
class Drafts:
    """Speculation: a block is drafted in parallel, then read autoregressively and kept as far as it agrees.

    The drafter's own weights read it, in their AR mode, or those of a ``verifier``. Its own can say a draft's first
    token in the pass that drafts, from the clean row before it; for a second model all of a draft is a proposal.
    Under shift 1 the block's first slot holds the last final token, whose noisy row predicts the slot behind it.

    Attributes:
        sizes: of blocks that a draft of another length may have, ascending, ``size`` the last.
        search: finds the draft to read among what the slots propose; None reads the best token of every slot.
        pace: how long drafts are; None fills the block.
        verifier: a second model that reads drafts; None: the drafter's AR mode.
    """

    size: int
    shift: int
    sizes: tuple[int, ...] = ()
    search: PathSearch | None = None
    pace: AdaptiveLength | None = None
    verifier: "Verifier | None" = None
    mode: ClassVar[str] = "speculative"
    slides: ClassVar[bool] = False
    holds: ClassVar[int] = 0
    varies: ClassVar[bool] = False

    @classmethod
    def for_checkpoint(
        cls,
        traits: DiffusionTraits,
        size: int | None,
        search: PathSearch | None = None,
        pace: AdaptiveLength | None = None,
        verifier: "Verifier | None" = None,
    ) -> "Drafts":
        """Drafts of the size of a trained block, or as long as ``pace`` says in trained blocks up to that size.

        Raises:
            ValueError: for a size that was not trained, a checkpoint without an AR mode where none else verifies, or
                without causal context.
        """
        if verifier is None:
            require_ar(traits, "speculative")
        else:
            require_causal(traits)
        size = trained_size(traits, size, cls.mode)
        sizes = tuple(sorted(s for s in traits.trained_block_sizes if s <= size))
        return cls(size, traits.prediction_shift, sizes, search, pace, verifier)

    @property
    def says_first(self) -> bool:
        """Whether the pass that drafts reads a draft's first token as the AR mode does, so that it is final."""
        return self.verifier is None

    def open(self, state: State, mask_token_id: int) -> None:
        if self.search is not None or self.pace is not None:
            state.drafting = state.drafting or Drafting(0 if self.pace is None else self.pace.longest)
            state.drafting.slots = []
        size = self.size if self.pace is None else min(s for s in self.sizes if s - self._taken >= self._length(state))
        # In a block of one slot nothing is drafted: it is read from the clean row before it under either shift.
        known = state.tokens[-1:] if self.shift == 1 and size > 1 and len(state.tokens) > state.prompt_length else []
        begin(state, len(state.tokens) - len(known), known + [mask_token_id] * (size - len(known)), mask_token_id)

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        return self.size

    def note(self, state: State, logits: torch.Tensor) -> None:
        """Keep what the next slots of a draft, of these logits [S, V], could become, to search for a path."""
        self.search.note(state.drafting, logits, state.strategy.finish.end_token_ids)

    def draft(self, state: State, tokens: list[int]) -> list[int]:
        """The draft to read, where the last rows of a pass propose ``tokens`` behind the final ones."""
        kept, ends, slots = state.drafting, state.strategy.finish.end_token_ids, len(tokens)
        if self.pace is not None:
            tokens = tokens[: self._length(state)]
            kept.proposed = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        if self.search is None:
            return tokens
        self.search.read(kept, state.tokens, state.strategy.suppress_tokens)
        return self.search.path(kept.slots[-slots:][: len(tokens)], kept.text, ends)

    def learn(self, state: State, accepted: int) -> None:
        """Take into account that ``accepted`` tokens of a draft were kept."""
        if self.pace is not None:
            self.pace.learn(state.drafting, accepted)

    @property
    def _taken(self) -> int:
        """Slots of a block that hold no draft: that of the token known before it, or said along with it."""
        return 1 if self.says_first or self.shift == 1 else 0

    def _length(self, state: State) -> int:
        """Tokens in the next draft, no more than its block has room for."""
        return min(state.drafting.length, self.size - self._taken)
