"""Weights on their way from the files: the same numbers mapped or read, and no second copy in memory."""

import gc

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.load import read_every_page, resident, write
from benchmarks.training_memory import Peak
from tests.vlm.checkpoints.sources import sdar
from tests.vlm.tiny import tiny_model
from vlm.checkpoints.files import CheckpointError, shards
from vlm.checkpoints.load import load
from vlm.checkpoints.reading import weights_of

NARROW = {"model_type": "qwen3", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 36, "head_dim": 64,
          "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 8000, "max_position_embeddings": 64,
          "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory of several shards in bfloat16, with a vision tower."""
    path = tmp_path_factory.mktemp("reading") / "model"
    model, processor = tiny_model(dtype=torch.bfloat16)
    model.save_pretrained(path, max_shard_size="40KB")
    processor.save_pretrained(path)
    assert len(shards(path)) > 1
    return path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_tensor_is_the_files_in_the_dtype_asked_for(saved, dtype):
    tensors = {name: tensor for file in shards(saved) for name, tensor in load_file(file).items()}
    model, _ = load(str(saved), dtype=dtype, device="cpu")
    state = model.state_dict()
    for name, tensor in tensors.items():
        assert state[name].dtype == dtype and torch.equal(state[name], tensor.to(dtype)), name
    tied = model.language_model
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert model.name_or_path == model.config.name_or_path == str(saved)
    assert model.generation_config.to_dict() == tiny_model(dtype=dtype)[0].generation_config.to_dict()
    assert not any(parameter.is_meta for parameter in [*model.parameters(), *model.buffers()])


def test_another_projects_tensors_are_converted_too(tmp_path):
    stock = sdar(tmp_path / "sdar", dtype=torch.bfloat16)
    model, _ = load(str(tmp_path / "sdar"), dtype=torch.float32, device="cpu")
    ours = model.language_model.state_dict()
    assert all(torch.equal(ours[name], tensor.float()) for name, tensor in stock.state_dict().items())


def test_files_are_mapped_in_their_own_dtype_only(saved):
    for dtype in (torch.bfloat16, "auto"):
        assert weights_of(str(saved), dtype) == {"pretrained_model_name_or_path": str(saved)}
    given = weights_of(str(saved), torch.float32)
    assert given["pretrained_model_name_or_path"] is None
    assert given["state_dict"].keys() == {name for file in shards(saved) for name in load_file(file)}


def test_a_missing_shard_is_told_before_anything_is_read(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shards(tmp_path)[0].unlink()
    with pytest.raises(CheckpointError, match="1 of . shards"):
        weights_of(str(tmp_path), torch.float32)


@pytest.mark.parametrize("dtype, most", [(torch.bfloat16, 1.3), (torch.float32, 2.5)])
def test_loading_holds_the_weights_once(tmp_path, dtype, most):
    """In float32 they are twice the file; with the file mapped beside them it would be three times."""
    write(tmp_path / "model", NARROW, 16 * 2**20)
    size = sum(path.stat().st_size for path in shards(tmp_path / "model"))
    load(str(tmp_path / "model"), dtype=dtype, device="cpu")  # what every first load brings is not the weights'
    gc.collect()
    before, peak = resident(), Peak("cpu")
    model, _ = load(str(tmp_path / "model"), dtype=dtype, device="cpu")
    read_every_page(model)
    assert peak.read() - before <= most * size
