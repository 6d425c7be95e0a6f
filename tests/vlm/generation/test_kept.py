"""KV kept for a few passes: against a restatement of each rule, and of what a pass then sees; exact where nothing is.

The oracle knows no slots, no order and no refresh: it feeds the same rows, and lets every row see the newest KV of
every row that was ever fed.
"""

import pytest
import torch

from tests.vlm.generation.sharp import prompts, sharp_model
from vlm.answering import settings as settings_of
from vlm.cache import BlockCache
from vlm.generation.generate import answer
from vlm.generation.loop import Loop
from vlm.generation.prefix import PrefixStore
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy

CHECKPOINTS = {
    "full": {"context_attention": "full"},
    "full, sequence": {"context_attention": "full", "block_origin": "sequence"},
    "causal": {"off_grid_ok": True},
    "shift 1": {"prediction_shift": 1},
    "block-causal": {"context_attention": "block_causal"},
    "sequence": {"context_attention": "block_causal", "block_origin": "sequence"},
}
MODELS = {name: sharp_model(**traits)[0] for name, traits in CHECKPOINTS.items()}
FULL = [name for name in CHECKPOINTS if name.startswith("full")]
EXACT = [name for name in CHECKPOINTS if name not in FULL]
RULED = ("full", "shift 1", "sequence")  # one of every kind: the others differ in what is exact
SIZE, NEW = 8, 13
NEVER = 10**6
COLUMNS = ("position", "segment", "view", "block_start", "block_end")


def config_of(model, slots=None, **more):
    given = {"policy": "threshold", "threshold": 0.55, "block_size": SIZE, "max_new_tokens": NEW, **more}
    if given["policy"] != "threshold":
        del given["threshold"]
    config = settings_of(model, **given, **({"slots": slots} if slots else {}))
    config.eos_token_id = None
    return config


def traced(model, config, request, monkeypatch):
    """The final state; of every pass its embeddings, rows, hidden states, step and tokens; and the tokens it left."""
    passes, inner = [], type(model).decode
    loop = Loop(model, [request], build_strategy(model, config))

    def tracing(self, embeds, rows, *rest):
        (state,) = loop.batch
        tokens = state.tokens[: state.block_start] + state.canvas
        hidden = inner(self, embeds, rows, *rest)
        passes.append((embeds, rows, hidden, state.step, state.block_start, tokens))
        return hidden

    with monkeypatch.context() as patched:
        patched.setattr(type(model), "decode", tracing)
        (state,) = loop.run()
    return state, passes


def seen_by_all(model, passes):
    """Hidden states of every pass, where every row sees the newest KV of all rows fed so far that it may see."""
    newest, found = {}, []
    for embeds, rows, *_ in passes:
        columns = list(zip(*(getattr(rows, name)[0].tolist() for name in COLUMNS)))
        keys = [(view, view and start, position) for position, _, view, start, _ in columns]
        before, cache = [key for key in newest if key not in {*keys}], BlockCache(model.config.text_config, 1)
        for index, name in enumerate(COLUMNS):
            if before:
                layers = zip(*(newest[key][1] for key in before))
                index or cache.load(0, [tuple(torch.cat(t, 1) for t in zip(*layer)) for layer in layers])
                getattr(cache.rows, name)[0, : len(before)] = torch.tensor([newest[key][0][index] for key in before])
        found.append(model.decode(embeds, rows, cache))
        for row, (key, column) in enumerate(zip(keys, columns), len(before)):
            newest[key] = (column, cache.read(0, row, row + 1))
    return found


def fed_of(rows, start: int, full: bool) -> list[int]:
    """Positions of the rows fed that a strategy may keep: all under full attention, else the open block's."""
    pairs = zip(rows.position[0].tolist(), rows.view[0].tolist())
    return [position for position, view in pairs if full or view]


# The rules, restated: which positions a pass feeds, and which slots it may decide. ``now``, ``before`` and ``after``
# give every position's token in this pass, in the last one and behind this one, None for a mask.


def dkv(given, step, block, now, before, after, memory):
    masks = {at for at in now if now[at] is None}
    begins = before is None or step < 2 or step % given.get("refresh", 8) == 0
    return ({*now} if begins else masks | changed(now, before)), masks & {*block}


def dkv_pd(given, step, block, now, before, after, memory):
    fed, decided = dkv(given, step, block, now, before, after, memory)
    return (fed if before is None else fed - memory["prompt"]), decided


def dkv_greedy(given, step, block, now, before, after, memory):
    decided = changed(after, now)
    assert len(decided) <= 1, "one slot a step"
    if before is None or step % given.get("refresh", 2) == 0:
        return {*now}, decided
    fed = decided | changed(now, before)
    for at in decided:
        others = [p for p in now if now[p] is None and p != at]
        fed |= {*sorted(others, key=lambda p: 2 * abs(p - at) + (p > at))[: given.get("window", 4)]}
    return fed, decided


