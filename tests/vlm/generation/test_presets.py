"""Every preset on every kind of checkpoint: batches equal singles, every pass is counted, nothing stalls or leaks.

The models say something else in every slot, and some of their confidences pass published thresholds.
"""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vlm.generation.sharp import sharp_model
from vlm.answering import settings as settings_of
from vlm.generation.generate import answer
from vlm.generation.learn2pd import write_filter
from vlm.generation.presets import PRESETS
from vlm.generation.request import Request
from vlm.generation.slots import SPANS

END = 40
CHECKPOINTS = {
    "causal": {"off_grid_ok": True},
    "on the grid": {},
    "shift 1": {"prediction_shift": 1, "off_grid_ok": True},
    "block-causal": {"context_attention": "block_causal", "off_grid_ok": True},
    "sequence": {"context_attention": "block_causal", "block_origin": "sequence"},
    "full": {"context_attention": "full"},
    "mixed": {"off_grid_ok": True, "noise": "mixed"},
    "full, mixed": {"context_attention": "full", "noise": "mixed"},
}
MODELS = {name: sharp_model(**traits) for name, traits in CHECKPOINTS.items()}
# What a preset has to be told on these checkpoints.
TOLD = {
    "tccf": {"slots": {"tccf": {"marker": 60, "small": 4}}},
    "adablock": {"slots": {"adablock": {"delimiters": "aeiost.", "tau": 0.05, "share": 1.0}}},
    "dcd": {"slots": {"dcd": {"window": 2}}},
    "prophet": {"slots": {"prophet": {"first": 2.0, "middle": 1.0, "last": 0.5}}},
    "stable-confident": {"slots": {"stable": {"entropy": 2.0}}},
    "fast-dllm-v2": {"slots": {"sub_blocks": {"size": 3}}},
    "window": {"slots": {"phase_kv": {"active": 2, "window": 5, "refresh": 3}}},
    "diffuspec": {"slots": {"adl": {"shortest": 2, "longest": 6, "growth": 2}}},
    "llada2.1-blocks": {"block_size": 4},  # two of them are the largest trained size
}


@pytest.fixture(scope="module")
def filters(tmp_path_factory):
    """A random filter for every model."""
    found, generator = {}, torch.Generator().manual_seed(0)
    for name, (model, _) in MODELS.items():
        found[name] = str(tmp_path_factory.mktemp("filters") / "f.safetensors")
        shapes = {"up.weight": (8, 4), "up.bias": (8,), "down.weight": (4, 8), "down.bias": (4,)}
        weights = {key: torch.randn(shape, generator=generator) * 3 for key, shape in shapes.items()}
        write_filter(found[name], weights, model, 4)
    return found


def config_of(name: str, decoder: str, filters, **more):
    model, processor = MODELS[name]
    extra = {"policy_args": {"filter": filters[name]}} if decoder == "learn2pd" else {}
    given = {"decoder": decoder, "max_new_tokens": 11, **TOLD.get(decoder, {}), **extra, **more}
    config = settings_of(model, tokenizer=processor.tokenizer, **given)
    config.eos_token_id = END
    return config


def prompts(seed: int = 0, count: int = 2) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)
    return [Request(torch.randint(20, 250, (3 + 6 * k,), generator=generator), seed=k) for k in range(count)]


def decoded(name: str, config, requests, monkeypatch=None):
    """Final states, how many forward passes the model itself ran, and what each pass left open."""
    model, processor = MODELS[name]
    passes, seen, mask = [0], [], model.config.traits.mask_token_id
    inner = type(model).decode

    def counting(self, *args):
        passes[0] += 1
        return inner(self, *args)

    if monkeypatch is not None:
        monkeypatch.setattr(type(model), "decode", counting)

    def on_step(states):
        for state in states:
            left = (len(state.tokens), -(state.canvas or [mask] * 99).count(mask), len(state.canvas or []))
            seen.append((id(state), *left, state.draft is None, state.rereads))

    states = answer(model, requests, config, on_step=on_step, tokenizer=processor.tokenizer)
    monkeypatch and monkeypatch.undo()
    return states, passes[0], seen


def runs(name: str, decoder: str, filters):
    """The preset's settings there, or None where the checkpoint does not allow it."""
    try:
        return config_of(name, decoder, filters)
    except ValueError:
        return None


