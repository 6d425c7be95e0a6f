"""The prefix store changes what is computed, never what is answered."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy, tiny_model
from vlm.generation.generate import answer
from vlm.generation.prefix import PrefixStore, common_prefix
from vlm.generation.request import Request

CONTEXTS = [{}, {"prediction_shift": 1}, {"context_attention": "block_causal"}]


def asked(model, count: int, pictures: int = 1, seed: int = 0, kind: str = "image") -> list[Request]:
    """Questions of different lengths about the same pictures."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(pictures, 3, 32, 32, generator=generator, dtype=torch.float64)
    per_picture = 4 if kind == "image" else 1
    token = model.config.image_token_id if kind == "image" else model.config.video_token_id
    before = torch.randint(20, 250, (40,), generator=generator)
    media = torch.full((pictures * per_picture,), token)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    tails = [torch.randint(20, 250, (length,), generator=generator) for length in lengths]
    given = (pixels, None) if kind == "image" else (None, pixels)
    return [Request(torch.cat([before, media, tail]), *given) for tail in tails]


@pytest.mark.parametrize("traits", CONTEXTS, ids=["causal", "shift 1", "block-causal"])
@pytest.mark.parametrize("kind, pictures", [("image", 1), ("image", 3), ("video", 5)])
def test_answers_are_identical_with_and_without_it(traits, kind, pictures):
    model, _ = sharp_model(**traits)
    store = PrefixStore()
    for seed in (0, 1, 0):  # the third round finds everything there
        requests = asked(model, 4, pictures, seed, kind)
        plain = answer(model, requests, greedy(max_new_tokens=10))
        stored = answer(model, requests, greedy(max_new_tokens=10), store=store, max_batch=3)
        for one, two in zip(plain, stored):
            assert one.tokens == two.tokens
            assert two.logprobs == pytest.approx(one.logprobs, abs=1e-9)
    assert store.encoded == 2 * pictures


def test_ten_questions_about_one_video_read_it_once():
    model, _ = sharp_model()
    store, requests = PrefixStore(), asked(model, 10, 6, kind="video")
    answer(model, requests, greedy(max_new_tokens=4), store=store)
    assert store.encoded == 6 and store.hits == 9 and store.misses == 1
    assert store.reused_tokens >= 9 * 46


def test_chat_turns_read_only_what_is_new():
    model, _ = sharp_model()
    store, request = PrefixStore(), asked(model, 1)[0]
    first = answer(model, [request], greedy(max_new_tokens=12), store=store)[0]
    longer = torch.cat([torch.tensor(first.tokens), torch.randint(20, 250, (5,))])
    second = Request(longer, request.pixel_values)
    told = answer(model, [second], greedy(max_new_tokens=6), store=store)[0]
    assert told.reused >= first.prompt_length + 8  # the prompt and every closed block of the answer
    assert told.tokens == answer(model, [second], greedy(max_new_tokens=6))[0].tokens
    assert store.encoded == 1


def test_other_pictures_are_other_prefixes():
    model, _ = sharp_model()
    store, one = PrefixStore(), asked(model, 1)[0]
    other = Request(one.input_ids, one.pixel_values + 0.5)
    answer(model, [one], greedy(), store=store)
    state = answer(model, [other], greedy(), store=store)[0]
    assert state.reused == 40  # the text before the picture
    assert state.tokens == answer(model, [other], greedy())[0].tokens


def test_changed_weights_forget_everything():
    model, _ = sharp_model()
    store, requests = PrefixStore(), asked(model, 1)
    answer(model, requests, greedy(), store=store)
    with torch.no_grad():
        next(model.language_model.model.layers.parameters()).add_(0.5)
    state = answer(model, requests, greedy(), store=store)[0]
    assert state.reused == 0 and state.tokens == answer(model, requests, greedy())[0].tokens


def test_the_byte_budget_holds_and_the_least_recent_goes_first():
    model, _ = tiny_model()
    requests = [asked(model, 1, seed=seed)[0] for seed in range(4)]
    probe = PrefixStore()
    answer(model, requests[:1], greedy(max_new_tokens=4), store=probe)
    store = PrefixStore(max_bytes=int(2.5 * probe.nbytes))
    for request in requests:
        answer(model, [request], greedy(max_new_tokens=4), store=store)
        assert store.nbytes <= store.max_bytes
    again = [answer(model, [request], greedy(max_new_tokens=4), store=store)[0].reused for request in requests[::-1]]
    assert again[0] > 40 and again[-1] < 40
    empty = PrefixStore(max_bytes=0)
    assert answer(model, requests, greedy(max_new_tokens=4), store=empty)[0].reused == 0 == empty.nbytes


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_common_prefix_is_the_longest_one(a, b):
    n = common_prefix(np.array(a, np.int64), np.array(b, np.int64))
    assert a[:n] == b[:n] and (n == min(len(a), len(b)) or a[n] != b[n])
