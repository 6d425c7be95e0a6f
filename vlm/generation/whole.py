"""Decoding under full attention (LLaDA, LLaDA-V): the whole answer's length is there from the start, as masks.

Every row sees every other, so no KV is exact for longer than a pass. A pass feeds the prompt, what is written, the
open block and the masks behind it; that is the exact way. Strategies that keep some rows' KV for a few passes are in
`fast_dllm`, `dkv` and `phase`.
"""

from vlm.generation.kept import Stretch
from vlm.generation.request import State


def everything(state: State, mask_token_id: int) -> Stretch:
    """All rows of a request, from the prompt to the answer's last slot: what is not written or given yet is masks."""
    size, length = state.strategy.spans.size, state.prompt_length
    origin = length if state.strategy.spans.origin == "response" else 0
    end = origin + -(-(state.end - origin) // size) * size  # of the last block
    given = state.request.canvas or []
    stop = state.block_start + len(state.canvas)
    behind = [given[i] if i < len(given) else mask_token_id for i in range(stop - length, end - length)]
    return Stretch(state, 0, state.tokens[: state.block_start] + state.canvas + behind, mask_token_id)
