"""Quantised decoders: what changed, how far off each weight may be by definition, and that everything still runs.

Random weights make the least sure models there are, so tokens are compared by share, not one by one.
"""

import io
import math

import pytest
import torch
from torch import nn

from tests.vlm.tiny import BACKBONES, greedy, tiny_model
from vlm.checkpoints.load import load
from vlm.checkpoints.quantize import quantize
from vlm.generation.generate import answer
from vlm.generation.request import Request

KINDS = ("int8", "nf4")
# Relative error of the logits less their mean, about twice what was measured: eight-bit activations and weights;
# four-bit weights.
LOGIT_ERROR = {"int8": 0.12, "nf4": 0.4}
# Largest distance from a number in [-1, 1] to the nearest of the 16 nf4 values, which lie closest around zero.
NF4_HALF_GAP = (1 - 0.6961928) / 2


@pytest.fixture(autouse=True)
def wider(monkeypatch):
    """Backbones whose every input width is a multiple of 64, as nf4 needs it."""
    for name, text in BACKBONES.items():
        widths = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
        monkeypatch.setitem(BACKBONES, name, {**text, **widths})


def model_of(kind: str | None = None, **traits):
    model = tiny_model(dtype=torch.float32, scale=4.0, **traits)[0]
    return model if kind is None else quantize(model, kind)


