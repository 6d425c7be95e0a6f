"""FlashBlock: exact where it always works everything out, and where it does not, it reads no key before the block."""

import pytest
import torch

import vlm.flash
from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import BACKBONES, tiny_model
from vlm.answering import settings as settings_of
from vlm.generation.generate import answer
from vlm.generation.loop import Loop
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy

CHECKPOINTS = {
    "causal": {"off_grid_ok": True},
    "shift 1": {"prediction_shift": 1},
    "block-causal": {"context_attention": "block_causal"},
    "sequence": {"context_attention": "block_causal", "block_origin": "sequence"},
}
MODELS = {name: sharp_model(**traits)[0] for name, traits in CHECKPOINTS.items()}
NEVER = float("inf")


def config_of(model, tau=None, **more):
    slots = {} if tau is None else {"slots": {"flashblock": {"tau": tau}}}
    return settings_of(model, **{"max_new_tokens": 13, "policy": "doubling", "block_size": 8, **slots, **more})


def prompts(count: int = 3) -> list[Request]:
    generator = torch.Generator().manual_seed(4)
    return [Request(torch.randint(20, 250, (3 + 6 * k,), generator=generator), seed=k) for k in range(count)]


def traced(model, config, requests, monkeypatch, before_pass=None):
    """Final states, and of every pass: the rows' segments, their hidden states, and the canvases it was fed."""
    passes, inner = [], type(model).decode
    loop = Loop(model, requests, build_strategy(model, config))

    def tracing(self, embeds, rows, *rest):
        canvases = [list(state.canvas or []) for state in loop.batch]
        if before_pass is not None:
            before_pass(loop)
        hidden = inner(self, embeds, rows, *rest)
        passes.append((rows.segment, hidden, canvases, [s.block_start for s in loop.batch]))
        return hidden

    with monkeypatch.context() as patched:
        patched.setattr(type(model), "decode", tracing)
        return loop.run(), passes


@pytest.mark.parametrize("name", [*CHECKPOINTS, *BACKBONES])
def test_working_everything_out_every_pass_is_the_usual_attention(name, monkeypatch):
    model = MODELS[name] if name in CHECKPOINTS else tiny_model(name, scale=3.0)[0]
    usual, passes = traced(model, config_of(model), prompts(), monkeypatch)
    states, split = traced(model, config_of(model, 1), prompts(), monkeypatch)
    assert [(s.tokens, s.forwards) for s in states] == [(s.tokens, s.forwards) for s in usual]
    assert len(split) == len(passes) > 3
    for (segment, hidden, *_), (_, expected, *_) in zip(split, passes):
        held = segment >= 0
        assert (hidden - expected)[held].abs().max() <= 1e-9
    assert model.language_model.config._attn_implementation == "sdpa", "put back"


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("tau", [1, 2, 3, NEVER])
def test_the_part_before_the_block_is_worked_out_when_the_rule_says_so(name, tau, monkeypatch):
    """The rule, restated over the canvases fed: a new block, or as many slots changed as the threshold."""
    model, works, inner = MODELS[name], [], vlm.flash.partial_attention

    def counting(query, key, *rest):
        works[-1] += 1
        return inner(query, key, *rest)

    monkeypatch.setattr(vlm.flash, "partial_attention", counting)
    _, passes = traced(model, config_of(model, tau), prompts(1), monkeypatch, lambda _: works.append(0))
    kept, expected = None, []
    for segment, _, (canvas,), (start,) in passes:
        rows = int((segment >= 0).sum())
        if not canvas or (model.config.traits.prediction_shift and canvas[0] == model.config.traits.mask_token_id):
            expected.append(0)  # read from a clean row: the block is not fed
            continue
        assert rows >= len(canvas)
        changed = NEVER if kept is None or kept[0] != start else sum(a != b for a, b in zip(kept[1], canvas))
        expected.append(2 if kept is None or kept[0] != start or changed >= tau else 1)
        kept = (start, canvas)
    layers = model.config.text_config.num_hidden_layers
    assert works == [layers * count for count in expected]
    assert expected.count(1) == {1: 0, NEVER: sum(map(bool, expected)) - 2}.get(tau, expected.count(1))
    assert 1 in expected or tau <= 2


