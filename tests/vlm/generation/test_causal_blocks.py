"""Causal block attention (WeDLM): decoding against its published rule, text and pictures, blocks and windows."""

from functools import cache

import pytest
import torch

from tests.vlm.generation.reordered import entropies, published, surest
from tests.vlm.generation.sharp import prompts, sharp_model
from tests.vlm.tiny import greedy
from vlm.cache import BlockCache
from vlm.generation.generate import answer
from vlm.generation.loop import Loop
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy

NEW = 14
CAUSAL = {"block_attention": "causal", "off_grid_ok": True, "trained_block_sizes": tuple(range(1, 9))}
CHOICES = {
    "one a pass": ({"policy": "static"}, surest(2.0)),
    "threshold": ({"policy": "threshold", "threshold": 0.35}, surest(0.35)),
    "entropy": ({"policy": "wedlm", "policy_args": {"tau": 1.6, "penalty": 0.1}}, entropies(1.6, 0.1)),
}
SPANS = {"blocks": {}, "stream": {"slots": {"streaming": {}}}}


@cache
def model_of(**traits):
    return sharp_model(**{**CAUSAL, **traits})[0]


def config_of(model, choice: str, spans: str, size: int, **more):
    settings = {"max_new_tokens": NEW, "suppress_tokens": model.generation_config.suppress_tokens, "block_size": size}
    return greedy(**{**settings, **CHOICES[choice][0], **SPANS[spans], **more})


@torch.no_grad()
def expected_of(model, request: Request, choice: str, spans: str, size: int, end: int | None = None):
    mask, banned = model.config.traits.mask_token_id, model.generation_config.suppress_tokens
    embeds = model.embed(request.input_ids[None], request.pixel_values)[0]
    rule = (size, NEW, CHOICES[choice][1], spans == "stream", end, embeds)
    return published(model.language_model, request.input_ids.tolist(), mask, banned, *rule)


@pytest.mark.parametrize("spans", SPANS)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("size", [1, 4, 7])
def test_tokens_and_passes_are_those_of_the_published_rule(choice, spans, size):
    """Alone and in a batch, of text and pictures: from a cache what its rule gives anew in every pass, without one."""
    model = model_of()
    expected = [expected_of(model, request, choice, spans, size) for request in prompts(model)]
    together = answer(model, prompts(model), config_of(model, choice, spans, size))
    for request, state, wanted in zip(prompts(model), together, expected):
        (alone,) = answer(model, [request], config_of(model, choice, spans, size))
        assert (state.generated, state.forwards) == (alone.generated, alone.forwards) == wanted
    if size > 1 and choice != "one a pass":
        assert min(passes for _, passes in expected) < NEW, "several tokens a pass"


@pytest.mark.parametrize("spans", SPANS)
def test_an_answer_ends_where_the_rule_ends_it(spans):
    model = model_of()
    for request in prompts(model):
        end = expected_of(model, request, "entropy", spans, 4)[0][6]
        wanted = expected_of(model, request, "entropy", spans, 4, end)
        (state,) = answer(model, [request], config_of(model, "entropy", spans, 4, eos_token_id=end))
        assert (state.generated, state.forwards) == wanted and state.finish_reason == "stop"


def test_it_is_not_what_blocks_that_see_both_ways_give():
    """The same weights: the order among the rows matters, and the trait is what asks for it."""
    causal, both_ways = model_of(), model_of(block_attention="bidirectional")
    same = [
        one.generated == other.generated
        for one, other in zip(
            *(answer(m, prompts(m), config_of(m, "threshold", "blocks", 4)) for m in (causal, both_ways))
        )
    ]
    assert not all(same)
    alike = [answer(m, prompts(m), config_of(m, "threshold", "blocks", 1)) for m in (causal, both_ways)]
    assert [state.tokens for state in alike[0]] == [state.tokens for state in alike[1]]


def test_the_front_of_a_window_is_cached_by_the_pass_behind_the_one_that_filled_it():
    """Its KV is then permanent, and that of a plain causal pass over the text."""
    model, written = model_of(), {}
    requests = prompts(model)

    def on_step(states):
        for state in states:
            assert state.cached == written.get(id(state), len(state.request.input_ids))
            written[id(state)] = len(state.tokens)

    held = BlockCache(model.config.text_config, len(requests))
    strategy = build_strategy(model, config_of(model, "entropy", "stream", 5))
    states = Loop(model, requests, strategy, held, on_step).run()
    assert any(state.forwards < NEW for state in states)
    for row, (request, state) in enumerate(zip(requests, states)):
        with torch.no_grad():
            embeds = model.embed(torch.tensor([state.tokens]), request.pixel_values)
            plain = model.language_model(inputs_embeds=embeds, use_cache=True).past_key_values
        for kept, layer in zip(held.layers, plain.layers):
            assert torch.allclose(kept.keys[row, :, : len(state.tokens)], layer.keys[0], atol=1e-9)
            assert torch.allclose(kept.values[row, :, : len(state.tokens)], layer.values[0], atol=1e-9)


@pytest.mark.parametrize("spans", SPANS)
def test_a_conversation_through_the_cache_equals_the_whole_prompt(spans):
    model = model_of()
    first, second = torch.randint(20, 250, (1, 9)), torch.randint(20, 250, (1, 5))
    config, held = config_of(model, "threshold", spans, 4), BlockCache(model.config.text_config, 1)
    (turn,) = Loop(model, [Request(first[0])], build_strategy(model, config), held).run()
    (follow,) = Loop(model, [Request(second[0])], build_strategy(model, config), held).run()
    (whole,) = answer(model, [Request(torch.cat([torch.tensor(turn.tokens), second[0]]))], config)
    assert follow.generated == whole.generated


def test_speculation_is_the_ar_mode_and_attention_in_two_parts_is_attention():
    model = model_of()
    drafted, plain = (answer(model, prompts(model), greedy(max_new_tokens=NEW, mode=m)) for m in ("speculative", "ar"))
    assert [state.tokens for state in drafted] == [state.tokens for state in plain]
    config = config_of(model, "threshold", "blocks", 8)
    parts = config_of(model, "threshold", "blocks", 8, slots={"flashblock": {"tau": 1}})
    usual, split = (answer(model, prompts(model), told) for told in (config, parts))
    assert [(s.tokens, s.forwards) for s in split] == [(s.tokens, s.forwards) for s in usual]


def test_windows_need_blocks_that_begin_anywhere():
    with pytest.raises(ValueError, match="streaming needs causal context, shift 0 and blocks off the grid; .*=False"):
        build_strategy(model_of(off_grid_ok=False), config_of(model_of(), "entropy", "stream", 4))