WHOLE = ("fast-dllm-prefix", "fast-dllm-dual", "dkv-pd")
EDITS = tuple(decoder for decoder, preset in PRESETS.items() if "token_edit" in preset.slots)
MIXED = tuple(name for name, traits in CHECKPOINTS.items() if traits.get("noise") == "mixed")
ALL_MASKS = [name for name in CHECKPOINTS if name not in MIXED]
# The grid is the spans' matter, and the noise is the edits': elsewhere these checkpoints are as others.
MATRIX = [(n, d) for d, p in PRESETS.items() for n in ALL_MASKS if n != "on the grid" or SPANS.keys() & p.slots]
MATRIX += [(name, decoder) for decoder in EDITS for name in MIXED]
REFUSED = {(name, "wedlm-stream") for name in ALL_MASKS if name != "causal"} | {("full", "flashblock")}
REFUSED |= {(name, decoder) for name in ALL_MASKS if name != "full" for decoder in WHOLE}
REFUSED |= {(name, decoder) for name in ALL_MASKS for decoder in EDITS}
REFUSED |= {(name, "diffuspec") for name in ("block-causal", "sequence", "full")}
LEGAL = {d: [name for name, other in MATRIX if other == d and (name, d) not in REFUSED] for d in PRESETS}


def test_every_preset_runs_on_one_of_these_checkpoints():
    assert all(LEGAL.values()) and LEGAL.keys() == PRESETS.keys()


@pytest.mark.parametrize("name, decoder", MATRIX)
def test_a_batch_is_its_singles_and_every_pass_is_counted(name, decoder, filters, monkeypatch):
    config = runs(name, decoder, filters)
    assert (config is None) == ((name, decoder) in REFUSED)
    if config is None:
        return
    together, _, _ = decoded(name, config, prompts())
    mask = MODELS[name][0].config.traits.mask_token_id
    for request, state in zip(prompts(), together):
        (alone,), passes, seen = decoded(name, config, [request], monkeypatch)
        assert (state.tokens, state.finish_reason) == (alone.tokens, alone.finish_reason)
        assert state.forwards == alone.forwards == passes
        assert state.tokens_per_forward == len(state.generated) / passes
        assert alone.tokens[: len(request.input_ids)] == request.input_ids.tolist()
        assert mask not in alone.generated and 1 <= len(alone.generated) <= 11
        assert END not in alone.generated[:-1]
        assert len(set(seen)) == len(seen), "a pass changed nothing"


SIZES = {"learn2pd": [4], "llada2.1-blocks": [4]}  # what a filter was fitted to; what fits twice into a trained size


