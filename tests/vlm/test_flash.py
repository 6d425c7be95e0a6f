"""Attention in two parts against torch's attention over all keys at once."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.flash import merge, partial_attention


def plain(query, key, value, mask, scaling):
    """Softmax attention, restated: [H, L, d] over [K, W, d]."""
    repeat = len(query) // len(key)
    key, value = key.repeat_interleave(repeat, 0), value.repeat_interleave(repeat, 0)
    scores = (query @ key.transpose(1, 2) * scaling).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).nan_to_num(0) @ value, scores.logsumexp(-1, keepdim=True)


def drawn(seed: int, heads: int, groups: int, rows: int, keys: int, size: float, share: float):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(heads * groups, rows, 8, generator=generator, dtype=torch.float64) * size
    key, value = torch.randn(2, heads, keys, 8, generator=generator, dtype=torch.float64)
    return query, key, value, torch.rand(rows, keys, generator=generator) < share


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**20), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 12),
    st.integers(0, 12), st.sampled_from([0.1, 1.0, 50.0]), st.sampled_from([0.3, 1.0]),
)  # fmt: skip
def test_any_two_parts_merge_to_the_whole(seed, heads, groups, rows, keys, cut, size, share):
    query, key, value, mask = drawn(seed, heads, groups, rows, keys, size, share)
    mask[:, -1] = True  # every row sees something
    cut = min(cut, keys)
    parts = [
        partial_attention(query, key[:, at], value[:, at], mask[:, at], 0.3)
        for at in (slice(0, cut), slice(cut, keys))
    ]
    whole, lse = plain(query, key, value, mask, 0.3)
    for one, other in (parts, parts[::-1]):
        if cut < keys:
            assert (merge(*one, *other) - whole).abs().max() <= 1e-12
            assert (torch.logaddexp(one[1], other[1]) - lse).abs().max() <= 1e-10


def test_a_row_that_sees_nothing_gives_nothing():
    query, key, value, mask = drawn(0, 2, 2, 3, 4, 1.0, 1.0)
    mask[1] = False
    out, lse = partial_attention(query, key, value, mask, 0.3)
    expected, expected_lse = plain(query, key, value, mask, 0.3)
    assert (out - expected).abs().max() <= 1e-12 and not out[:, 1].any()
    assert torch.equal(lse.isinf(), expected_lse.isinf()) and lse[:, 1].isinf().all()


def test_half_precision_sums_in_single():
    query, key, value, mask = drawn(1, 2, 2, 3, 300, 1.0, 1.0)
    out, lse = partial_attention(*(t.to(torch.bfloat16) for t in (query, key, value)), mask, 0.3)
    assert out.dtype == lse.dtype == torch.float32
    exact, exact_lse = plain(query, key, value, mask, 0.3)
    assert (out - exact).abs().max() < 0.02 and (lse - exact_lse).abs().max() < 0.02
