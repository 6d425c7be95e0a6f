"""DiffusionGemma's directory: what is wrong in one is a line; what `vlm.inspect` tells; ours point to infer.py."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DiffusionGemmaForBlockDiffusion

import infer
from tests.vlm.checkpoints import gemma
from vlm import inspect
from vlm.checkpoints.load import CheckpointError, load


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("diffusion_gemma") / "model"
    gemma.save(path, use_bidirectional_attention="vision")
    return path


def without(name):
    return lambda path: (path / name).unlink()


def tensors(change):
    def edit(path):
        found = load_file(path / "model.safetensors")
        change(found)
        save_file(found, path / "model.safetensors", metadata={"format": "pt"})

    return edit


def config(name, **fields):
    def edit(path):
        found = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({**found, **fields}))

    return edit


BROKEN = {
    "no weights": (without("model.safetensors"), "no .safetensors"),
    "no ends": (config("generation_config.json", eos_token_id=None), "no token that ends"),
    "no settings": (without("generation_config.json"), "no generation_config.json"),
    "no tokenizer": (without("tokenizer.json"), "no tokenizer.json"),
    "no processor": (without("processor_config.json"), "not a usable checkpoint"),
    "no template": (without("chat_template.jinja"), "no chat template"),
    "missing": (tensors(lambda t: t.pop("model.decoder.self_conditioning.pre_norm.weight")),
                "tensor model.decoder.self_conditioning.pre_norm.weight is missing"),
    "extra": (tensors(lambda t: t.update(odd=torch.zeros(1))), "tensor odd is not part"),
    "misshapen": (tensors(lambda t: t.update({"model.decoder.norm.weight": torch.zeros(5)})), "[5], expected [32]"),
    "quantised": (config("config.json", quantization_config={"quant_method": "fp8"}), "quantised weights"),
    "image token": (config("config.json", image_token_id=3), "the image token is 3"),
    "bad config": (config("config.json", text_config={"hidden_size": "wide"}), "not a usable checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_directory_is_one_line(model, tmp_path, capsys, name):
    path = shutil.copytree(model, tmp_path / "bad")
    change, says = BROKEN[name]
    change(path)
    capsys.readouterr()
    status = infer.main(["--model", str(path), "--prompt", "red"])
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1) and str(path) in err and says in err, err


def test_inspect_tells_that_decoding_is_its_own(model, capsys):
    assert inspect.main([str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["family"], found["backbone"]) == ("diffusion_gemma", "diffusion_gemma_text")
    assert found["modes"]["block"] is None and found["modes"]["ar"] and found["traits"] is None
    assert "its own generate" in found["note"] and "canvases of 8 tokens" in found["note"] and "whole" in found["note"]
    encoder = DiffusionGemmaForBlockDiffusion.from_pretrained(model).model.encoder
    for part, module in {"vision_tower": encoder.vision_tower, "projector": encoder.embed_vision}.items():
        assert found["parts"][part][0] == sum(p.numel() for p in module.parameters()), part
    assert inspect.main([str(model)]) == 0 and "its own generate" in capsys.readouterr().out


def test_the_loader_of_ours_says_where_to_go(model):
    with pytest.raises(CheckpointError, match="infer.py --model DIR runs it"):
        load(str(model))