@pytest.mark.parametrize("decoder", PRESETS)
@settings(max_examples=4, deadline=None)
@given(st.data())
def test_whatever_the_model_says_a_preset_ends_without_masks(decoder, filters, data):
    name = data.draw(st.sampled_from(LEGAL[decoder]))
    size = data.draw(st.sampled_from(SIZES.get(decoder, [1, 4, 8])))
    max_new, seed = data.draw(st.integers(1, 19)), data.draw(st.integers(0, 2**20))
    model, processor = MODELS[name]
    told = {"slots": {"tccf": {"marker": 60, "small": 1}}} if decoder == "tccf" else {}
    more = {"block_size": size, "max_new_tokens": max_new, "temperature": data.draw(st.floats(0, 2))}
    config = config_of(name, decoder, filters, **told, **more)
    generator = torch.Generator().manual_seed(seed)
    config.eos_token_id = int(torch.randint(20, 250, (1,), generator=generator))

    def noise(_, logits):  # any logits at all, NaN excepted: they are the policies' own tests' matter
        return torch.randn(logits.shape, generator=generator, dtype=logits.dtype) * 10 ** (seed % 5 - 1)

    states = answer(model, prompts(seed), config, tokenizer=processor.tokenizer, processors=_possible(noise))
    rereads = 16 * (-(-max_new // size) + 1) if decoder in EDITS else 0
    for request, state in zip(prompts(seed), states):
        assert state.tokens[: len(request.input_ids)] == request.input_ids.tolist()
        assert model.config.traits.mask_token_id not in state.generated
        assert 1 <= len(state.generated) <= max_new and state.forwards <= 2 * max_new + 2 * size + 2 + rereads
        assert (state.finish_reason == "stop") == (state.generated[-1] == config.eos_token_id)


def _possible(noise):
    """A processor that never makes a suppressed token possible."""
    suppressed = sorted({0, 1, 2, *MODELS["causal"][0].generation_config.suppress_tokens})
    mask = MODELS["causal"][0].config.traits.mask_token_id

    def process(ids, logits):
        return noise(ids, logits).index_fill(1, torch.tensor([*suppressed, mask]), -torch.inf)

    return process


ILLEGAL = [
    ("on the grid", {"decoder": "wedlm-stream"}, "streaming needs causal context.*off_grid_ok=False"),
    ("block-causal", {"decoder": "wedlm-stream"}, "streaming needs causal context.*'block_causal'"),
    ("causal", {"decoder": "tccf"}, "tccf needs a token '</think>'.*this tokenizer has none"),
    ("causal", {"decoder": "tccf", "slots": {"tccf": {"marker": 60, "small": 3}}},
     "block_size 3 was not trained; this checkpoint allows 1, 4, 8"),
    ("causal", {"decoder": "adablock", "slots": {"adablock": {"delimiters": "漢"}}},
     "adablock needs a delimiter of.*this tokenizer has no such token"),
    ("on the grid", {"decoder": "dcd", "block_size": 4, "slots": {"dcd": {"growth": 4}}},
     "dcd growth 4 needs block sizes 8 trained and blocks off the grid; this checkpoint has.*off_grid_ok=False"),
    ("causal", {"decoder": "learn2pd"}, "learn2pd needs a filter: fit one"),
    ("causal", {"decoder": "learn2pd", "policy_args": {"filter": "no.safetensors"}}, "filter no.safetensors: cannot"),
    ("causal", {"decoder": "dcd", "mode": "ar"}, "'dcd' works on open blocks, which mode 'ar' does not denoise"),
    ("causal", {"decoder": "top-margin", "slots": {"gap": {}}}, "'margin' and 'gap' both decide the rank"),
    ("causal", {"decoder": "dcd", "slots": {"streaming": {}}}, "'dcd' and 'streaming' both decide the spans"),
    ("causal", {"decoder": "eoser", "slots": {"entropy": {}}}, "'eoser' multiplies.*'entropy' ranks"),
    ("full", {"decoder": "flashblock"}, "needs KV before a block that stays as it is; context_attention 'full' has"),
    ("block-causal", {"decoder": "diffuspec"},
     "mode 'speculative' needs causal context and a trained AR mode; this checkpoint has .*'block_causal', ar_mode=F"),
    ("full", {"decoder": "diffuspec"}, "'speculative' needs causal context and a trained AR mode; .*'full'"),
    ("causal", {"slots": {"cps": {}}}, "'cps' works on drafts that are verified, which mode 'block' does not make"),
    ("causal", {"decoder": "diffuspec", "mode": "ar"}, "'cps' works on drafts.* mode 'ar' does not make"),
    ("causal", {"decoder": "diffuspec", "slots": {"eoser": {}}}, "'eoser' works on open blocks.*'speculative'"),
    ("causal", {"decoder": "diffuspec", "slots": {"cps": {"beam": 0}}}, "beam 0 must be a whole number of at least 1"),
    ("causal", {"decoder": "diffuspec", "slots": {"adl": {"shortest": 31}}}, "shortest 31 must be at most longest 30"),
    ("full", {"decoder": "wedlm-stream"}, "streaming needs causal context.*'full'"),
    ("causal", {"decoder": "dkv-pd"}, "dkv_pd is for context_attention 'full'; this checkpoint has 'causal', under"),
    ("full", {"decoder": "dkv", "slots": {"dual_kv": {}}}, "'dkv' and 'dual_kv' both decide the caching"),
    ("full", {"decoder": "dkv", "slots": {"dkv": {"refresh": 0}}}, "refresh 0 must be a whole number of at least 1"),
    ("causal", {"decoder": "magic"}, "decoder 'magic' is not one of sdar-static"),
    ("causal", {"decoder": "bacd", "threshold": 0.5}, "threshold 0.5 means nothing to policy 'bacd'"),
    ("causal", {"decoder": "cad", "denoising_steps": 2}, "denoising_steps 2 means nothing to policy 'cad'"),
    ("causal", {"slots": {"wand": {}}}, "slots: 'wand' is not one of margin"),
    ("causal", {"slots": {"dcd": {"windw": 3}}}, "'dcd' cannot be built from.*windw"),
    ("causal", {"slots": {"prophet": {"first": "wide"}}}, "first wide must be a number"),
    ("causal", {"slots": ["dcd"]}, "must be strategies by name"),
]  # fmt: skip


@pytest.mark.parametrize("name, decoder", sorted(REFUSED))
def test_a_preset_that_a_checkpoint_cannot_run_says_what_it_needs_and_what_is_there(name, decoder, filters):
    with pytest.raises(ValueError) as caught:
        config_of(name, decoder, filters)
    needs, has = re.fullmatch(
        r"(.*(?:needs|is for) .*)(?:this checkpoint has|this one has|; )(.*)", str(caught.value)
    ).groups()
    traits = MODELS[name][0].config.traits
    asked = [trait for trait in ("context_attention", "noise", "prediction_shift", "off_grid_ok", "ar_mode")
             if repr(getattr(traits, trait)) in has]  # fmt: skip
    assert needs and asked, str(caught.value)


@pytest.mark.parametrize("name, given_, message", ILLEGAL)
def test_illegal_combinations_name_both_sides(name, given_, message):
    model, processor = MODELS[name]
    with pytest.raises(ValueError, match=message):
        settings_of(model, tokenizer=processor.tokenizer, **given_)


def test_a_filter_of_another_model_or_block_size_is_refused(filters):
    model, processor = MODELS["causal"]
    given_ = {"decoder": "learn2pd", "policy_args": {"filter": filters["causal"]}}
    with pytest.raises(ValueError, match="was fitted to block_size 4, not to 8"):
        settings_of(model, tokenizer=processor.tokenizer, block_size=8, **given_)
    other, _ = sharp_model()
    with torch.no_grad():
        other.language_model.model.norm.weight.mul_(2)
    with pytest.raises(ValueError, match="was fitted to model [0-9a-f]{8}, not to [0-9a-f]{8}"):
        settings_of(other, tokenizer=processor.tokenizer, **given_)


def test_what_is_given_prevails_over_the_preset_and_the_preset_over_the_checkpoint():
    model, processor = MODELS["causal"]
    base = settings_of(model, policy="static", denoising_steps=2, block_size=8)

    def filled(**given_):
        return settings_of(model, base, processor.tokenizer, **given_)

    plain = filled(decoder="sdar-dynamic")
    assert (plain.policy, plain.threshold, plain.policy_args) == ("threshold", 0.85, {"strict": True})
    assert (plain.denoising_steps, plain.block_size, plain.slots) == (None, None, None)
    assert filled(decoder="sdar-dynamic", threshold=0.5).threshold == 0.5
    assert filled(decoder="sdar-dynamic", policy="bacd").policy_args is None
    assert filled(decoder="dcd").block_size == 8, "the largest trained size up to the paper's 32"
    assert filled(decoder="dcd", block_size=4).block_size == 4
    merged = filled(decoder="cad", slots={"eos_gate": {"share": 0.1}, "eotp": {}}).slots
    assert merged == {"eos_gate": {"share": 0.1}, "eotp": {}}
    assert PRESETS["cad"].slots == {"eos_gate": {}}, "the table stays as it is"


def test_a_mode_leaves_out_the_checkpoints_slots_that_it_has_no_use_for():
    model, processor = MODELS["causal"]
    base = settings_of(model, slots={"end_last": {}, "repetition": {}})

    def slots(**given_):
        return settings_of(model, base, processor.tokenizer, **given_).slots

    assert slots(policy="static") == slots(mode="block") == {"end_last": {}, "repetition": {}}
    assert slots(mode="ar") == slots(mode="speculative") == {"repetition": {}}
    assert slots(decoder="sdar-dynamic") is None, "a published decoder is as published"
    with pytest.raises(ValueError, match="'end_last' works on open blocks, which mode 'ar' does not denoise"):
        slots(mode="ar", slots={"end_last": {}})


@pytest.mark.parametrize("decoder", PRESETS)
def test_a_preset_says_where_it_comes_from_what_it_does_and_what_differs(decoder):
    preset = PRESETS[decoder]
    assert re.search("arXiv [0-9]{4}[.][0-9]{5}|in transformers", preset.source)
    assert preset.rule and preset.differs and (preset.needs or any(n == "causal" for n in LEGAL[decoder]))


def test_generate_takes_a_decoder():
    model, _ = MODELS["causal"]
    ids = prompts()[0].input_ids[None]
    one = model.generate(ids, decoder="sdar-sequential", max_new_tokens=9)
    assert torch.equal(one.sequences, model.generate(ids, policy="sequential", max_new_tokens=9).sequences)
    assert one.states[0].forwards == 9