def sub_blocks(given, step, block, now, before, after, memory):
    size, first = given.get("size", 8), min(at for at in block if now[at] is None)
    begin = block.start + (first - block.start) // size * size
    part = {*range(begin, min(begin + size, block.stop))}
    fed = {*now} if before is None or step == 0 else {*block} if now[begin] is None else part
    return fed, {at for at in part if now[at] is None}


def phase_kv(given, step, block, now, before, after, memory):
    masks = [at for at in now if now[at] is None]
    begins = before is None or step % given.get("refresh", 32) == 0
    if begins or not memory["seen"] & {at for at in block if now[at] is None}:
        memory["seen"], memory["start"] = {*now} - {*masks[given.get("window", 64) :]}, now
        fed = memory["seen"]
    else:
        fed = {at for at in memory["seen"] if now[at] != memory["start"][at]}
    active = {*[at for at in masks if at in block and at in memory["seen"]][: given.get("active", 16)]}
    return fed | active, active


def changed(now, before) -> set[int]:
    return {at for at in now if now[at] != before[at]}


FIELDS = {
    dkv: [{}, {"refresh": 3}, {"refresh": None}],
    dkv_greedy: [{}, {"refresh": 5, "window": 1}, {"refresh": None, "window": 0}],
    sub_blocks: [{}, {"size": 2}, {"size": 3}],
    phase_kv: [{"active": 2}, {"refresh": 3, "active": 3}, {"window": 2, "active": 2}],
}
CASES = [(rule, given, name) for rule, fields in FIELDS.items() for given in fields for name in RULED]
CASES += [(dkv_pd, given, name) for given in ({}, {"refresh": 1}, {"refresh": 3}) for name in FULL]
POLICY = {dkv: "static", dkv_pd: "static", dkv_greedy: "random", sub_blocks: "threshold", phase_kv: "threshold"}


