"""When a block is done, when a request is done, and what of the canvas counts."""

from vlm.generation.request import State


def settle(state: State, mask_token_id: int, end_token_ids: frozenset[int]) -> None:
    """Move the canvas's final tokens to ``state.tokens`` once the block, or the request, is finished.

    A request stops at its first end token as soon as every slot before it is final: slots behind an end token can no
    longer change the answer. It also stops when as many tokens as it may generate are final.
    """
    canvas = state.canvas
    first_mask = canvas.index(mask_token_id) if mask_token_id in canvas else len(canvas)
    new_from = max(0, state.prompt_length - state.block_start)  # prompt tokens may share the first block
    final = canvas[:first_mask]
    end = next((i for i in range(new_from, first_mask) if canvas[i] in end_token_ids), None)
    if end is not None:
        final, state.finish_reason = canvas[: end + 1], "stop"
    room = state.prompt_length + state.room - state.block_start
    if len(final) >= room:
        reason = "stop" if end is not None and len(final) == room else "length"
        final, state.finish_reason = final[:room], reason
    if state.finish_reason is not None or first_mask == len(canvas):
        state.tokens = state.tokens[: state.block_start] + final
        state.canvas = None
