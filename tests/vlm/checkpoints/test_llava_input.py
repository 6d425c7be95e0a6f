"""Directories of LLaVA's code: names and sizes, what is written and told of them, what is wrong told in one line."""

import json
import re
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import infer
from tests.vlm.checkpoints.composites import chat, decoded, picture
from tests.vlm.checkpoints.llavas import (
    BLOCK,
    GRIDS,
    KINDS,
    PICTURES,
    PUBLISHED,
    SIDE,
    asked,
    config_of,
    conversations,
    make,
    published,
    save,
    tiny_towers,
)
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model
from tests.vlm.checkpoints.sources import save as save_model
from tests.vlm.checkpoints.test_whole_input import refused
from vlm.checkpoints.convert import convert
from vlm.checkpoints.describe import describe
from vlm.checkpoints.llava import pinpoints
from vlm.checkpoints.load import load
from vlm.checkpoints.whole import whole_config


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        tiny_towers(patch)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return partial(make, factory=tmp_path_factory)


@pytest.mark.parametrize("kind", KINDS)
def test_what_convert_writes_answers_alike(kind, made, tmp_path):
    _, model, processor, path = made(kind)
    convert(str(path), str(tmp_path / "ours"))
    again, its_processor = load(str(tmp_path / "ours"), dtype=torch.float64, device="cpu")
    ours, theirs = again.language_model.state_dict(), model.language_model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.config.diffusion == model.config.diffusion
    quick = {"max_new_tokens": 4, "block_size": BLOCK, "policy": "static", "denoising_steps": 2}
    request, text = asked(processor, PICTURES[2]), asked(processor)
    found = decoded(again, [asked(its_processor, PICTURES[2]), asked(its_processor)], **quick)
    assert found == decoded(model, [request, text], **quick)


def test_the_command_line_answers_about_a_picture(made, tmp_path, capsys):
    _, _, _, path = made("llava_llada")
    PICTURES[0].save(tmp_path / "x.png")
    ask = ["--model", str(path), "--image", str(tmp_path / "x.png"), "--prompt", "What color?", "--device", "cpu"]
    assert infer.main([*ask, "--json", "--max-new-tokens", "8", "--block-size", "8"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mode"] == "block" and 0 < told["tokens"] <= 8
    assert infer.main([*ask, "--mode", "ar"]) == 2 and "AR mode" in capsys.readouterr().err


def test_what_its_sampler_never_writes_is_held_back(made):
    _, model, processor, _ = made("llava_llada")
    held = processor.tokenizer.convert_ids_to_tokens(model.generation_config.suppress_tokens)
    assert set(held) == {"<|mdm_mask|>", "<|startoftext|>", "<|endoftext|>", "<|start_header_id|>",
                         "<|end_header_id|>", "<|reserved_token_0|>", "<|reserved_token_1|>"}  # fmt: skip
    ends = processor.tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert "<|eot_id|>" in ends and model.config.traits.block_size == 128
    encoded = conversations(processor, 2)[0]
    assert processor.tokenizer.decode(encoded.input_ids[encoded.is_answer]) == "It is red.<|eot_id|>"


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_tells_what_was_read(kind, made):
    _, model, _, path = made(kind)
    found = describe(str(path))
    assert found.family == kind and found.traits == model.config.traits
    assert found.backbone == "llava_onevision" and set(found.parts) == {"vision_tower", "projector", "language_model"}
    assert found.parts["projector"][0] == 16 * 32 + 32 + 32 * 32 + 32
    legal = {mode for mode, reason in found.modes.items() if reason is None}
    assert legal == {"block"}
    where = "the family's default" if kind == "llava_llada" else "config.json"
    assert found.origins["block_size"] == where


def published_names(layers: int, projections: tuple[str, ...]) -> set[str]:
    """As LLaVA's classes have them, with a SigLIP so400m tower without its last layer."""
    parts = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "layer_norm1",
             "layer_norm2", "mlp.fc1", "mlp.fc2")  # fmt: skip
    both = ("weight", "bias")
    tower = {f"encoder.layers.{n}.{part}.{kind}" for n in range(26) for part in parts for kind in both}
    tower |= {f"embeddings.patch_embedding.{kind}" for kind in both} | {f"post_layernorm.{kind}" for kind in both}
    tower |= {"embeddings.position_embedding.weight"}
    names = {f"model.vision_tower.vision_tower.vision_model.{name}" for name in tower} | {"model.image_newline"}
    names |= {f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in both}
    inside = ("input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight", *projections,
              *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")))  # fmt: skip
    names |= {f"model.layers.{n}.{name}" for n in range(layers) for name in inside}
    return names | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


@pytest.mark.parametrize("kind", ["llava_llada", "diffusionvl_qwen"])
def test_the_published_sizes_make_the_published_tensors(kind):
    """LLaDA-8B's config and its 291 names, Qwen2.5-7B's; the tower is what LLaVA's code builds."""
    family = PUBLISHED[kind]
    sizes = {
        "llava_llada": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "vocab_size": 126464,
                        "num_attention_heads": 32, "num_key_value_heads": 32},
        "diffusionvl_qwen": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                             "vocab_size": 152064, "num_attention_heads": 28, "num_key_value_heads": 4},
    }[kind]  # fmt: skip
    raw = {**config_of(kind, 1), **sizes, "mm_hidden_size": 1152, "image_grid_pinpoints": "(1x1),...,(6x6)"}
    config = whole_config("published", raw, family)
    assert config.image_grid_pinpoints[:2] == [[384, 384], [768, 384]] and len(config.image_grid_pinpoints) == 36
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    kinds = ("weight",) if kind == "llava_llada" else ("weight", "bias")
    projections = tuple(f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in kinds)
    names = published_names(sizes["num_hidden_layers"], projections)
    assert (
        kind != "llava_llada" or sum("vision" not in n and "mm_" not in n and "newline" not in n for n in names) == 291
    )

    def renamed(name: str) -> str:
        return next((re.sub(old, new, name) for old, new in family.names.items() if re.search(old, name)), name)

    tensors = model.state_dict()
    assert {renamed(name) for name in names} == set(tensors)
    assert tensors["model.vision_tower.embeddings.position_embedding.weight"].shape == (729, 1152)


