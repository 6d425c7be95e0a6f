"""Half-downloaded, truncated and doctored directories, as a user meets them: one line on stderr and exit status 2.

What the loader alone refuses stands in `test_load` and `test_foreign`; here the commands are run on what those miss.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import infer
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, save, sdar
from tests.vlm.cli import lively
from vlm import convert, inspect
from vlm.checkpoints import complete
from vlm.checkpoints.files import CheckpointError, Tensor


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """A directory of ours and one of SDAR's."""
    folder = tmp_path_factory.mktemp("complete")
    lively.save(folder / "own")
    sdar(folder / "sdar", dtype=torch.float32)
    return folder


def fields(**changes):
    def change(path):
        config = json.loads((path / "config.json").read_text())
        found = {k: v for k, v in {**config, **changes}.items() if v is not None}
        (path / "config.json").write_text(json.dumps(found))

    return change


def written(name, text):
    return lambda path: (path / name).write_text(text)


def gone(name):
    return lambda path: (path / name).unlink()


def first_shard_gone(path):
    min(path.glob("*.safetensors")).unlink()


def integers(path):
    tensors = load_file(path / "model.safetensors")
    save_file({n: t.to(torch.int8) for n, t in tensors.items()}, path / "model.safetensors", metadata={"format": "pt"})


def without_mask(path):
    file = path / "tokenizer.json"
    found = json.loads(file.read_text())
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] != "<|MASK|>"]
    file.write_text(json.dumps(found))


INDEX = "model.safetensors.index.json"
BOTH = {  # kind, what is done to it, what both commands say
    "no tokenizer": ("own", gone("tokenizer.json"), ["no tokenizer.json"]),
    "no generation settings": ("own", gone("generation_config.json"), ["no generation_config.json"]),
    "no decoder": ("own", fields(text_config=None), ["no text_config"]),
    "a decoder of default sizes": ("own", fields(text_config={"model_type": "qwen3"}), ["151936", "larger model"]),
    "a size that is a word": ("own", fields(text_config={"model_type": "qwen3", "hidden_size": "w"}), ["hidden_size"]),
    "a trait that is a word": ("own", fields(diffusion={"block_size": "x"}), ["block_size 'x'", "whole number"]),
    "integer weights": ("own", integers, ["quantised weights", "I8"]),
    "an index of nothing": ("sdar", written(INDEX, "[]"), [INDEX, "weight_map"]),
    "an index without files": ("sdar", written(INDEX, '{"weight_map": []}'), [INDEX, "weight_map"]),
    "shards without their index": ("sdar", gone(INDEX), [INDEX, "names all the shards", "model-00001-of-"]),
    "a shard still loading": ("sdar", first_shard_gone, ["1 of ", "model-00001-of-"]),
    "sizes left out": ("sdar", fields(hidden_size=None, intermediate_size=None), ["hidden_size 4096", "larger model"]),
    "block size a word": ("sdar", fields(block_size="x"), ["block_size 'x'", "whole number"]),
    "a mask of no token": ("sdar", fields(mask_token_id=10**6), ["mask token 1000000", "tokenizer"]),
    "a tokenizer without the mask": ("sdar", without_mask, ["mask token", "not in the tokenizer"]),
}  # fmt: skip
LOADED = {  # what only loading can find
    "no heads": ("sdar", fields(num_attention_heads=0), ["not a usable checkpoint", "zero"]),
    "a broken chat template": ("own", written("chat_template.jinja", "{% if %}"), ["chat template"]),
}


def refused(capsys, status: int, says: list[str]) -> None:
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("error: "), err
    assert all(part in err for part in says), err


@pytest.mark.parametrize("name", BOTH | LOADED)
def test_one_line_and_no_answer(kinds, tmp_path, capsys, name):
    kind, change, says = (BOTH | LOADED)[name]
    path = shutil.copytree(kinds / kind, tmp_path / "m")
    change(path)
    capsys.readouterr()
    refused(capsys, infer.main(["--model", str(path), "--prompt", "red", "--max-new-tokens", "4"]), says)
    if name in BOTH:
        refused(capsys, inspect.main([str(path)]), [str(path), *says])


def test_what_is_sound_is_not_refused(kinds, capsys):
    for kind in ("own", "sdar"):
        assert infer.main(["--model", str(kinds / kind), "--prompt", "red", "--max-new-tokens", "2"]) == 0
        assert inspect.main([str(kinds / kind)]) == 0


def test_a_towers_counters_are_no_quantised_weights(tmp_path, capsys):
    """Batch norms count their batches in whole numbers."""
    save(language_model("qwen3", 320, torch.float32), bare_tokenizer(), tmp_path / "lm")
    assert convert.main([str(tmp_path / "lm"), str(tmp_path / "m"), "--vision", "timm:resnet10t"]) == 0
    assert any(tensor.dtype == torch.int64 for tensor in load_file(tmp_path / "m" / "model.safetensors").values())
    assert infer.main(["--model", str(tmp_path / "m"), "--prompt", "red", "--max-new-tokens", "2"]) == 0
    assert inspect.main([str(tmp_path / "m")]) == 0 and "timm resnet10t" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["llama", "smollm", "qwen3", "gemma3_text", "qwen3_moe"])
def test_a_models_own_numbers_are_never_too_few_for_its_config(family):
    model = language_model(family, 300, torch.float32)
    own = {name: Tensor(tuple(p.shape), "F32") for name, p in model.named_parameters()}
    complete.refuse_outsized("m", model.config, own)
    larger = model.config.__class__(**{**model.config.to_dict(), "hidden_size": 64 * model.config.hidden_size})
    with pytest.raises(CheckpointError, match="hidden_size 2048, 2 layers"):
        complete.refuse_outsized("m", larger, own)
