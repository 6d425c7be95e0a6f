"""A converted model is the original: the stock transformers class is the oracle for every logit and token."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, SiglipVisionConfig, SiglipVisionModel

from tests.vlm.checkpoints.sources import FAMILIES, bare_tokenizer, language_model, save
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.convert import Choices, convert, converted
from vlm.checkpoints.files import CheckpointError
from vlm.checkpoints.load import load
from vlm.convert import main

CHAT = [{"role": "user", "content": [{"type": "text", "text": "red green"}]}]


def source(path, family="qwen3", spare: int = 12, dtype=torch.float64, extra=(), **fields):
    """A stock directory whose table has ``spare`` rows more than its tokenizer has tokens, and its model."""
    tokenizer = bare_tokenizer(*extra)
    model = language_model(family, len(tokenizer) + spare, dtype, **fields)
    save(model, tokenizer, path)
    return path, AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def some_ids(n: int = 14) -> torch.Tensor:
    return torch.randint(20, 250, (2, n), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_tokens_are_the_original_classes(family, tmp_path):
    experts = family == "qwen3_moe"  # torch groups their products in float32
    dtype, tolerance = (torch.float32, 1e-5) if experts else (torch.float64, 1e-9)
    path, stock = source(tmp_path / "ar", family, dtype=dtype)
    convert(str(path), str(tmp_path / "ours"))
    model, _ = load(str(tmp_path / "ours"), dtype=dtype, device="cpu")
    ids = some_ids()
    with torch.no_grad():
        assert (model(input_ids=ids).logits - stock(input_ids=ids).logits).abs().max() <= tolerance
    banned = model.generation_config.suppress_tokens
    told = {"max_new_tokens": 12, "suppress_tokens": banned, "eos_token_id": None, "pad_token_id": 0}
    expected = stock.generate(input_ids=ids, do_sample=False, **told)
    assert torch.equal(model.generate(ids, mode="ar", max_new_tokens=12, eos_token_id=None).sequences, expected)


def test_in_float32_through_the_file(tmp_path):
    path, stock = source(tmp_path / "ar", "llama", dtype=torch.float32)
    convert(str(path), str(tmp_path / "ours"))
    model, _ = load(str(tmp_path / "ours"), dtype=torch.float32, device="cpu")
    with torch.no_grad():
        assert (model(input_ids=some_ids()).logits - stock(input_ids=some_ids()).logits).abs().max() <= 1e-4
    assert {p.dtype for p in converted(str(path))[0].parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "smollm", "gemma3_text"])  # untied, tied, scaled embeddings
def test_a_table_without_spare_rows_grows_by_their_mean(family, tmp_path):
    path, stock = source(tmp_path / "ar", family, spare=1)
    model, _ = converted(str(path))
    old, ids = stock.config.vocab_size, some_ids()
    table = model.get_input_embeddings().weight
    assert len(table) == old + 2 == model.config.text_config.vocab_size
    assert torch.allclose(table[old:], stock.get_input_embeddings().weight.mean(0).expand(2, -1), atol=1e-12)
    with torch.no_grad():
        assert (model(input_ids=ids).logits[..., :old] - stock(input_ids=ids).logits).abs().max() <= 1e-9
    kinds = model.config.conversion["tokens"]
    assert "spare row" in kinds["mask"] and "new row" in kinds["image"] and "new row" in kinds["video"]


def test_tokens_set_aside_are_used_before_rows(tmp_path):
    path, stock = source(tmp_path / "ar", extra=("<mask>", "<|reserved_token_0|>", "<|reserved_token_1|>"), spare=0)
    model, processor = converted(str(path))
    told = model.config.conversion["tokens"]
    assert told["mask"].startswith("<mask>") and "set aside" in told["image"] and "set aside" in told["video"]
    assert len(model.get_input_embeddings().weight) == stock.config.vocab_size
    assert processor.tokenizer.mask_token_id == model.config.traits.mask_token_id
    assert len({model.config.image_token_id, model.config.video_token_id, model.config.traits.mask_token_id}) == 3


def test_text_is_tokenised_as_before(tmp_path):
    path, _ = source(tmp_path / "ar")
    before = bare_tokenizer()
    convert(str(path), str(tmp_path / "ours"))
    _, processor = load(str(tmp_path / "ours"), device="cpu")
    for text in ("What color is it? red", "é 9 <mask ", ""):
        assert processor.tokenizer(text)["input_ids"] == before(text)["input_ids"]


TURNS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "plain": (),
}
RENDERED = {
    "chatml": "<|im_start|>user\nred green<|im_end|>\n<|im_start|>assistant\nblue<|im_end|>\n",
    "llama3": "<|begin|><|start_header_id|>user<|end_header_id|>\n\nred green<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nblue<|eot_id|>",
    "gemma": "<|begin|><start_of_turn>user\nred green<end_of_turn>\n<start_of_turn>model\nblue<end_of_turn>\n",
    "plain": "<|begin|>user:\nred green<|end|>\nassistant:\nblue<|end|>\n",
}


@pytest.mark.parametrize("turns", TURNS)
def test_the_turns_a_model_knows_are_written_and_its_answers_marked(turns, tmp_path):
    model, processor = converted(str(source(tmp_path / "ar", extra=TURNS[turns])[0]))
    encoded = processor.encode([*CHAT, {"role": "assistant", "content": "blue"}], [])
    assert processor.tokenizer.decode(encoded.input_ids) == RENDERED[turns]
    end = TURNS[turns][-1] if TURNS[turns] else "<|end|>"
    assert processor.tokenizer.decode(encoded.input_ids[encoded.is_answer]) == "blue" + end
    assert processor.tokenizer.convert_tokens_to_ids(end) in model.generation_config.eos_token_id
    prompt = processor.encode(CHAT, [], add_generation_prompt=True).input_ids
    assert encoded.input_ids[: len(prompt)].tolist() == prompt.tolist()


@pytest.mark.parametrize("choices, traits", [
    ({}, {"context_attention": "causal", "prediction_shift": 0, "block_size": 8, "ar_mode": True}),
    ({"context": "block_causal", "block_size": 4}, {"context_attention": "block_causal", "ar_mode": False}),
    ({"shift": 1, "block_size": 32}, {"prediction_shift": 1, "trained_block_sizes": (32,), "ar_mode": True}),
])  # fmt: skip
def test_choices_are_written_and_every_legal_mode_runs(choices, traits, tmp_path):
    path, _ = source(tmp_path / "ar")
    convert(str(path), str(tmp_path / "ours"), Choices(**choices))
    model, processor = load(str(tmp_path / "ours"), device="cpu")
    assert {name: getattr(model.config.traits, name) for name in traits} == traits
    assert model.config.conversion["chosen"] == Choices(**choices).traits
    for mode in ("block", "ar", "speculative") if traits["ar_mode"] else ("block",):
        config = settings(model, mode=mode, max_new_tokens=9)
        assert answer_batch(model, processor, [build_request(processor, CHAT, [])], config)[0].tokens <= 9


def test_a_text_model_says_that_it_reads_no_pictures(tmp_path):
    model, processor = converted(str(source(tmp_path / "ar")[0]))
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "red"}]}]
    with pytest.raises(ValueError, match="reads text only"):
        build_request(processor, ask, [Image.new("RGB", (8, 8))])
    with pytest.raises(ValueError, match="reads text only"):
        model.encode_media(torch.zeros(1, 3, 8, 8))


def siglip(path):
    torch.manual_seed(1)
    fields = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = SiglipVisionModel(SiglipVisionConfig(**fields, image_size=32, patch_size=16)).eval()
    tower.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4] * 3, "image_std": [0.3] * 3}))
    return tower


def test_a_vision_encoder_with_its_weights_is_put_before_it(tmp_path):
    path, stock = source(tmp_path / "ar", dtype=torch.float32)
    tower = siglip(tmp_path / "siglip")
    convert(str(path), str(tmp_path / "ours"), Choices(vision=f"siglip:{tmp_path / 'siglip'}"))
    model, processor = load(str(tmp_path / "ours"), dtype=torch.float32, device="cpu")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tower(pixels, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(model.vision_tower(pixels), expected, atol=1e-6)
        assert (model(input_ids=some_ids()).logits - stock(input_ids=some_ids()).logits).abs().max() <= 1e-4
    assert processor.vision_config["mean"] == [0.4] * 3 and processor.tokens_per_image == 4
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "red"}]}]
    request = build_request(processor, ask, [Image.fromarray(np.full((40, 30, 3), 200, np.uint8))])
    assert (request.input_ids == model.config.image_token_id).sum() == 4
    assert answer_batch(model, processor, [request], settings(model, max_new_tokens=4))[0].tokens <= 4


def test_a_new_timm_encoder_is_the_same_for_the_same_seed(tmp_path):
    path, _ = source(tmp_path / "ar", dtype=torch.float32)
    towers = [converted(str(path), Choices(vision="timm:resnet10t", image_size=32, seed=s))[0] for s in (0, 0, 1)]
    states = [{n: t for n, t in t.state_dict().items() if not n.startswith("language")} for t in towers]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not all(torch.equal(states[0][n], states[2][n]) for n in states[0])


def test_the_command(tmp_path, capsys):
    path, _ = source(tmp_path / "ar")
    assert main([str(path), str(tmp_path / "ours"), "--block-size", "4"]) == 0
    assert '"block_size": 4' in capsys.readouterr().out
    assert not list(tmp_path.glob("*.partial"))
    assert main([str(path), str(tmp_path / "ours")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and "exists already" in error and error.count("\n") == 1


def refused(path, *says, **choices):
    with pytest.raises(ValueError) as caught:
        converted(str(path), Choices(**choices))
    assert all(s in str(caught.value) for s in says) and "\n" not in str(caught.value), caught.value


def test_what_is_no_language_model_of_attention_is_refused(tmp_path):
    path, _ = source(tmp_path / "ar")
    config = json.loads((path / "config.json").read_text())
    cases = [
        ({"model_type": "dream"}, "Dream"),
        ({"model_type": "mystery", "auto_map": {"AutoModel": "x.Y"}}, "never run"),
        ({"model_type": "block_diffusion_vlm"}, "already"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    ]
    for change, says in cases:
        (path / "config.json").write_text(json.dumps({**config, **change}))
        refused(path, str(path), says)


def test_scaled_logits_are_refused(tmp_path):
    refused(source(tmp_path / "ar", "granite")[0], "granite", "scales its logits")


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    path, _ = source(tmp_path / "ar")
    tokenizer = bare_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(path)
    refused(path, "end")


@pytest.mark.parametrize("vision, says", [
    ("resnet18", "KIND:NAME"), ("vit:x", "unknown vision kind"), ("timm:resnet1888", "unknown timm model"),
    ("siglip:nowhere", "no such directory"),
])  # fmt: skip
def test_no_such_encoder(vision, says, tmp_path):
    refused(source(tmp_path / "ar")[0], says, vision=vision)


def test_pickled_towers_are_refused(tmp_path):
    siglip(tmp_path / "siglip")
    tensors = load_file(tmp_path / "siglip" / "model.safetensors")
    torch.save(tensors, tmp_path / "siglip" / "pytorch_model.bin")
    (tmp_path / "siglip" / "model.safetensors").unlink()
    refused(source(tmp_path / "ar")[0], "pickle", vision=f"siglip:{tmp_path / 'siglip'}")


def test_impossible_choices(tmp_path):
    path, _ = source(tmp_path / "ar")
    refused(path, "block_size 0", block_size=0)
    with pytest.raises(CheckpointError, match="nothing_here"):
        converted("nothing_here")
