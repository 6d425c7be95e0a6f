"""LLaDA2.1's token edit (arXiv 2602.08676): what an open block holds may be replaced until the block closes."""

from dataclasses import dataclass

from vlm.generation.finish import ready
from vlm.generation.ranking import require, require_number
from vlm.generation.request import State


@dataclass(frozen=True)
class TokenEdit:
    """Tokens committed in the open block are read again in every pass, and replaced where the model says another.

    A token is replaced if the best token of its slot is another one whose probability reaches ``tau``. When the block
    is full it is read again: up to ``passes`` times, or until a pass changes nothing. Prompt, closed blocks, and what
    is given in a canvas never change. A model can only judge tokens that it sees if its training replaced some by
    others, so the checkpoint must have ``mixed`` noise.

    Thresholds for masks and for tokens come in pairs: 0.5 and 0 for speed, the values of SGLang's ``JointThreshold``;
    0.7 and 0.5 for quality, those of diffusers' pipeline; both allow 16 passes and compare with >. Where ours differs:
    SGLang fills a block even behind an end token before it closes it, and runs a pass more to store its KV; ours is
    done as soon as all before an end token is settled, and stores with the next block's first pass. At a temperature
    the token drawn takes the place of the best one; the published loops are greedy. Finished blocks change only while
    `held.HeldBlocks` holds them (the paper's multiple block editing); SGLang's repetition penalty (off there) is not
    here.

    Attributes:
        tau: any number; where no probability can reach it nothing is edited, and no pass is spent on it.
        passes: that a full block may be read again, at least 0.
        strict: compare with > instead of >=.
    """

    tau: float = 0.0
    passes: int = 16
    strict: bool = False

    def __post_init__(self):
        require_number("tau", self.tau)
        require(isinstance(self.passes, int) and self.passes >= 0, "passes", self.passes,
                "be a whole number of at least 0")  # fmt: skip

    def check(self, traits, spans, grammar) -> None:
        """Raises ValueError where tokens cannot be edited; names what is needed and what is there."""
        if traits.noise != "mixed":
            raise ValueError(
                f"token_edit needs a checkpoint trained with noise 'mixed'; this one has {traits.noise!r}"
            )
        if grammar is not None:
            raise ValueError("token_edit changes committed tokens, but a grammar has followed them: give one of them")
        if spans.slides:
            raise ValueError("token_edit changes tokens of an open block, but streaming gives them up at once")

    def slots(self, state: State, mask_token_id: int, shift: int) -> list[int]:
        """Filled slots of the open block that may change; under shift 1 not its first, which is an AR prediction."""
        if self.tau > 1 or (self.strict and self.tau == 1):
            return []
        known = len(state.tokens) - state.block_start
        first, given = state.block_start - state.prompt_length, state.request.canvas or []
        behind = range(max(known, shift), len(state.canvas))
        fixed = {slot for slot in behind if first + slot < len(given) and given[first + slot] != mask_token_id}
        return [slot for slot in behind if slot not in fixed and state.canvas[slot] != mask_token_id]

    def write(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> bool:
        """Replace what a pass is sure of; whether anything was."""
        changed = False
        for slot, token, probability in zip(slots, tokens, probabilities):
            sure = probability > self.tau if self.strict else probability >= self.tau
            if sure and token != state.canvas[slot]:
                state.canvas[slot], state.confidence[slot], changed = token, probability, True
        return changed

    def waits(self, state: State, changed: bool, mask_token_id: int, shift: int) -> bool:
        """Whether a block that could be closed is read once more; counts it.

        Args:
            changed: whether the last pass wrote something that counts.
        """
        if not (changed and state.rereads < self.passes and ready(state, mask_token_id)):
            return False
        if not self.slots(state, mask_token_id, shift):
            return False
        state.rereads += 1
        return True
