"""Directories of whole models of other projects: variants that load, and what is wrong told in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.vlm.checkpoints.wholes import BLOCK, FAMILIES, bard_vl, diffusionvl, fast_dvlm, made, sdar_vl
from vlm.checkpoints.convert import Choices, converted
from vlm.checkpoints.describe import describe
from vlm.checkpoints.load import load
from vlm.checkpoints.whole import whole_config
from vlm.checkpoints.whole_families import WHOLE


def refused(path, *says, door=lambda path: load(str(path), device="cpu")):
    with pytest.raises(ValueError) as caught:
        door(path)
    message = str(caught.value)
    assert str(path) in message and all(part in message for part in says) and "\n" not in message, message


def test_sdar_vl_under_the_names_it_has_in_memory(tmp_path):
    """A trained checkpoint's index has LLaVA's old names, its own class the new ones: both load."""
    stock = sdar_vl(tmp_path / "m", names=[])
    assert "model.language_model.norm.weight" in load_file(tmp_path / "m" / "model.safetensors")
    model, _ = load(str(tmp_path / "m"), dtype=torch.float64, device="cpu")
    theirs = stock.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.language_model.state_dict().items())


@pytest.mark.parametrize("kind", ["diffusionvl_qwenvl", "bard_vl"])
def test_a_mask_that_no_token_has_is_given_one(kind, tmp_path_factory):
    """The row of the table that training used, whatever the tokenizer ends with; no other token changes."""
    _, model, processor, path = made(kind, tmp_path_factory)
    mask, tokenizer = model.config.traits.mask_token_id, processor.tokenizer
    before = json.loads((path / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in before["added_tokens"]} | before["model"]["vocab"]
    assert max(ids.values()) + 1 < mask == tokenizer.mask_token_id and mask in model.generation_config.suppress_tokens
    assert all(tokenizer.convert_tokens_to_ids(token) == id for token, id in ids.items())
    assert tokenizer.decode([*range(max(ids.values()) + 1, mask + 1)], skip_special_tokens=True) == ""


def test_blocks_that_the_config_does_not_say(tmp_path_factory, caplog):
    path = made("bard_vl", tmp_path_factory).path
    assert load(str(path), device="cpu")[0].config.traits.block_size == 32
    assert "block_size is 32, from the family's default" in caplog.text and "B4 to B32" in caplog.text
    assert converted(str(path), Choices(block_size=16))[0].config.traits.trained_block_sizes == (16,)


@pytest.mark.parametrize("kind", FAMILIES)
def test_inspect_tells_what_was_read(kind, tmp_path_factory):
    _, model, _, path = made(kind, tmp_path_factory)
    found = describe(str(path))
    assert found.family == kind and found.traits == model.config.traits
    said = {"fast_dvlm": ("config.json", "the tokenizer"), "bard_vl": ("the family's default", "config.json")}
    expected = said.get(kind, ("config.json", "config.json"))
    assert (found.origins["block_size"], found.origins["mask_token_id"]) == expected
    legal = {mode for mode, reason in found.modes.items() if reason is None}
    assert legal == ({"block", "ar", "speculative"} if kind == "fast_dvlm" else {"block"})
    assert sum(count for count, _ in found.parts.values()) == sum(
        tensor.numel() for tensor in load_file(path / "model.safetensors").values()
    )


def test_what_a_config_may_not_say(tmp_path):
    diffusionvl(tmp_path / "ar", enable_bd3lm=False)
    refused(tmp_path / "ar", "enable_bd3lm False is not supported")
    bard_vl(tmp_path / "blind", vision_config=None)
    refused(tmp_path / "blind", "no vision_config")
    fast_dvlm(tmp_path / "mask", mask_token_id=4000)
    refused(tmp_path / "mask", "4000", "embedding table")


def test_files_that_are_not_there(tmp_path):
    path = tmp_path / "m"
    fast_dvlm(path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.visual.merger.mlp.2.bias"] = torch.ones(3)
    del tensors["model.language_model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    refused(path, "layers.1.mlp.up_proj.weight is missing", "merger.mlp.2.bias has shape [3], expected [32]")
    (path / "preprocessor_config.json").unlink()
    refused(path, "no usable processor")
    for file in path.glob("chat_template*"):
        file.unlink()
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": None}))
    refused(path, "no chat template")
    (path / "tokenizer.json").unlink()
    refused(path, "no tokenizer.json")


def test_a_tower_beside_its_own_is_refused(tmp_path_factory):
    path = made("sdar_v", tmp_path_factory).path
    choices = Choices(vision="timm:resnet18", block_size=BLOCK)
    refused(path, "sees pictures itself", door=lambda path: converted(str(path), choices))


def test_sdar_vls_published_config_makes_the_published_tensors():
    """Fields as in the project's 8B config; its index of the 4B, of as many layers, lists 841 tensors."""
    text = {"model_type": "sdar", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
            "rope_theta": 1000000, "rope_scaling": None, "block_size": 4, "mask_token_id": 151669, "use_deepep": False,
            "sliding_window": None, "max_position_embeddings": 32768, "eos_token_id": 151643}  # fmt: skip
    vision = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 384,
              "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14,
              "vision_use_head": False}  # fmt: skip
    raw = {"model_type": "sdar_v", "text_config": text, "vision_config": vision, "image_token_index": 151655,
           "video_token_index": 151656, "vision_feature_layer": -1, "hidden_size": 4096, "ignore_index": -100,
           "tie_word_embeddings": False, "image_grid_pinpoints": [[384, 384], [384, 768]]}  # fmt: skip
    config = whole_config("published", raw, WHOLE["sdar_v"])
    with torch.device("meta"):
        tensors = AutoModelForImageTextToText.from_config(config).state_dict()
    assert len(tensors) == 841 and config.text_config.rope_parameters["rope_theta"] == 1000000
    assert tensors["model.vision_tower.embeddings.position_embedding.weight"].shape == (729, 1152)
    assert tensors["model.multi_modal_projector.linear_1.weight"].shape == (4096, 1152)


def test_fast_dvlms_flat_config_is_read_as_transformers_reads_qwens():
    """The 3B's sizes, of which its config has the fields of Qwen2.5-VL beside its own."""
    qwen = {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936,
            "max_window_layers": 70, "use_sliding_window": False, "sliding_window": 32768, "image_token_id": 151655,
            "vision_config": {"depth": 32, "hidden_size": 1280, "out_hidden_size": 2048, "in_chans": 3}}  # fmt: skip
    found = whole_config("published", {"model_type": "fast_dvlm", "bd_size": 32, **qwen}, WHOLE["fast_dvlm"])
    stock = AutoConfig.for_model("qwen2_5_vl", **qwen)
    assert found.text_config.to_dict() == stock.text_config.to_dict()
    assert found.tie_word_embeddings and found.image_token_id == 151655
    ours, theirs = found.vision_config.to_dict(), stock.vision_config.to_dict()
    assert all(ours[name] == theirs[name] for name in ours)
