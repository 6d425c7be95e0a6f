"""A sound directory loads as it was saved; anything else is one line that names the directory and what is wrong in it.

Adapters: PEFT's own model, before it is saved, is the oracle for the merged one.
"""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests.vlm.tiny import tiny_model
from vlm.checkpoints.load import CheckpointError, base_of, load

TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("load") / "model"
    for part in tiny_model(dtype=torch.float32):
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """A perturbed LoRA adapter with its projector, and the logits of PEFT's own model."""
    path = tmp_path_factory.mktemp("load") / "adapter"
    model = get_peft_model(
        tiny_model(dtype=torch.float32)[0],
        LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["projector"]),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(path)
    return path, model.eval()(**inputs(model.config)).logits.detach()


@pytest.fixture
def model_copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def adapter_copy(adapter, tmp_path):
    return shutil.copytree(adapter[0], tmp_path / "adapter")


def inputs(config) -> dict:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, 250, (1, 12), generator=generator)
    ids[0, 1:5] = config.image_token_id
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32, generator=generator)}


def logits(path, **kwargs) -> torch.Tensor:
    model, _ = load(str(path), **kwargs)
    assert not model.training
    with torch.no_grad():
        return model(**inputs(model.config)).logits


def refused(*says: str, **arguments) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(**{name: str(value) for name, value in arguments.items()})
    message = str(caught.value)
    assert all(str(part) in message for part in says) and "\n" not in message, message


def edit(path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_saved_model_is_the_model(saved):
    model, processor = tiny_model(dtype=torch.float32)
    loaded, again = load(str(saved))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_the_dtype_asked_for(saved):
    assert {p.dtype for p in load(str(saved), dtype=torch.bfloat16)[0].parameters()} == {torch.bfloat16}


def test_no_such_directory(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    refused("no such model directory", "nothing_here", model="nothing_here")
    refused("no such model directory", file, model=file)
    refused("no such model directory", tmp_path / "a/b", model=tmp_path / "a/b")
    refused(tmp_path, "config.json", model=tmp_path)


def test_a_hub_id_out_of_reach():
    refused("someone/something", model="someone/something")  # conftest.py keeps the hub out of reach


@pytest.mark.parametrize("name", ["language_model.model.norm.weight", "projector.layers.0.weight"])
def test_a_missing_tensor_is_named(model_copy, name):
    name = name if name in load_file(model_copy / WEIGHTS) else first_of(model_copy, name.split(".")[0])
    edit(model_copy / WEIGHTS, lambda tensors: tensors.pop(name))
    refused(model_copy, name, "missing", model=model_copy)


def first_of(path, prefix: str) -> str:
    return next(name for name in load_file(path / WEIGHTS) if name.startswith(prefix))


def test_a_misshapen_tensor_is_named_with_both_shapes(model_copy):
    name = "language_model.model.norm.weight"
    edit(model_copy / WEIGHTS, lambda tensors: tensors.update({name: torch.zeros(33)}))
    refused(model_copy, name, "[33]", "[32]", model=model_copy)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(model_copy, share):
    path = model_copy / WEIGHTS
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, model=model_copy)


def test_pickled_weights_are_never_read(model_copy):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    torch.save({"weights": Trap()}, model_copy / "pytorch_model.bin")
    (model_copy / WEIGHTS).unlink()
    refused(model_copy, "safetensors", model=model_copy)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"a": 1'])
def test_a_file_missing_or_damaged(model_copy, file, text):
    (model_copy / file).unlink() if text is None else (model_copy / file).write_text(text)
    refused(model_copy, model=model_copy)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"diffusion": {"block_size": 8, "no_such_trait": 1}}, "no_such_trait"),
        ({"diffusion": {"block_size": 8, "noise": "loud"}}, "loud"),
        ({"text_config": {"model_type": "no_such_model"}}, "no_such_model"),
        ({"vision_config": {"kind": "timm"}}, "vision config"),
        ({"model_type": "qwen3"}, "qwen3"),
    ],
)
def test_a_config_of_something_else(model_copy, change, says):
    path = model_copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refused(model_copy, says, model=model_copy)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(saved, device):
    with pytest.raises(ValueError, match=device) as caught:
        load(str(saved), device=device)
    assert "\n" not in str(caught.value)