@pytest.mark.parametrize("tau, survives", [(NEVER, True), (1, False)])
def test_a_pass_that_reuses_reads_no_key_before_its_block(tau, survives, monkeypatch):
    model = MODELS["causal"]
    config = config_of(model, tau, max_new_tokens=8)
    (clean,), _ = traced(model, config, prompts(1), monkeypatch)

    def poison(loop):
        for layer in loop.cache.layers:
            if layer.is_initialized:
                length = int(loop.cache.lengths[0])
                layer.keys[0, :, :length] = torch.nan
                layer.values[0, :, :length] = torch.nan

    if not survives:
        with pytest.raises(ValueError, match="the model computes NaN"):
            traced(model, config, prompts(1), monkeypatch, poison)
        return
    (state,), passes = traced(model, config, prompts(1), monkeypatch, poison)
    assert all(bool(hidden.isfinite().all()) for _, hidden, *_ in passes)
    assert state.tokens == clean.tokens


def test_reuse_is_approximate_and_says_something_else_in_the_end(monkeypatch):
    model = MODELS["causal"]
    _, exact = traced(model, config_of(model, max_new_tokens=8), prompts(1), monkeypatch)
    _, kept = traced(model, config_of(model, NEVER, max_new_tokens=8), prompts(1), monkeypatch)
    error = [(a[1] - b[1]).abs().max() for a, b in zip(exact, kept)]
    assert error[0] <= 1e-9, "a block's first pass is exact"
    assert error[1] > 1e-6


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_batch_of_all_kinds_equals_its_single_runs(name):
    model = MODELS[name]
    kinds = [{"tau": 2}, {}, {"tau": NEVER, "policy": "static", "denoising_steps": 3}, {"tau": 3}]
    kinds += [{"mode": "ar"}] if model.config.traits.ar_mode else []

    def requests():
        made = prompts(len(kinds))
        for request, kind in zip(made, kinds):
            config = config_of(model, **kind) if "mode" not in kind else settings_of(model, max_new_tokens=13, **kind)
            request.strategy = build_strategy(model, config)
        return made

    together = answer(model, requests(), config_of(model))
    for request, state in zip(requests(), together):
        (alone,) = answer(model, [request], config_of(model))
        assert (state.tokens, state.forwards) == (alone.tokens, alone.forwards)
        assert state.external is None, "nothing is kept of a closed block"


def test_behind_a_cache_that_was_handed_in_it_is_the_same(monkeypatch):
    from vlm.cache import BlockCache

    model = MODELS["causal"]
    config = config_of(model, NEVER)
    found = []
    for split in (0, 5):
        cache = BlockCache(model.config.text_config, 1)
        ids = prompts(2)[1].input_ids
        if split:
            first = settings_of(model, mode="ar", max_new_tokens=1)
            answer(model, [Request(ids[:split])], first, cache)
            cache.crop(torch.tensor([split]))
        found.append(answer(model, [Request(ids[split:])], config, cache)[0])
    assert found[0].generated == found[1].generated


ILLEGAL = [
    ({"slots": {"flashblock": {"tau": 0.5}}}, "tau 0.5 must be at least 1"),
    ({"slots": {"flashblock": {"tau": "two"}}}, "tau two must be a number"),
    ({"slots": {"flashblock": {"size": 2}}}, "'flashblock' cannot be built from.*size"),
    ({"slots": {"flashblock": {}}, "mode": "ar"}, "'flashblock' works on open blocks, which mode 'ar' does not"),
]


@pytest.mark.parametrize("given, message", ILLEGAL)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        settings_of(MODELS["causal"], **given)


def test_another_attention_is_refused():
    model, _ = tiny_model()
    model.language_model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="flashblock needs attn_implementation 'sdpa'; this model has 'eager'"):
        settings_of(model, decoder="flashblock")