@pytest.mark.parametrize("rule, given, name", CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_the_rule_says_what_is_fed_and_every_row_sees_the_newest_of_all(rule, given, name, monkeypatch):
    model, traits, full = MODELS[name], MODELS[name].config.traits, name in FULL
    request, fewer, memory, before, last = prompts(model, 2)[1], 0, {}, None, None
    config = config_of(model, {rule.__name__: given}, policy=POLICY[rule])
    state, passes = traced(model, config, request, monkeypatch)
    assert max((a - b[2]).abs().max() for a, b in zip(seen_by_all(model, passes), passes)) <= 1e-9
    assert len(passes) == state.forwards > 1

    length, told = len(request.input_ids), {k: NEVER if v is None else v for k, v in given.items()}
    grid = 0 if traits.block_origin == "sequence" else length
    memory["prompt"] = {*range(length)}
    for (_, rows, _, step, start, tokens), left in zip(passes, [*(p[-1] for p in passes[1:]), state.tokens]):
        block = range(start, start + SIZE)
        every = range(grid + -(-(length + NEW - grid) // SIZE) * SIZE) if full else block
        now = {at: tokens[at] if at < len(tokens) and tokens[at] != traits.mask_token_id else None for at in every}
        after = {at: left[at] if at < len(left) and left[at] != traits.mask_token_id else now[at] for at in every}
        before = before if full or start == last else None
        fed = fed_of(rows, start, full)
        if not fed:  # under shift 1 a block's first slot is read from a clean row
            continue
        wanted, decided = rule(told, step, block, now, before, after, memory)
        assert {at for at in changed(after, now) if at in block} <= decided
        assert len(fed) == len({*fed}) and {*fed} == wanted | {at - traits.prediction_shift for at in decided}
        fewer, before, last = fewer + (len(fed) < len(every)), now, start
    assert fewer or (rule is sub_blocks and not given and not full), "everything was fed all the time"


# What is turned off, and what is left: refreshing at every pass keeps nothing, a part as large as the block is none.
PLAIN = {
    "dkv": ({"refresh": 1}, {}),
    "dkv_greedy": ({"refresh": 1}, {}),
    "phase_kv": ({"refresh": 1, "window": 99, "active": 99}, {}),
    "sub_blocks": ({"size": SIZE}, {}),
    "one active slot": ({"refresh": 1, "window": 99, "active": 1}, {"policy": "sequential"}),
    "parts of one slot": ({"size": 1}, {"policy": "sequential"}),
}
SLOT = {"one active slot": "phase_kv", "parts of one slot": "sub_blocks"}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("kind", PLAIN)
def test_what_keeps_nothing_is_decoding_without_a_cache(name, kind):
    model, (given, plain) = MODELS[name], PLAIN[kind]
    more = {"policy": "random", "policy_args": {"seed": 3}} if kind == "dkv_greedy" else {}
    expected = {"dual_kv": {}} if name in FULL and kind == "sub_blocks" else None
    if name in FULL and kind == "parts of one slot":
        given = {**given, "refresh": 1}  # for what lies outside the block
    ways = config_of(model, {SLOT.get(kind, kind): given}, **more), config_of(model, expected, **{**more, **plain})
    (state,), (other,) = (answer(model, prompts(model, 2)[1:], config) for config in ways)
    assert (state.tokens, state.forwards) == (other.tokens, other.forwards)
    assert max(abs(a - b) for a, b in zip(state.logprobs, other.logprobs)) <= 1e-9
    assert (state.kept, state.prompt_embeds) == ({}, None)


KINDS = [{"dkv": {}}, {"dkv_greedy": {}}, {"sub_blocks": {"size": 3}}, {"phase_kv": {"active": 2}}]


def mixed(name: str, count: int = 5) -> list[Request]:
    """Requests each of which is decoded in a way of its own."""
    model, made = MODELS[name], prompts(MODELS[name], count)
    for request, slots in zip(made, [*KINDS, {"flashblock": {"tau": 2}} if name in EXACT else None]):
        more = {"policy": "random"} if slots == {"dkv_greedy": {}} else {}
        request.strategy = build_strategy(model, config_of(model, slots, **more))
    return made


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_batch_of_all_kinds_equals_its_single_runs(name, monkeypatch):
    model = MODELS[name]
    together = answer(model, mixed(name), config_of(model), max_batch=3)
    for request, state in zip(mixed(name), together):
        alone, passes = traced(model, config_of(model), request, monkeypatch)
        assert (state.tokens, state.forwards) == (alone.tokens, alone.forwards) and alone.forwards == len(passes)
        assert state.tokens[: len(request.input_ids)] == request.input_ids.tolist()
        assert model.config.traits.mask_token_id not in state.generated and len(state.generated) == NEW


@pytest.mark.parametrize("kind", range(4))
def test_kept_rows_leave_nothing_behind_in_a_cache_or_a_store(kind):
    """What is continued, or reused, is clean: the KV of final tokens, whatever was kept on the way."""
    model, requests = MODELS["causal"], lambda: mixed("causal")[kind : kind + 1]
    cache, store = BlockCache(model.config.text_config, 1), PrefixStore()
    (state,) = answer(model, requests(), config_of(model), cache)
    assert int(cache.lengths[0]) == len(state.tokens)
    fresh, again = BlockCache(model.config.text_config, 1), [Request(torch.tensor(state.tokens))]
    again[0].pixel_values = requests()[0].pixel_values
    answer(model, again, config_of(model, max_new_tokens=1), fresh)
    for kept, clean in zip(cache.read(0, 0, len(state.tokens)), fresh.read(0, 0, len(state.tokens))):
        assert max((a - b).abs().max() for a, b in zip(kept, clean)) <= 1e-9
    for _ in range(2):
        (stored,) = answer(model, requests(), config_of(model), store=store)
        assert stored.tokens == state.tokens
    assert stored.reused > 0


@pytest.mark.parametrize("slots", [*KINDS, {"dkv_pd": {}}], ids=str)
def test_keeping_is_approximate(slots):
    model, more = MODELS["full"], {"policy": "random" if "dkv_greedy" in slots else "static"}
    (exact,), (kept,) = (answer(model, prompts(model, 1), config_of(model, s, **more)) for s in (None, slots))
    assert any(abs(a - b) > 1e-6 for a, b in zip(exact.logprobs, kept.logprobs))


ILLEGAL = [
    (
        "causal",
        {"slots": {"dkv_pd": {}}},
        "dkv_pd is for context_attention 'full'; this checkpoint has 'causal', under",
    ),
    (
        "block-causal",
        {"slots": {"dual_kv": {}}},
        "dual_kv is for context_attention 'full'; .* has 'block_causal', under",
    ),
    (
        "causal",
        {"slots": {"prefix_kv": {}}},
        "prefix_kv is for context_attention 'full'; this checkpoint has 'causal'",
    ),
    (
        "full",
        {"slots": {"dkv_greedy": {}}},
        "dkv_greedy needs a policy that knows its slots .*; Threshold chooses them by",
    ),
    ("causal", {"decoder": "dkv-greedy", "policy": "static"}, "'random' or 'sequential'; Static chooses them"),
    ("full", {"slots": {"dkv_greedy": {"window": -1}}}, "window -1 must be a whole number of at least 0"),
    ("full", {"slots": {"sub_blocks": {"size": 0}}}, "size 0 must be a whole number of at least 1"),
    ("full", {"slots": {"phase_kv": {"active": 9, "window": 8}}}, "active 9 must be at most window 8"),
    ("full", {"slots": {"dkv": {"refresh": 0.5}}}, "refresh 0.5 must be a whole number of at least 1"),
    ("full", {"slots": {"dkv": {}, "sub_blocks": {}}}, "'dkv' and 'sub_blocks' both decide the caching"),
    ("causal", {"slots": {"flashblock": {}, "dkv": {}}}, "'flashblock' and 'dkv' both decide the caching"),
    ("causal", {"slots": {"phase_kv": {}}, "mode": "ar"}, "'phase_kv' works on open blocks, which mode 'ar' does not"),
]


@pytest.mark.parametrize("name, given, message", ILLEGAL)
def test_what_cannot_be_is_refused_with_both_reasons(name, given, message):
    with pytest.raises(ValueError, match=message):
        settings_of(MODELS[name], **given)