def test_an_adapter_merged_is_the_adapted_model(saved, adapter):
    path, expected = adapter
    base, merged = logits(saved), logits(saved, adapter=str(path))
    assert (merged - expected).abs().max() <= 1e-4
    assert (base - expected).abs().max() > 0.1
    assert {p.name for p in path.iterdir()} >= {ADAPTER, "adapter_config.json"}


def test_the_adapter_carries_its_projector(saved, adapter_copy):
    before = logits(saved, adapter=str(adapter_copy))
    edit(adapter_copy / ADAPTER, lambda tensors: [t.mul_(2) for name, t in tensors.items() if "projector" in name])
    assert (logits(saved, adapter=str(adapter_copy)) - before).abs().max() > 1e-3


def test_not_an_adapter(saved, tmp_path, adapter_copy):
    refused("nothing_here", model=saved, adapter="nothing_here")
    refused(tmp_path, model=saved, adapter=tmp_path)
    refused(saved, "not an adapter", model=saved, adapter=saved)
    (adapter_copy / "adapter_config.json").write_text("{}")
    refused(adapter_copy, model=saved, adapter=adapter_copy)


def test_an_adapter_with_pickled_weights_only(saved, adapter_copy):
    torch.save({}, adapter_copy / "adapter_model.bin")
    (adapter_copy / ADAPTER).unlink()
    refused(adapter_copy, ADAPTER, model=saved, adapter=adapter_copy)


def some(path) -> str:
    return sorted(load_file(path / ADAPTER))[0]


@pytest.mark.parametrize("change", ["missing", "misshapen", "unknown", "truncated"])
def test_an_adapter_that_does_not_fit(saved, adapter_copy, change):
    path, name = adapter_copy / ADAPTER, some(adapter_copy)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
        refused(path, model=saved, adapter=adapter_copy)
        return
    changes = {
        "missing": lambda tensors: tensors.pop(name),
        "misshapen": lambda tensors: tensors.update({name: torch.zeros(3, 3)}),
        "unknown": lambda tensors: tensors.update({"base_model.model.elsewhere.lora_A.weight": torch.zeros(3, 3)}),
    }
    edit(path, changes[change])
    stem = {"unknown": "elsewhere"}.get(change, name.removesuffix(".weight"))
    refused(adapter_copy, stem, model=saved, adapter=adapter_copy)


def name_base(adapter, base) -> None:
    """Write ``base`` as what the adapter was trained on."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))


def test_without_a_model_an_adapter_has_the_base_that_it_names(saved, adapter, adapter_copy, monkeypatch):
    """The embedded model only where the adapter names that, wherever it was installed then."""
    monkeypatch.setattr("vlm.checkpoints.load.EMBEDDED", saved.parent / "nowhere" / "vlm" / "assets" / "demo")
    name_base(adapter_copy, str(saved))
    found, _ = load(None, str(adapter_copy))
    with torch.no_grad():
        assert (found(**inputs(found.config)).logits - adapter[1]).abs().max() < 1e-4
    assert load(str(saved), str(adapter_copy))[0].config.name_or_path == str(saved)
    name_base(adapter_copy, "/of/another/machine/vlm/assets/demo")
    assert base_of(str(adapter_copy)) == str(saved.parent / "nowhere" / "vlm" / "assets" / "demo")


@pytest.mark.parametrize("base", ["/not/here", "", None])
def test_an_adapter_whose_base_is_not_here_is_refused_without_a_model(saved, adapter_copy, base):
    name_base(adapter_copy, base)
    refused(adapter_copy, repr(base) if base else "does not say", "name it with --model", adapter=adapter_copy)
    load(str(saved), str(adapter_copy))
