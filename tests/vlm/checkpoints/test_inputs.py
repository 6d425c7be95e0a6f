"""What `vlm.inspect` tells of tokenizer, turns and pictures, against the loaded model; and what does not fit together.

The oracle of a picture's tokens is the model: as many features come out of its tower and projector.
"""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import infer
from tests.vlm.checkpoints import llavas
from tests.vlm.checkpoints.composites import TINY
from tests.vlm.checkpoints.composites import made as converted
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, sdar
from tests.vlm.checkpoints.sources import save as save_text
from tests.vlm.checkpoints.wholes import FAMILIES
from tests.vlm.checkpoints.wholes import made as published
from tests.vlm.cli import lively
from vlm import inspect
from vlm.checkpoints import inputs
from vlm.checkpoints.describe import describe
from vlm.checkpoints.inputs import SIZES, contradictions
from vlm.composite import encode


def features(model, processor, size: tuple[int, int]) -> int:
    """How many embeddings the model makes of a picture."""
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color is it?"}]}]
    encoded = processor.encode(question, [Image.new("RGB", size, "red")], add_generation_prompt=True)
    with torch.no_grad():
        if encoded.media is None:
            return len(model.encode_media(torch.from_numpy(encoded.images)).flatten(0, 1))
        return sum(len(part) for part in encode(model, encoded.media.inputs)[0]["image"])


def told(model, processor, path) -> dict[str, tuple[str, str]]:
    found = describe(str(path)).inputs
    assert found.missing == ()
    for size in SIZES:
        assert found.read["image {} x {}".format(*size)][0] == f"{features(model, processor, size)} tokens"
    return found.read


@pytest.mark.parametrize("kind", FAMILIES)
def test_pictures_take_as_many_tokens_as_the_model_makes_features(kind, tmp_path_factory):
    _, model, processor, path = published(kind, tmp_path_factory)
    read = told(model, processor, path)
    assert read["chat template"][1] == "chat_template.jinja"
    assert read["image settings"][1] == "preprocessor_config.json"
    video = {"sdar_v": "video_preprocessor_config.json", "diffusionvl_qwenvl": None}
    expected = video.get(kind, "inferred: from preprocessor_config.json")
    assert read.get("video settings", (None, None))[1] == expected


def test_settings_that_stand_in_no_file(monkeypatch, tmp_path_factory):
    llavas.tiny_towers(monkeypatch)
    _, model, processor, path = llavas.make("llava_llada", tmp_path_factory)
    read = told(model, processor, path)
    assert {read[name][1] for name in ("vision", "image settings", "chat template")} == {"the code that trained it"}


@pytest.mark.parametrize("family", TINY)
def test_converted_and_to_be_converted(family, tmp_path_factory):
    """Of both the same is told, but for where it was found."""
    _, model, processor, path = converted(family, tmp_path_factory)
    ours, original = told(model, processor, path), told(model, processor, path.parent / "source")
    assert {k: v[0] for k, v in ours.items() if k != "tokenizer"} == {
        k: v[0] for k, v in original.items() if k != "tokenizer"
    }


def test_ours_and_language_models(tmp_path, capsys):
    lively.save(tmp_path / "own")
    told(*lively.lively_model(), tmp_path / "own")
    sdar(tmp_path / "sdar", dtype=torch.float32)
    save_text(language_model("llama", 320, torch.float32), bare_tokenizer(), tmp_path / "ar")
    for name, turns in (("sdar", "chatml"), ("ar", "plain")):
        assert inspect.main([str(tmp_path / name)]) == 0
        assert f"ours, {turns} turns (inferred" in capsys.readouterr().out


@pytest.mark.parametrize("family", TINY)
def test_every_field_that_is_compared_is_there_and_noticed(family, tmp_path_factory, monkeypatch):
    model, processor = converted(family, tmp_path_factory)[1:3]
    fits = inputs._FITS[family](model.config.composite_config)
    assert fits and contradictions(model.config, processor) == []
    for path in fits:
        monkeypatch.setitem(inputs._FITS, family, lambda config, path=path: {**fits, path: -7})
        found = contradictions(model.config, processor)
        assert [line.partition(" is ")[0] for line in found] == [path] and "the model's -7" in found[0]


def fields(name: str, **changes):
    def change(path):
        found = {**json.loads((path / name).read_text()), **changes}
        (path / name).write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return change


