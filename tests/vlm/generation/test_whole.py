"""Full attention: the engine against restatements that know nothing of it, and kept KV that is never kept."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from tests.vlm.generation.sharp import prompts, sharp_model
from vlm.answering import settings as settings_of
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.layout import build_layout

MODELS = {
    "response": sharp_model(context_attention="full")[0],
    "sequence": sharp_model(context_attention="full", block_origin="sequence")[0],
}
KINDS = ("prefix_kv", "dual_kv", "dkv")
SIZE, NEW, TAU = 4, 11, 0.55


def config_of(model, **slots):
    given = {"policy": "threshold", "threshold": TAU, "max_new_tokens": NEW, "block_size": SIZE}
    config = settings_of(model, **given, **({"slots": slots} if slots else {}))
    config.eos_token_id = None
    return config


def alike(positions: list[int]) -> Rows:
    zeros = torch.zeros(1, len(positions), dtype=torch.long)
    return Rows(torch.tensor([positions]), zeros, zeros, zeros, zeros)


@torch.no_grad()
def restated(model, request: Request, outside: str | None = None) -> tuple[list[int], int, list[list[int]]]:
    """LLaDA's decoding by blocks (greedy): answer, passes, and the positions each pass was fed.

    ``outside`` names what of a block's first pass later ones take from it, as Fast-dLLM does: "prefix" or "dual".
    """
    traits, length, mask = model.config.traits, len(request.input_ids), model.config.traits.mask_token_id
    first = length // SIZE * SIZE if traits.block_origin == "sequence" else length
    end = first + -(-(length + NEW - first) // SIZE) * SIZE
    given = request.canvas or []
    tokens = request.input_ids.tolist() + given + [mask] * (end - length - len(given))
    suppressed, fed = [mask, *model.generation_config.suppress_tokens], []
    for start in range(first, end, SIZE):
        block, cache = range(start, start + SIZE), None
        while mask in tokens[: length + NEW] and any(tokens[i] == mask for i in block):
            embeds = model.embed(torch.tensor([tokens]), request.pixel_values)
            positions = list(range(end))
            if outside is not None:
                kept = [i for i in positions if i < start or (outside == "dual" and i not in block)]
                fresh = [i for i in positions if i not in kept]
                positions = fresh if cache is not None else kept + fresh
            first_pass, cache = cache is None, cache or BlockCache(model.config.text_config, 1)
            use = None if outside is None else cache
            hidden = model.decode(embeds[:, positions], alike(positions), use)[0]
            if outside is not None and first_pass:
                cache.commit(torch.tensor([len(kept)]))
            fed.append(positions)
            slots = [i for i in block if tokens[i] == mask]
            logits = model.head(hidden[[positions.index(i) for i in slots]])
            logits[:, suppressed] = -torch.inf
            sure, best = logits.softmax(-1).max(-1)
            for k, i in enumerate(slots):
                if sure[k] >= TAU or k == int(sure.argmax()):
                    tokens[i] = int(best[k])
    return tokens[length : length + NEW], len(fed), fed


def fed_by(model, config, requests, monkeypatch):
    """Final states, and the positions of the rows fed in every pass."""
    fed, inner = [], type(model).decode

    def tracing(self, embeds, rows, *rest):
        fed.append([row[seen >= 0].tolist() for row, seen in zip(rows.position, rows.segment)])
        return inner(self, embeds, rows, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(type(model), "decode", tracing)
        return answer(model, requests, config), fed


@pytest.mark.parametrize("origin", MODELS)
@pytest.mark.parametrize("tail", [[], [30, 31]], ids=str)
def test_training_rows_all_hidden_are_what_decoding_feeds_first(origin, tail, monkeypatch):
    """With as many tokens to write as the answer and its fill have; what a template puts behind is not seen."""
    model, (request,) = MODELS[origin], prompts(MODELS[origin], 1)
    traits, length, end = model.config.traits, len(request.input_ids), 2
    ids = np.array([*request.input_ids.tolist(), 40, 41, 42, 43, 44, end, *tail])
    is_answer = (np.arange(len(ids)) >= length) & (np.arange(len(ids)) < length + 6)
    layout = build_layout(ids, is_answer, block_size=SIZE, traits=traits, end_token_id=end)
    hidden = torch.tensor(np.where(layout.maskable, traits.mask_token_id, layout.ids))[None]
    rows = Rows(*(torch.tensor(getattr(layout, f.name))[None] for f in fields(Rows)[:-1]))
    logits = model(hidden, rows=rows, source=torch.tensor(layout.source)[None]).logits[0]
    found, inner = [], type(model).decode

    def tracing(self, embeds, rows, *rest):
        out = inner(self, embeds, rows, *rest)
        found.append((rows.position[0].tolist(), out[0]))
        return out

    with monkeypatch.context() as patched:
        patched.setattr(type(model), "decode", tracing)
        config = config_of(model)
        config.max_new_tokens = 6
        answer(model, [request], config)
    positions, states = found[0]
    at = {int(p): row for row, p in enumerate(layout.position) if layout.segment[row] == 0}
    assert sorted(positions) == sorted(at) == list(range(len(at)))
    mine = logits[[at[p] for p in positions]]
    assert torch.allclose(model.head(states), mine, atol=1e-9)


@pytest.mark.parametrize("origin", MODELS)
@pytest.mark.parametrize("slots", [{}, *({kind: {"refresh": 1}} for kind in KINDS)], ids=str)
def test_what_keeps_nothing_is_decoding_without_a_cache(origin, slots):
    model = MODELS[origin]
    exact = answer(model, prompts(model), config_of(model))
    for request, plain, state in zip(prompts(model), exact, answer(model, prompts(model), config_of(model, **slots))):
        generated, passes, _ = restated(model, request)
        assert (state.generated, state.forwards) == (generated, passes)
        assert max(abs(a - b) for a, b in zip(state.logprobs, plain.logprobs)) <= 1e-9
        assert (state.kept, state.prompt_embeds, state.cached) == ({}, None, 0)


@pytest.mark.parametrize("origin", MODELS)
@pytest.mark.parametrize("kind, outside", [("prefix_kv", "prefix"), ("dual_kv", "dual")])
def test_prefix_and_dual_caches_are_the_published_loops(origin, kind, outside, monkeypatch):
    model = MODELS[origin]
    together = answer(model, prompts(model), config_of(model, **{kind: {}}))
    for request, state in zip(prompts(model), together):
        generated, passes, expected = restated(model, request, outside)
        (alone,), fed = fed_by(model, config_of(model, **{kind: {}}), [request], monkeypatch)
        assert state.generated == alone.generated == generated
        assert state.forwards == alone.forwards == passes == len(fed) > 4
        assert [sorted(positions) for (positions,) in fed] == [sorted(positions) for positions in expected]


@pytest.mark.parametrize("refresh", [3, None])
def test_a_token_is_fed_once_more_after_it_was_written(refresh, monkeypatch):
    """dKV-Cache's rule, restated over the positions fed: in between, all but tokens that stood a pass ago."""
    model = MODELS["response"]
    (request,) = prompts(model, 1)
    config = settings_of(model, policy="static", max_new_tokens=16, block_size=8, slots={"dkv": {"refresh": refresh}})
    config.eos_token_id = None
    (state,), fed = fed_by(model, config, [request], monkeypatch)
    assert len(fed) == state.forwards == 16
    whole = set(range(len(request.input_ids) + 16))
    for number, (positions,) in enumerate(fed):
        step = number % 8
        assert len(positions) == len(set(positions))
        if step < 2 or (refresh is not None and step % refresh == 0):
            assert set(positions) == whole
        else:
            assert len(positions) == 16 - number + 1, "the masks, and the token of the last pass"
            assert set(positions) < set(fed[number - 1][0])


def test_kept_kv_is_approximate_and_later_blocks_of_a_given_canvas_are_seen():
    model = MODELS["response"]
    exact, kept = (answer(model, prompts(model), config_of(model, **s)) for s in ({}, {"dual_kv": {}}))
    assert any(abs(a - b) > 1e-6 for x, y in zip(exact, kept) for a, b in zip(x.logprobs, y.logprobs))
    mask, (request,) = model.config.traits.mask_token_id, prompts(model, 1)
    request.canvas = [mask] * 6 + [77, 78] + [mask] * 3
    (state,) = answer(model, [request], config_of(model))
    generated, passes, _ = restated(model, request)
    assert (state.generated, state.forwards) == (generated, passes) and state.generated[6:8] == [77, 78]
    full = Request(request.input_ids, canvas=[77] * 4)  # has nothing to decide, and no row in any pass
    beside = answer(model, [full, request], config_of(model))
    assert [s.forwards for s in beside] == [0, passes] and beside[1].generated == generated
    request.canvas = None
    blind = answer(model, [request], config_of(model))[0]
    assert abs(blind.logprobs[0] - state.logprobs[0]) > 1e-6, "the first block did not see what is given behind it"
