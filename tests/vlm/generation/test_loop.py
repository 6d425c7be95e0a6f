"""The decoder against a plain restatement without cache, against itself in batches, and by its invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import BACKBONES, greedy, tiny_model
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.generation.generate import answer
from vlm.generation.loop import Loop
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy
from vlm.layout import clean_blocks

POLICIES = [{"policy": "threshold", "threshold": 0.35}, {"policy": "threshold", "threshold": 1.0},
            {"policy": "static", "denoising_steps": 3}, {"policy": "static", "denoising_steps": 1}]  # fmt: skip
CHECKPOINTS = [
    {},
    {"prediction_shift": 1},
    {"context_attention": "block_causal"},
    {"context_attention": "block_causal", "block_origin": "sequence"},
    {"block_origin": "sequence", "prediction_shift": 0},
]


def prompts(model, n: int = 4, seed: int = 0) -> list[Request]:
    """Ragged prompts; every other one shows a picture."""
    generator = torch.Generator().manual_seed(seed)
    requests = []
    for k in range(n):
        ids = torch.randint(20, 250, (5 + 3 * k,), generator=generator)
        picture = None
        if k % 2:
            ids[-5:-1] = model.config.image_token_id  # late: on the sequence grid the first block may begin inside it
            picture = torch.randn(1, 3, 32, 32, generator=generator, dtype=torch.float64)
        requests.append(Request(ids, picture, seed=k))
    return requests


def plain_decode(model, request: Request, threshold: float, max_new: int, end: int | None) -> tuple[list[int], int]:
    """Block decoding as published, without a cache: everything is recomputed at every step (greedy, shift 0)."""
    traits = model.config.traits
    size, tokens, prompt = traits.block_size, request.input_ids.tolist(), len(request.input_ids)
    suppressed = [traits.mask_token_id, *(model.generation_config.suppress_tokens or [])]
    steps = 0
    while True:
        start = len(tokens) // size * size if traits.block_origin == "sequence" else len(tokens)
        canvas = tokens[start:] + [traits.mask_token_id] * (size - len(tokens) + start)
        tokens = tokens[:start]
        while traits.mask_token_id in canvas:
            ids = torch.tensor([tokens + canvas])
            borders = clean_blocks(start, [(prompt, start)] if prompt < start else [], size, traits.block_origin)
            rows = Rows(
                torch.arange(start + size)[None],
                torch.zeros(1, start + size, dtype=torch.long),
                torch.tensor([[0] * start + [1] * size]),
                torch.tensor([borders[:, 0].tolist() + [start] * size]),
                torch.tensor([borders[:, 1].tolist() + [start + size] * size]),
            )
            embeds = model.embed(ids, request.pixel_values)
            logits = model.head(model.decode(embeds, rows))[0, start:]
            logits[:, suppressed] = -torch.inf
            confidence, best = logits.softmax(-1).max(-1)
            masked = [i for i, token in enumerate(canvas) if token == traits.mask_token_id]
            top = max(masked, key=lambda i: confidence[i])
            for i in masked:
                if confidence[i] >= threshold or i == top:
                    canvas[i] = int(best[i])
            steps += 1
            known = canvas.index(traits.mask_token_id) if traits.mask_token_id in canvas else size
            fresh = (tokens + canvas[:known])[prompt:]
            if end in fresh[:max_new]:
                return fresh[: fresh.index(end) + 1], steps
            if len(fresh) >= max_new:
                return fresh[:max_new], steps
        tokens = tokens + canvas


@torch.no_grad()
@pytest.mark.parametrize("traits", [t for t in CHECKPOINTS if not t.get("prediction_shift")])
@pytest.mark.parametrize("threshold", [0.35, 1.0])
def test_cached_fused_decoding_equals_the_plain_restatement(traits, threshold):
    model, _ = sharp_model(**traits)
    for request in prompts(model):
        end = plain_decode(model, request, threshold, 14, None)[0][9]  # a token this model does say
        config = greedy(threshold=threshold, max_new_tokens=14, eos_token_id=end,
                        suppress_tokens=model.generation_config.suppress_tokens)  # fmt: skip
        expected, steps = plain_decode(model, request, threshold, 14, end)
        state = answer(model, [request], config)[0]
        assert state.generated == expected
        assert state.forwards == steps  # closing is fused with the next block's first step


@pytest.mark.parametrize("backbone", BACKBONES)
def test_ar_mode_is_the_stock_models_greedy_generate(backbone):
    model, _ = sharp_model(backbone=backbone)
    suppressed = model.generation_config.suppress_tokens
    for request in prompts(model, 4):
        request.pixel_values = None
        ids = request.input_ids.clamp(min=20)
        request.input_ids = ids
        stock = model.language_model.generate(
            input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], max_new_tokens=12, do_sample=False,
            suppress_tokens=suppressed, eos_token_id=None, pad_token_id=0,
        )[0, len(ids) :]  # fmt: skip
        state = answer(model, [request], greedy(mode="ar", max_new_tokens=12, suppress_tokens=suppressed))[0]
        assert state.generated == stock.tolist()
        assert state.forwards == 12


@pytest.mark.parametrize("traits", CHECKPOINTS)
@pytest.mark.parametrize("settings_", [*POLICIES, {"mode": "ar"}, {"temperature": 1.0, "top_k": 20, "top_p": 0.9}])
def test_a_batch_equals_its_single_runs(traits, settings_):
    model, _ = sharp_model(**traits)
    if settings_.get("mode") == "ar" and not model.config.traits.ar_mode:
        pytest.skip("no AR mode under block-causal context")
    config = greedy(max_new_tokens=13, eos_token_id=40, **settings_)
    together = answer(model, prompts(model), config)
    for request, state in zip(prompts(model), together):
        alone = answer(model, [request], config)[0]
        assert state.tokens == alone.tokens
        assert (state.forwards, state.finish_reason) == (alone.forwards, alone.finish_reason)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(CHECKPOINTS),
    st.sampled_from(POLICIES),
    st.integers(1, 19),
    st.integers(0, 300),
    st.integers(0, 99),
)
def test_prompt_stays_masks_never_leave_and_every_step_commits(traits, settings_, max_new, end, seed):
    model, _ = sharp_model(seed=seed % 3, **traits)
    requests = prompts(model, 3, seed)
    mask, seen = model.config.traits.mask_token_id, {}

    def on_step(states):
        for state in states:
            open_slots = state.canvas.count(mask) if state.canvas else 0
            before = seen.get(id(state), (None, None))
            assert state.canvas is None or before != (state.block_start, open_slots)
            seen[id(state)] = (state.block_start, open_slots)

    config = greedy(max_new_tokens=max_new, eos_token_id=end, **settings_)
    for request, state in zip(requests, answer(model, requests, config, on_step=on_step)):
        length = len(request.input_ids)
        assert state.tokens[:length] == request.input_ids.tolist()
        assert mask not in state.generated
        assert 1 <= len(state.generated) <= max_new
        assert (end in state.generated) == (state.finish_reason == "stop")
        assert end not in state.generated[:-1]


@pytest.mark.parametrize("traits", CHECKPOINTS)
def test_every_final_token_is_cached_by_the_clean_stream(traits):
    """A cache handed in ends up with the KV that one clean pass over prompt and answer would give."""
    model, _ = sharp_model(**traits)
    requests = prompts(model, 3)
    cache = BlockCache(model.config.text_config, 3)
    states = Loop(model, requests, build_strategy(model, greedy(max_new_tokens=16, threshold=0.35)), cache).run()
    assert cache.lengths.tolist() == [len(state.tokens) for state in states]
    for row, (request, state) in enumerate(zip(requests, states)):
        length, prompt = len(state.tokens), len(request.input_ids)
        size, origin = model.config.traits.block_size, model.config.traits.block_origin
        borders = torch.tensor(clean_blocks(length, [(prompt, length)], size, origin))
        zeros = torch.zeros(1, length, dtype=torch.long)
        rows = Rows(torch.arange(length)[None], zeros, zeros, borders[None, :, 0], borders[None, :, 1])
        fresh = BlockCache(model.config.text_config, 1)
        with torch.no_grad():
            model.decode(model.embed(torch.tensor([state.tokens]), request.pixel_values), rows, fresh)
        for kept, expected in zip(cache.layers, fresh.layers):
            assert torch.allclose(kept.keys[row, :, :length], expected.keys[0, :, :length], atol=1e-9)
            assert torch.allclose(kept.values[row, :, :length], expected.values[0, :, :length], atol=1e-9)


def test_a_conversation_through_the_cache_equals_the_whole_prompt():
    model, _ = sharp_model()
    first, second = torch.randint(20, 250, (1, 9)), torch.randint(20, 250, (1, 5))
    cache = BlockCache(model.config.text_config, 1)
    settings_ = {"max_new_tokens": 7, "threshold": 0.35}
    turn = model.generate(first, past_key_values=cache, **settings_)
    follow = model.generate(second, past_key_values=turn.past_key_values, **settings_)
    whole = model.generate(torch.cat([turn.sequences, second], 1), **settings_)
    assert follow.sequences[0, 5:].tolist() == whole.sequences[0, turn.sequences.shape[1] + 5 :].tolist()


def test_one_prefix_cache_serves_image_video_and_text_in_one_batch():
    """One closed prefix, continued by an image, a video and a text request at once, equals three runs from scratch."""
    model, _ = sharp_model()
    prefix = torch.randint(20, 250, (7,))
    image, video = model.config.image_token_id, model.config.video_token_id
    tails = [torch.tensor([30, *[image] * 4, 31]), torch.tensor([32, video, video, 33, 34]), torch.tensor([35, 36])]
    generator = torch.Generator().manual_seed(0)
    images, frames = (torch.randn(n, 3, 32, 32, generator=generator, dtype=torch.float64) for n in (1, 2))
    media = [(images, None), (None, frames), (None, None)]
    cache = BlockCache(model.config.text_config, 1)
    ids = torch.arange(7)
    zeros = torch.zeros_like(ids)
    rows = Rows(*(t[None] for t in (ids, zeros, zeros, zeros, zeros)))
    with torch.no_grad():
        model.decode(model.embed(prefix[None]), rows, cache)
    cache.commit(torch.tensor([7]))
    cache.select(torch.tensor([0, 0, 0]))
    strategy = build_strategy(model, greedy(max_new_tokens=10, threshold=0.35))
    shared = Loop(model, [Request(t, *m) for t, m in zip(tails, media)], strategy, cache).run()
    for tail, pictures, state in zip(tails, media, shared):
        alone = answer(
            model, [Request(torch.cat([prefix, tail]), *pictures)], greedy(max_new_tokens=10, threshold=0.35)
        )
        assert state.generated == alone[0].generated


def test_the_same_seed_gives_the_same_sample():
    model, _ = tiny_model()
    ids = torch.randint(20, 250, (1, 6))
    draw = lambda seed: model.generate(ids, temperature=1.0, seed=seed, max_new_tokens=12).sequences.tolist()  # noqa: E731
    assert draw(3) == draw(3) != draw(4)


@pytest.mark.parametrize(
    "settings_, message",
    [
        ({"block_size": 5}, "block_size 5 was not trained; this checkpoint allows 1, 4, 8"),
        ({"threshold": 0.0}, r"threshold 0.0 must lie in \(0, 1\]"),
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 must be at least 1"),
        ({"policy": "magic"}, "policy 'magic' is not one of sequential, static, threshold"),
        ({"mode": "telepathy"}, "mode 'telepathy'"),
        ({"denoising_steps": 0}, "denoising_steps 0"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"nonsense": 1}, "unknown generation setting 'nonsense'"),
    ],
)
def test_illegal_settings_are_refused_with_their_value(settings_, message):
    model, _ = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.generate(torch.randint(20, 250, (1, 6)), **settings_)


def test_illegal_combinations_name_the_trait():
    model, _ = tiny_model(context_attention="block_causal")
    ids = torch.randint(20, 250, (1, 6))
    with pytest.raises(ValueError, match="mode 'ar' needs causal context.*block_causal"):
        model.generate(ids, mode="ar")
    full, _ = tiny_model(context_attention="full")
    with pytest.raises(ValueError, match="mode 'ar' needs causal context.*full"):
        full.generate(ids, mode="ar")
    with pytest.raises(ValueError, match="cannot be continued under context_attention 'full'"):
        full.generate(ids, past_key_values=BlockCache(full.config.text_config, 1))
    shifted, _ = tiny_model(context_attention="full", prediction_shift=1)
    with pytest.raises(ValueError, match="'full' with prediction_shift 1 is not supported"):
        shifted.generate(ids)


def test_prompts_that_cannot_be_continued_are_refused():
    model, _ = tiny_model()
    with pytest.raises(ValueError, match="prompt is empty"):
        model.generate(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="510 tokens; the position limit is 512"):
        model.generate(torch.full((1, 510), 30))


class Recorder:
    def __init__(self):
        self.put_calls, self.drafts, self.ended = [], [], False

    def put(self, value):
        self.put_calls.append(value.flatten().tolist())

    def put_draft(self, value):
        self.drafts.append(value.flatten().tolist())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("mode", ["block", "ar"])
def test_a_streamer_gets_the_prompt_then_closed_blocks(mode):
    model, _ = tiny_model(scale=3.0)
    ids, recorder = torch.randint(20, 250, (1, 6)), Recorder()
    out = model.generate(ids, streamer=recorder, max_new_tokens=11, mode=mode)
    assert recorder.put_calls[0] == ids[0].tolist() and recorder.ended
    assert sum(recorder.put_calls[1:], []) == out.sequences[0, 6:].tolist()
    assert bool(recorder.drafts) == (mode == "block")
    assert out.tokens_per_forward[0] == pytest.approx(11 / out.states[0].forwards)