def gone(name: str):
    return lambda path: (path / name).unlink()


PIXELS = "preprocessor_config.json"
UNFIT = {  # kind, what is done to its directory, what is told
    "patches": ("fast_dvlm", fields(PIXELS, patch_size=8), ["image_processor.patch_size is 8, the model's 4"]),
    "a picture's side": ("sdar_v", fields(PIXELS, size={"height": 32, "width": 32}), ["height is 32, the model's 16"]),
    "tiles": ("sdar_v", fields(PIXELS, image_grid_pinpoints=[[16, 16]]), ["image_grid_pinpoints is [[16, 16]]"]),
    "placeholders": ("bard_vl", fields("config.json", image_token_id=9), ["image_token_id is", "the model's 9"]),
    "placeholders by default": ("sdar_v", gone("processor_config.json"), ["image_token_id is None, the model's"]),
    "placeholders of ours": ("own", fields("config.json", image_token_id=9), ["image_token_id is", "the model's 9"]),
    "no pixel settings": ("bard_vl", gone(PIXELS), ["no usable processor"]),
    "no template": ("diffusionvl_qwenvl", gone("chat_template.jinja"), ["no chat template"]),
    "no settings of ours": ("own", gone("processor_config.json"), ["processor_config.json is missing"]),
}


def copied(kind: str, tmp_path, factory):
    if kind == "own":
        lively.save(tmp_path / "m")
        return tmp_path / "m"
    return shutil.copytree(published(kind, factory).path, tmp_path / "m")


def asked(path, *more: str) -> int:
    return infer.main(["--model", str(path), "--prompt", "red", "--max-new-tokens", "4", *more])


def error(capsys) -> str:
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == "" and len(lines) == 1 and err.endswith(lines[0] + "\n"), err
    return lines[0]


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_load_is_refused_with_the_same_line(name, tmp_path, tmp_path_factory, capsys):
    kind, change, says = UNFIT[name]
    path = copied(kind, tmp_path, tmp_path_factory)
    change(path)
    capsys.readouterr()
    assert asked(path) == 2
    line = error(capsys)
    assert all(part in line for part in [*says, str(path)]), line
    assert inspect.main([str(path)]) == 2 and error(capsys) == line


def test_what_is_missing_and_loads_is_told(tmp_path, tmp_path_factory, capsys):
    path = copied("own", tmp_path, None)
    gone("chat_template.jinja")(path)
    assert inspect.main([str(path)]) == 0 and "missing   no chat template" in capsys.readouterr().out
    assert asked(path) == 2 and "no chat template" in error(capsys)
    original = shutil.copytree(converted("gemma3", tmp_path_factory).path.parent / "source", tmp_path / "ar")
    assert inspect.main([str(original)]) == 0 and "\nmissing " not in capsys.readouterr().out
    for file in original.glob("*processor_config.json"):
        file.unlink()
    assert inspect.main([str(original)]) == 0 and "\nmissing " in capsys.readouterr().out


def test_quantised_weights_of_others(tmp_path, capsys):
    sdar(tmp_path / "m", dtype=torch.float32)
    shard = min((tmp_path / "m").glob("*.safetensors"))
    tensors = {name: tensor.to(torch.int8) for name, tensor in load_file(shard).items()}
    save_file(tensors, shard, metadata={"format": "pt"})
    capsys.readouterr()
    assert inspect.main([str(tmp_path / "m")]) == 2 and "quantised weights (I8" in error(capsys)


@pytest.mark.parametrize("mode", ["block", "ar", "speculative"])
@pytest.mark.parametrize("place", ["layers.1.mlp.down_proj.weight", "lm_head.weight", "projector.linear_2.weight"])
def test_weights_that_are_not_numbers(place, mode, tmp_path, capsys):
    """An answer would be empty, or any: no token is more probable than another."""
    path = tmp_path / "m"
    lively.save(path)
    tensors = load_file(path / "model.safetensors")
    name = next(n for n in tensors if n.endswith(place if "lm_head" not in place else "embed_tokens.weight"))
    tensors[name][-1, 0] = torch.nan
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    capsys.readouterr()
    assert asked(path, "--image", str(tmp_path / "a.png"), "--mode", mode) == 2
    assert "the model computes NaN" in error(capsys)
