"""Self-speculative verification: a parallel draft is read autoregressively and kept as far as it agrees.

The pass that reads the draft is an ordinary causal pass, so the KV of what it keeps is the AR mode's own, and greedy
output is the AR mode's token for token, whatever the draft. Under sampling every kept token is a draw from the AR
distribution given the tokens before it: the distribution of answers is AR's too.
"""


def agreed(draft: list[int], read: list[int]) -> int:
    """How many of the draft's tokens, from the front, are the ones that reading it gives.

    Args:
        draft: tokens proposed in parallel.
        read: at i the token that follows ``draft[:i]``; one more than the draft has.
    """
    return next((i for i, token in enumerate(draft) if token != read[i]), len(draft))
