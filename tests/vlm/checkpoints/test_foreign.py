"""Other projects' checkpoints: logits and greedy decoding against a restatement that knows nothing of our code.

The restatement is the stock transformers class with a mask built here from the published rule, and a decoder that
computes the whole sequence anew at every step, without a cache.
"""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.vlm.checkpoints.sources import FAMILIES as STOCK
from tests.vlm.checkpoints.sources import SIZES, bare_tokenizer, change_config, language_model, llada, save, sdar
from vlm.checkpoints.convert import Choices, convert, converted
from vlm.checkpoints.families import FAMILIES, REFUSED
from vlm.checkpoints.load import load
from vlm.generation.strategy import build_strategy

BLOCK = 4


def ids_of(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(20, 250, (1, length), generator=torch.Generator().manual_seed(seed))


def block_causal(length: int, block: int) -> torch.Tensor:
    """Row i sees column j if j's block is not a later one; blocks count from the start [1, 1, L, L]."""
    rows = torch.arange(length) // block
    return (rows[:, None] >= rows[None, :])[None, None]


@torch.no_grad()
def restated(stock, prompt: list[int], new: int, block: int, mask: int, banned: list[int], tau: float | None):
    """SDAR's greedy decoding: the most probable open slot of the block, or every one above ``tau``."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + new:
        end = (len(tokens) // block + 1) * block
        tokens += [mask] * (end - len(tokens))
        while mask in tokens:
            logits = stock(input_ids=torch.tensor([tokens]), attention_mask=block_causal(end, block)).logits[0]
            logits[:, banned] = -torch.inf
            best = logits.softmax(-1).max(-1)
            open_slots = [i for i in range(len(prompt), end) if tokens[i] == mask]
            sure = [i for i in open_slots if tau is not None and best.values[i] >= tau]
            for i in sure or [max(open_slots, key=lambda i: float(best.values[i]))]:
                tokens[i] = int(best.indices[i])
    return tokens[: len(prompt) + new]


@pytest.fixture(scope="module")
def sdar_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("foreign") / "sdar"
    sdar(path)
    return path


@pytest.fixture(scope="module")
def sdar_stock(tmp_path_factory):
    return sdar(tmp_path_factory.mktemp("foreign") / "again")


def test_sdar_is_stock_qwen3_under_its_mask(sdar_path, sdar_stock):
    model, _ = load(str(sdar_path), dtype=torch.float64, device="cpu")
    assert len(list(sdar_path.glob("*.safetensors"))) > 1  # sharded
    for length in (5, 8, 11):
        with torch.no_grad():
            expected = sdar_stock(input_ids=ids_of(length), attention_mask=block_causal(length, BLOCK)).logits
            assert (model(input_ids=ids_of(length)).logits - expected).abs().max() <= 1e-6
    traits = model.config.traits
    assert (traits.context_attention, traits.prediction_shift, traits.block_origin) == ("block_causal", 0, "sequence")
    assert not traits.ar_mode and traits.trained_block_sizes == (BLOCK,)


@pytest.mark.parametrize("length", [1, 4, 7, 9])  # a prompt's rest shares a block with the answer
@pytest.mark.parametrize("tau", [None, 0.02])
def test_sdar_decodes_as_published(sdar_path, sdar_stock, length, tau):
    model, _ = load(str(sdar_path), dtype=torch.float64, device="cpu")
    prompt = ids_of(length, seed=length)
    banned = model.generation_config.suppress_tokens
    expected = restated(sdar_stock, prompt[0].tolist(), 13, BLOCK, model.config.traits.mask_token_id, banned, tau)
    settings = {"policy": "static"} if tau is None else {"policy": "threshold", "threshold": tau}
    found = model.generate(prompt, max_new_tokens=13, eos_token_id=None, **settings).sequences[0].tolist()
    assert found == expected


def test_llada_is_stock_llama_that_sees_everything(tmp_path):
    stock = llada(tmp_path / "llada")
    model, _ = load(str(tmp_path / "llada"), dtype=torch.float64, device="cpu")
    ids = ids_of(9)
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=torch.ones(1, 1, 9, 9, dtype=torch.bool)).logits
        assert (model(input_ids=ids).logits - expected).abs().max() <= 1e-6
    assert model.config.text_config.rope_parameters["rope_theta"] == 5e5
    assert model.config.traits.context_attention == "full"
    assert build_strategy(model, model.generation_config).mode == "block"


@pytest.mark.parametrize("field, value", [
    ("block_type", "sequential"), ("layer_norm_type", "default"), ("include_bias", True), ("alibi", True),
    ("attention_layer_norm", True), ("activation_type", "gelu"),
])  # fmt: skip
def test_llada_of_another_build_is_refused(tmp_path, field, value):
    llada(tmp_path / "llada", **{field: value})
    refused(tmp_path / "llada", field, repr(value))


@pytest.mark.parametrize("kind", ["a2d-qwen3", "a2d-qwen2", "a2d-llama", "sdar_moe"])
def test_the_families_of_stock_names(kind, tmp_path):
    backbone = {"sdar_moe": "qwen3_moe"}.get(kind, kind.removeprefix("a2d-"))
    tokenizer = bare_tokenizer("<|mask|>")
    tokenizer.mask_token = "<|mask|>"
    dtype = torch.float32 if kind == "sdar_moe" else torch.float64  # torch groups experts' products in float32
    stock = language_model(backbone, 320, dtype)
    mask = {"mask_token_id": tokenizer.mask_token_id} if kind == "sdar_moe" else {}
    save(stock, tokenizer, tmp_path / "m", model_type=kind, architectures=["Theirs"], **mask)
    model, _ = load(str(tmp_path / "m"), dtype=dtype, device="cpu")
    traits, ids = model.config.traits, ids_of(37)
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=block_causal(37, traits.block_size)).logits
        assert (model(input_ids=ids).logits - expected).abs().max() <= (1e-5 if kind == "sdar_moe" else 1e-6)
    assert traits.block_size == (4 if kind == "sdar_moe" else 32)
    assert traits.mask_token_id == tokenizer.mask_token_id


def test_what_the_config_leaves_out_is_the_familys_and_said(tmp_path, caplog):
    sdar(tmp_path / "sdar", block_size=None)
    with caplog.at_level(logging.WARNING):
        model, _ = load(str(tmp_path / "sdar"), device="cpu")
    assert model.config.traits.block_size == 4
    assert "block_size is 4, from the family's default" in caplog.text and "mask_token_id" not in caplog.text
    caplog.clear()
    sdar(tmp_path / "b16", block_size=16)
    with caplog.at_level(logging.WARNING):
        model, _ = load(str(tmp_path / "b16"), device="cpu")
    assert model.config.traits.trained_block_sizes == (16,) and not caplog.text


def test_a_conversion_keeps_the_traits_and_takes_what_is_given(tmp_path):
    tokenizer = bare_tokenizer("<|mask|>")
    tokenizer.mask_token = "<|mask|>"
    stock = language_model("qwen3", 320)
    save(stock, tokenizer, tmp_path / "mdlm", model_type="a2d-qwen3")
    convert(str(tmp_path / "mdlm"), str(tmp_path / "ours"), Choices(context="full"))
    model, _ = load(str(tmp_path / "ours"), dtype=torch.float64, device="cpu")
    assert model.config.traits.context_attention == "full" and model.config.traits.block_size == 32
    assert model.config.conversion["traits_from"]["context_attention"] == "given"
    with torch.no_grad():
        expected = stock(input_ids=ids_of(9), attention_mask=torch.ones(1, 1, 9, 9, dtype=torch.bool)).logits
        assert (model(input_ids=ids_of(9)).logits - expected).abs().max() <= 1e-6


def refused(path, *says):
    for door in (lambda: load(str(path), device="cpu"), lambda: converted(str(path))):
        with pytest.raises(ValueError) as caught:
            door()
        message = str(caught.value)
        assert str(path) in message and all(part in message for part in says) and "\n" not in message, message


def test_shards(tmp_path):
    sdar(tmp_path / "m")
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-20])
    refused(tmp_path / "m", shards[1].name, "not a readable safetensors file")
    shards[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    refused(tmp_path / "m", shards[1].name, "git-lfs pointer")
    shards[1].unlink()
    refused(tmp_path / "m", shards[1].name, f"1 of {len(shards)} shards", "missing")
    for shard in shards[2:]:
        shard.unlink()
    refused(tmp_path / "m", f"{len(shards) - 1} of {len(shards)} shards")
    shards[0].unlink()
    (tmp_path / "m" / "model.safetensors.index.json").unlink()
    refused(tmp_path / "m", "no .safetensors file")


def test_pickles_are_refused(tmp_path):
    stock = llada(tmp_path / "m")
    torch.save(stock.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    (tmp_path / "m" / "model.safetensors").unlink()
    refused(tmp_path / "m", "pytorch_model.bin is a pickle")


def edit(path, change) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def test_tensors_that_differ_are_listed(tmp_path):
    path = tmp_path / "m"
    llada(path)
    edit(path, lambda t: t.update({"model.transformer.ln_f.weight": torch.ones(33, dtype=torch.float64)}))
    refused(path, "tensor model.norm.weight has shape [33], expected [32]")
    edit(path, lambda t: t.update({f"extra.{i:02}": torch.ones(1) for i in range(12)}))
    refused(path, "12 tensors are not part of the model", "extra.00", "extra.09 and 2 more", "[33]")
    edit(path, lambda t: [t.pop(n) for n in list(t) if "blocks.1." in n and "norm" not in n])
    refused(path, "7 tensors are missing", "model.layers.1.mlp.up_proj.weight", "12 tensors", "[33]")


def test_quantised_weights_are_refused(tmp_path):
    path = tmp_path / "m"
    llada(path)
    name = "model.transformer.blocks.0.q_proj.weight"
    edit(path, lambda t: t.update({name: t[name].to(torch.float8_e4m3fn)}))
    refused(path, "quantised", "F8_E4M3", name)


def test_a_mask_that_the_tokenizer_lacks(tmp_path):
    sdar(tmp_path / "m")
    change_config(tmp_path / "m", mask_token_id=151669)
    refused(tmp_path / "m", "mask token 151669 is not in the tokenizer")
    path = tmp_path / "a2d"
    save(language_model("qwen3", 320), bare_tokenizer(), path, model_type="a2d-qwen3")
    refused(path, "says which token is the mask")
    (path / "tokenizer.json").unlink()
    refused(path, "no tokenizer.json")


@pytest.mark.parametrize("kind", [*REFUSED, "mystery"])
def test_families_without_a_decoder_here_say_why(kind, tmp_path):
    code = {"auto_map": {"AutoModel": "modeling.Model"}, "model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(code))
    (tmp_path / "modeling.py").write_text("raise SystemExit('remote code was run')\n")
    refused(tmp_path, repr(kind), REFUSED.get(kind, "never run"))


def test_an_autoregressive_model_is_to_be_converted(tmp_path):
    save(language_model("llama", 300), bare_tokenizer(), tmp_path / "m")
    with pytest.raises(ValueError, match="python -m vlm.convert"):
        load(str(tmp_path / "m"), device="cpu")


def test_every_family_names_a_backbone_that_transformers_has():
    for family in FAMILIES.values():
        config = AutoConfig.for_model(family.backbone, **SIZES, **STOCK[family.backbone], vocab_size=50)
        with torch.device("meta"):
            names = set(AutoModelForCausalLM.from_config(config).state_dict())
        assert {"model.norm.weight", "model.embed_tokens.weight"} <= names