def linears(model) -> dict[str, nn.Module]:
    """The projections of the decoder by name, whatever class they have become."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return {name: module for name, module in model.named_modules() if name.endswith(names)}


def weight_of(module: nn.Module) -> torch.Tensor:
    """The weight a layer multiplies by, read off its definition or its own dequantisation."""
    if type(module) is nn.Linear:
        return module.weight.detach()
    if isinstance(module, nn.Linear):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(module.weight.data, module.weight.quant_state)
    return module.weight().dequantize()


def stored_bytes(modules) -> int:
    file = io.BytesIO()
    torch.save([module.state_dict() for module in modules], file)
    return file.tell()


def inputs(model) -> dict:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, 250, (2, 40), generator=generator)
    ids[:, 1:5] = model.config.image_token_id
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}


@torch.no_grad()
def centred_logits(model) -> torch.Tensor:
    logits = model(**inputs(model)).logits
    return logits - logits.mean(-1, keepdim=True)


def share(one: list[int], two: list[int]) -> float:
    """Agreement: equal tokens at equal places."""
    return sum(a == b for a, b in zip(one, two)) / max(len(one), len(two))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_decoders_linears_change(kind):
    before, after = model_of(), model_of(kind)
    plain, changed = dict(before.named_modules()), dict(after.named_modules())
    expected = set(linears(before))
    assert len(expected) == 7 * before.config.text_config.num_hidden_layers
    assert {name for name in plain if type(plain[name]) is not type(changed[name])} == expected
    kept = {n: p for n, p in before.state_dict().items() if not n.startswith(tuple(expected))}
    assert {n.split(".")[0] for n in kept} == {"vision_tower", "projector", "language_model"}
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in kept.items())
    assert after.dtype == torch.float32 and after.device.type == "cpu" and not after.training


def test_int8_rounds_each_weight_to_half_a_step_of_its_output_channel():
    for plain, rounded in zip(linears(model_of()).values(), linears(model_of("int8")).values()):
        step = plain.weight.abs().amax(1, keepdim=True) / 127.5
        error = (weight_of(rounded) - plain.weight).abs()
        assert (error <= step / 2 + 1e-6).all() and error.max() > 0


def test_nf4_takes_sixteen_values_in_every_run_of_64():
    for plain, rounded in zip(linears(model_of()).values(), linears(model_of("nf4")).values()):
        exact, nearest = plain.weight.detach().reshape(-1, 64), weight_of(rounded).reshape(-1, 64)
        largest = exact.abs().amax(1, keepdim=True)
        # The runs' own scales are stored in eight bits: to one percent of the layer's largest.
        assert ((nearest - exact).abs() <= largest * NF4_HALF_GAP + 0.01 * largest.max()).all()
        assert max(len(run.unique()) for run in nearest) <= 16
        x = torch.randn(3, plain.in_features)
        assert torch.allclose(rounded(x), x @ weight_of(rounded).T, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_stay_close(kind, backbone):
    plain, rounded = (tiny_model(backbone, torch.float32)[0] for _ in range(2))
    exact, near = centred_logits(plain), centred_logits(quantize(rounded, kind))
    error = ((near - exact).norm() / exact.norm()).item()
    assert 1e-4 < error < LOGIT_ERROR[kind]
    assert share(exact.argmax(-1).flatten().tolist(), near.argmax(-1).flatten().tolist()) > 0.6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["block", "ar", "speculative"])
def test_every_mode_generates(kind, mode, record_property):
    """A batch of unequal prompts, cached; each answer is whole and its tokens are real ones."""
    plain, rounded = model_of(), model_of(kind)
    requests = [Request(torch.arange(30, 30 + length)) for length in (3, 9, 17)]
    settings = greedy(mode=mode, max_new_tokens=12)
    exact, near = (answer(model, requests, settings) for model in (plain, rounded))
    for state in near:
        assert len(state.generated) == 12 and rounded.config.traits.mask_token_id not in state.generated
        assert all(math.isfinite(value) and value <= 0 for value in state.logprobs)
    agreement = [share(a.generated, b.generated) for a, b in zip(exact, near)]
    record_property("agreement", agreement)
    print(kind, mode, "agreement", agreement)
    assert max(agreement) > 0.1  # chance is below 1/250


def test_nf4_on_cpu_is_float32_arithmetic_on_rounded_weights():
    """So a batch decodes as its single requests do, and speculation as the AR mode."""
    rounded, restored = model_of("nf4"), model_of()
    with torch.no_grad():
        for one, two in zip(linears(rounded).values(), linears(restored).values()):
            two.weight.copy_(weight_of(one))
    requests = [Request(torch.arange(30, 30 + length)) for length in (3, 9, 17)]
    for mode in ("block", "ar", "speculative"):
        settings = greedy(mode=mode, max_new_tokens=12)
        expected = [state.generated for state in answer(restored, requests, settings)]
        assert [state.generated for state in answer(rounded, requests, settings)] == expected
    assert torch.allclose(centred_logits(rounded), centred_logits(restored), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_generate_with_media(kind):
    model = model_of(kind)
    found = model.generate(**inputs(model), max_new_tokens=8)
    assert found.sequences.shape == (2, 48)


@pytest.mark.parametrize("kind, low, high", [("int8", 1 / 4, 1 / 3.6), ("nf4", 1 / 8, 1 / 6.8)])
def test_the_linears_shrink(kind, low, high, monkeypatch):
    wide = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 256, "num_key_value_heads": 4}
    monkeypatch.setitem(BACKBONES, "wide", wide)
    model = tiny_model("wide", torch.float32)[0]
    before = stored_bytes(linears(model).values())
    assert low < stored_bytes(linears(quantize(model, kind)).values()) / before < high


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ValueError, match="quantisation 'int3' is not one of int8, nf4"):
        quantize(model_of(), "int3")
    for kind in KINDS:
        with pytest.raises(ValueError, match=f"'{kind}' on cpu needs float32 weights, not bfloat16"):
            quantize(model_of().bfloat16(), kind)
        with pytest.raises(ValueError, match="no plain linear layers"):
            quantize(model_of(kind), "nf4")


def test_nf4_refuses_widths_that_cpu_would_misread(monkeypatch):
    monkeypatch.setitem(BACKBONES, "odd", {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96})
    model = tiny_model("odd", torch.float32)[0]
    with pytest.raises(ValueError, match="multiples of 64; layers.0.mlp.down_proj has 96"):
        quantize(model, "nf4")
    assert all(type(module) is nn.Linear for module in linears(model).values())


@pytest.mark.parametrize("kind", KINDS)
def test_load_quantises(kind, tmp_path):
    for part in tiny_model(dtype=torch.float32, scale=4.0):
        part.save_pretrained(tmp_path)
    loaded, _ = load(str(tmp_path), device="cpu", quantize=kind)
    assert torch.equal(centred_logits(loaded), centred_logits(model_of(kind)))


def test_load_refuses_an_unknown_kind_before_it_reads():
    with pytest.raises(ValueError, match="'int3' is not one of"):
        load("/no/such/model", device="cpu", quantize="int3")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_on_cuda_in_bfloat16(kind):
    plain, rounded = (model_of().to("cuda", torch.bfloat16) for _ in range(2))
    quantize(rounded, kind)
    assert rounded.dtype == torch.bfloat16 and rounded.device.type == "cuda"
    x = torch.randn(3, 64, device="cuda", dtype=torch.bfloat16)
    for one, two in zip(linears(plain).values(), linears(rounded).values()):
        if one.in_features == 64:
            assert (one(x) - two(x)).norm() / one(x).norm() < {"int8": 0.05, "nf4": 0.2}[kind]
    state = answer(rounded, [Request(torch.arange(30, 40, device="cuda"))], greedy(max_new_tokens=8))[0]
    assert len(state.generated) == 8
