"""Scores of given continuations against the stock language model (AR) and against every mask there is (block).

The oracle of block mode has no cache and shares no code with the scorer: one plain pass over the clean stream and one
noisy view of one block, for each set of masks, weighted as the integral over the noise level weighs it.
"""

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from tests.vlm.tiny import BACKBONES, tiny_model
from vlm.attention import Rows
from vlm.generation.likelihood import score_continuations
from vlm.generation.likelihood_items import draw_masks
from vlm.generation.request import Request
from vlm.layout import clean_blocks

CASES = {
    "causal": {},
    "shift 1": {"prediction_shift": 1},
    "block causal": {"context_attention": "block_causal"},
    "sequence grid": {"block_origin": "sequence"},
    "causal blocks": {"block_attention": "causal", "block_origin": "sequence"},
    "block causal, sequence grid, shift 1": {
        "context_attention": "block_causal", "block_origin": "sequence", "prediction_shift": 1,
    },
}  # fmt: skip
SIZES = (1, 2, 3, 4)


def model_of(backbone: str = "qwen3", **traits):
    return tiny_model(backbone, scale=4.0, trained_block_sizes=SIZES, **traits)[0]


def tokens(length: int, seed: int) -> list[int]:
    return torch.randint(20, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompt(length: int, seed: int = 0, picture: int | None = None, model=None) -> Request:
    """A text prompt, or one with a picture of four features from its second token on."""
    ids = torch.tensor(tokens(length, 100 + seed))
    if picture is None:
        return Request(ids)
    ids[1:5] = model.config.image_token_id
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(picture), dtype=torch.float64)
    return Request(ids, pixels)


def ragged(model) -> tuple[list[Request], list[list[int]]]:
    """Prompts and continuations of many lengths; some prompts come again."""
    prompts = [prompt(1), prompt(6, 1), prompt(9, 2, 0, model), prompt(9, 2, 1, model), prompt(7, 3)]
    pairs = [(0, 1), (1, 5), (2, 3), (2, 8), (3, 3), (1, 2), (4, 7), (0, 4)]
    return [prompts[p] for p, _ in pairs], [tokens(length, i) for i, (_, length) in enumerate(pairs)]


@torch.no_grad()
def view_logprobs(model, request: Request, continuation: list[int], start: int, size: int, hidden: set) -> dict:
    """Position -> log-probability of the ``hidden`` tokens of the block at ``start``, from one uncached pass."""
    traits, length = model.config.traits, len(request.input_ids)
    ids = torch.cat([request.input_ids, torch.tensor(continuation)])
    end = len(ids)
    borders = clean_blocks(end, [*request.answer_spans, (length, end)], size, traits.block_origin)
    positions = torch.arange(start, start + size)
    canvas = torch.tensor([
        traits.mask_token_id if p >= end or p in hidden else int(ids[p]) for p in positions.tolist()
    ])  # fmt: skip
    embeds = model.embed(ids[None], request.pixel_values)
    picture = {p: embeds[0, p] for p in range(start, min(start + size, length))}
    noisy = model.get_input_embeddings()(canvas)[None]
    for p, embed in picture.items():
        noisy[0, p - start] = embed
    rows = Rows(
        torch.cat([torch.arange(end), positions])[None],
        torch.zeros(1, end + size, dtype=torch.long),
        torch.tensor([0] * end + [1] * size)[None],
        torch.cat([torch.tensor(borders[:, 0]), torch.full((size,), start)])[None],
        torch.cat([torch.tensor(borders[:, 1]), torch.full((size,), start + size)])[None],
        torch.cat([torch.zeros(end, dtype=torch.long), (canvas == traits.mask_token_id).long()])[None],
    )
    logits = model.head(model.decode(torch.cat([embeds, noisy], 1), rows))[0].log_softmax(-1)
    shift = traits.prediction_shift
    return {p: logits[end + p - start - shift, ids[p]].item() for p in hidden}