def test_grids_of_tiles_are_told_in_three_ways():
    pairs = [[SIDE * x, SIDE * y] for x, y in [(1, 1), (1, 2), (2, 1)]]
    flipped = [[height, width] for width, height in pairs]
    assert pinpoints("m", pairs, SIDE) == pinpoints("m", str(pairs), SIDE) == flipped
    ranged = pinpoints("m", "(1x1),...,(3x3)", SIDE)
    assert sorted(ranged) == sorted([SIDE * y, SIDE * x] for x, y in GRIDS)
    assert pinpoints("m", "(1x2),...,(1x4)", SIDE) == [[SIDE * y, SIDE] for y in (2, 3, 4)]


def test_what_is_wrong_is_one_line(made, tmp_path):
    for number, (field, value) in enumerate([
        ("mm_projector_type", "mlp3x_gelu"), ("mm_patch_merge_type", "flat"), ("mm_vision_select_layer", -1),
        ("image_aspect_ratio", "pad"), ("mm_hidden_size", 1024), ("image_grid_pinpoints", 3), ("enable_bd3lm", False),
    ]):  # fmt: skip
        path = tmp_path / str(number)
        save("diffusionvl_qwen", path, **{field: value})
        refused(path, field, repr(value))
    path = tmp_path / "tensors"
    parts = save("llava_llada", path)
    tensors = published(parts)
    del tensors["model.mm_projector.2.bias"]
    tensors["model.vision_tower.vision_tower.vision_model.encoder.layers.2.layer_norm1.bias"] = torch.ones(16)
    tensors["model.image_newline"] = torch.ones(3)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    refused(path, "multi_modal_projector.linear_2.bias is missing", "encoder.layers.2.layer_norm1.bias",
            "image_newline has shape [3], expected [32]")  # fmt: skip
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "x.safetensors"}}))
    refused(path, "1 of 1 shards", "x.safetensors")
    (path / "model.safetensors.index.json").unlink()
    bare_tokenizer("<|mdm_mask|>", "<|end_header_id|>").save_pretrained(path)
    refused(path, "lacks <|start_header_id|>, <|eot_id|>")
    _, _, processor, _ = made("llava_llada")
    with pytest.raises(ValueError, match="takes images only, no videos"):
        processor.encode(chat("video"), [[picture(16, 16)] * 2])


def test_no_tensor_of_a_directory_is_left_behind(made):
    _, model, _, path = made("llava_llada")
    stored = load_file(path / "model.safetensors")
    ours = model.language_model.state_dict()
    assert sum(t.numel() for t in stored.values()) == sum(t.numel() for t in ours.values()) and len(stored) == len(
        ours
    )


def test_the_decoder_that_llada_v_starts_from_loads_as_llada(tmp_path):
    """The project's script gives LLaDA Llama's names and fields under LLaDA's type."""
    tokenizer = bare_tokenizer("<|mdm_mask|>")
    stock = language_model("llama", len(tokenizer) + 9, num_key_value_heads=4)
    theta = {"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": None, "pretraining_tp": 1}
    mask = tokenizer.convert_tokens_to_ids("<|mdm_mask|>")
    save_model(stock, tokenizer, tmp_path / "m", model_type="llada", mask_token_id=mask, **theta)
    model, _ = load(str(tmp_path / "m"), dtype=torch.float64, device="cpu")
    ids, everywhere = torch.arange(20, 29)[None], torch.ones(1, 1, 9, 9, dtype=torch.bool)
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=everywhere).logits
        assert (model(input_ids=ids).logits - expected).abs().max() <= 1e-9
    assert model.config.traits.context_attention == "full"