def integral(polynomial) -> float:
    """Over [0, 1], exact for polynomials of a degree below 16."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    return float(weights @ polynomial((nodes + 1) / 2)) / 2


def bound(model, request: Request, continuation: list[int], size: int) -> float:
    """The expectation over noise levels and masks, every set of masks enumerated."""
    traits, length = model.config.traits, len(request.input_ids)
    end, total = length + len(continuation), 0.0
    first = length // size * size if traits.block_origin == "sequence" else length
    for start in range(first, end, size):
        slots = list(range(max(start, length), min(start + size, end)))
        if traits.prediction_shift and slots[0] == start:
            total += clean_logprob(model, request, continuation, slots.pop(0), size)
        n = len(slots)
        for k in range(1, n + 1):
            for hidden in combinations(slots, k):
                # The integral over t of 1/t, times the chance t^k (1 - t)^(n - k) of exactly these masks.
                weight = integral(lambda t, n=n, k=k: t ** (k - 1) * (1 - t) ** (n - k))
                total += weight * sum(view_logprobs(model, request, continuation, start, size, set(hidden)).values())
    return total


@torch.no_grad()
def clean_logprob(model, request: Request, continuation: list[int], position: int, size: int) -> float:
    """Log-probability of the token at ``position`` as its clean predecessor says it, from one uncached pass."""
    ids = torch.cat([request.input_ids, torch.tensor(continuation)])
    spans = [*request.answer_spans, (len(request.input_ids), len(ids))]
    borders = torch.tensor(clean_blocks(len(ids), spans, size, model.config.traits.block_origin))
    zeros = torch.zeros_like(ids)
    rows = Rows(torch.arange(len(ids)), zeros, zeros, borders[:, 0], borders[:, 1]).map(lambda t: t[None])
    hidden = model.decode(model.embed(ids[None], request.pixel_values), rows)[0, position - 1]
    return model.head(hidden).log_softmax(-1)[ids[position]].item()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_ar_is_the_stock_log_softmax_of_the_clean_stream(backbone):
    model = model_of(backbone)
    requests, continuations = [prompt(5), prompt(11, 1)], [tokens(9, 0), tokens(1, 1)]
    for request, continuation, found in zip(
        requests, continuations, score_continuations(model, requests, continuations)
    ):
        ids = torch.cat([request.input_ids, torch.tensor(continuation)])
        with torch.no_grad():
            stock = model.language_model(input_ids=ids[None]).logits[0].log_softmax(-1)
        expected = stock[len(request.input_ids) - 1 : -1].gather(1, torch.tensor(continuation)[:, None])[:, 0]
        assert found.per_token == pytest.approx(expected.tolist(), abs=1e-9)
        assert found.logprob == pytest.approx(expected.sum().item(), abs=1e-9)
        assert (found.tokens, found.samples, found.stderr) == (len(continuation), None, None)


def test_ar_sees_the_picture():
    model = model_of()
    requests, continuation = [prompt(9, 2, picture, model) for picture in (0, 1)], tokens(4, 0)
    found = score_continuations(model, requests, [continuation] * 2)
    for request, one in zip(requests, found):
        ids = torch.cat([request.input_ids, torch.tensor(continuation)])
        with torch.no_grad():
            stock = model(input_ids=ids[None], pixel_values=request.pixel_values).logits[0].log_softmax(-1)
        assert one.per_token == pytest.approx(stock[range(8, 12), continuation].tolist(), abs=1e-9)
    assert abs(found[0].logprob - found[1].logprob) > 1e-6


def test_ar_probabilities_of_all_next_tokens_sum_to_one():
    model = model_of()
    text = [i for i in range(model.config.text_config.vocab_size) if i not in reserved(model)]
    found = score_continuations(model, [prompt(6)] * len(text), [[i] for i in text], batch_size=len(text))
    missing = model(input_ids=prompt(6).input_ids[None]).logits[0, -1].softmax(-1)[sorted(reserved(model))].sum()
    assert sum(np.exp(one.logprob) for one in found) == pytest.approx(1 - missing.item(), abs=1e-9)


def reserved(model) -> set[int]:
    config = model.config
    return {config.traits.mask_token_id, config.image_token_id, config.video_token_id}


@pytest.mark.parametrize("traits", CASES.values(), ids=CASES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_block_mode_estimates_the_bound_of_all_masks(traits, size):
    """Full blocks, short last ones, blocks that begin in the prompt and in a picture: mean and standard error."""
    model = model_of(**traits)
    requests = [prompt(5), prompt(4, 1), prompt(5, 2, 0, model), prompt(9, 3)]
    requests[3].answer_spans = [(2, 6)]
    continuations = [tokens(4, 0), tokens(6, 1), tokens(2, 2), tokens(3, 3)]
    found = score_continuations(model, requests, continuations, "block", samples=4000, block_size=size)
    for request, continuation, one in zip(requests, continuations, found):
        expected = bound(model, request, continuation, size)
        assert abs(one.logprob - expected) <= 4 * one.stderr + 1e-9
        assert one.stderr < 0.02 * abs(expected)
        assert one.logprob == pytest.approx(sum(one.per_token), abs=1e-9) and one.samples == 4000


@pytest.mark.parametrize("traits", CASES.values(), ids=CASES)
def test_a_block_of_one_token_is_exact(traits):
    """One sample is enough, and there is nothing for more of them to differ in."""
    model = model_of(**traits)
    request, continuation = prompt(5), tokens(3, 0)
    few, many = (
        score_continuations(model, [request], [continuation], "block", samples=n, block_size=1)[0] for n in (1, 9)
    )
    shift = model.config.traits.prediction_shift
    expected = [
        clean_logprob(model, request, continuation, p, 1) if shift
        else view_logprobs(model, request, continuation, p, 1, {p})[p]
        for p in range(5, 8)
    ]  # fmt: skip
    assert few.per_token == pytest.approx(expected, abs=1e-9)
    assert many.per_token == pytest.approx(expected, abs=1e-9)
    assert many.stderr == pytest.approx(0.0, abs=1e-12) and few.stderr is None


def test_under_shift_1_blocks_of_one_token_are_the_ar_mode():
    model = model_of(prediction_shift=1)
    requests, continuations = ragged(model)
    block = score_continuations(model, requests, continuations, "block", samples=1, block_size=1)
    for one, two in zip(block, score_continuations(model, requests, continuations)):
        assert one.per_token == pytest.approx(two.per_token, abs=1e-9)


def test_the_standard_error_says_how_far_off_estimates_are():
    """Over seeds, errors in units of the standard error: none beyond 4, and neither all tiny nor too large."""
    model, request, continuation = model_of(), prompt(6), tokens(8, 0)
    expected = bound(model, request, continuation, 4)
    found = [
        score_continuations(model, [request], [continuation], "block", samples=16, block_size=4, seed=seed)[0]
        for seed in range(60)
    ]
    z = np.array([(one.logprob - expected) / one.stderr for one in found])
    assert abs(z).max() <= 4
    assert 0.3 < np.sqrt((z**2).mean()) < 1.3
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert len({one.logprob for one in found}) > 50


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_sizes_of_sets_are_uniform_and_their_members_any(n):
    samples = 12000
    drawn = draw_masks(np.random.default_rng(0), samples, n)
    sizes = np.bincount(drawn.sum(1), minlength=n + 1)
    assert sizes[0] == 0 and (sizes[1:] == samples // n).all()  # stratified, and 12000 is a multiple of n
    for members, count in Counter(map(tuple, drawn.tolist())).items():
        mean = samples / n / comb(n, sum(members))
        assert abs(count - mean) < 5 * np.sqrt(mean)


@pytest.mark.parametrize("mode", ["ar", "block"])
@pytest.mark.parametrize("traits", CASES.values(), ids=CASES)
def test_batched_is_single_in_any_order(traits, mode):
    model = model_of(**traits)
    if mode == "ar" and not model.config.traits.ar_mode:
        pytest.skip("no AR mode")
    requests, continuations = ragged(model)

    def scores(order, batch_size):
        chosen = [requests[i] for i in order], [continuations[i] for i in order]
        return score_continuations(model, *chosen, mode, samples=6, batch_size=batch_size)

    single = [scores([i], 1)[0] for i in range(len(requests))]
    shuffled = [3, 7, 0, 6, 2, 5, 1, 4]
    for order, batch_size in ((range(8), 8), (shuffled, 3), (shuffled, 1)):
        for i, one in zip(order, scores(order, batch_size)):
            assert one.per_token == pytest.approx(single[i].per_token, abs=1e-9)
            assert one.stderr == pytest.approx(single[i].stderr, abs=1e-9) and one.tokens == single[i].tokens


def test_many_views_take_several_passes(monkeypatch):
    import vlm.generation.likelihood as likelihood

    model, arguments = model_of(), ([prompt(6), prompt(3, 1)], [tokens(8, 0), tokens(5, 1)], "block", 12)
    whole = score_continuations(model, *arguments)
    monkeypatch.setattr(likelihood, "ROWS", 9)
    monkeypatch.setattr(likelihood, "CHUNK", 700)  # logits of two rows at a time
    for one, two in zip(whole, score_continuations(model, *arguments)):
        assert one.per_token == pytest.approx(two.per_token, abs=1e-9)


@pytest.mark.parametrize("mode", ["ar", "block"])
def test_a_prompt_is_encoded_and_read_once(mode, monkeypatch):
    """Twelve continuations in batches of three, and an equal prompt beside them; pictures and passes are counted."""
    model = model_of()
    encoded, lengths = [], []
    encode, decode = model.encode_media, model.decode
    monkeypatch.setattr(model, "encode_media", lambda p, pool=1: encoded.append(len(p)) or encode(p, pool))
    monkeypatch.setattr(model, "decode", lambda *a, **k: lengths.append(int(a[2].lengths.max())) or decode(*a, **k))
    requests = [prompt(9, 2, 0, model)] * 7 + [prompt(9, 2, 1, model)] + [prompt(9, 2, 0, model)] * 5
    continuations = [tokens(3 + i % 4, i) for i in range(13)]
    score_continuations(model, requests, continuations, mode, samples=4, batch_size=3)
    assert encoded == [1, 1]
    assert lengths.count(0) == 2  # passes that began without a prefix


def test_continuations_of_one_prompt_are_masked_alike():
    """The same tokens behind the same prompt score the same; in another prompt they are masked otherwise."""
    model = model_of()
    one, two, other = score_continuations(
        model, [prompt(6), prompt(6), prompt(6, 1)], [tokens(8, 0)] * 3, "block", samples=5
    )
    assert one == two and one.logprob != other.logprob


def test_cuts_of_the_prompt_do_not_move_ar_scores():
    """log p(a b | c) = log p(a | c) + log p(b | c a)."""
    model, text = model_of(), tokens(12, 5)
    whole = score_continuations(model, [Request(torch.tensor(text[:3]))], [text[3:]])[0]
    parts = score_continuations(
        model, [Request(torch.tensor(text[:3])), Request(torch.tensor(text[:8]))], [text[3:8], text[8:]]
    )
    assert whole.logprob == pytest.approx(parts[0].logprob + parts[1].logprob, abs=1e-9)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"continuations": [[30], []]}, "continuation 1 is empty"),
        ({"continuations": [[30]]}, "2 requests but 1 continuations"),
        ({"continuations": [[30], [10**6]]}, "continuation 1 holds 1000000, which is not a token of text"),
        ({"continuations": [[30], [-1]]}, "continuation 1 holds -1"),
        ({"continuations": [[30], [30] * 506]}, "continuation 1 ends at position 513; the position limit is 512"),
        (
            {"requests": [Request(torch.tensor([30])), Request(torch.empty(0, dtype=torch.long))]},
            "the prompt of continuation 1 is empty",
        ),
        ({"mode": "speculative"}, "mode 'speculative' is not one of ar, block"),
        ({"mode": "block", "block_size": 5}, "block_size 5 was not trained"),
        ({"mode": "block", "continuations": [[30], [30] * 505]}, "ends at position 515"),
        ({"mode": "block", "samples": 0}, "samples 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    model = model_of()
    arguments = {"requests": [prompt(7), prompt(7, 1)], "continuations": [[30], [40]], **change}
    with pytest.raises(ValueError, match=message):
        score_continuations(model, **arguments)
    with pytest.raises(ValueError, match="continuation 0 holds"):
        score_continuations(model, [prompt(7)], [[model.config.traits.mask_token_id]])


def test_checkpoints_without_an_ar_mode_have_no_ar_scores():
    model = model_of(context_attention="block_causal")
    with pytest.raises(ValueError, match="mode 'ar' needs causal context.*'block_causal'"):
        score_continuations(model, [prompt(3)], [[30]])
