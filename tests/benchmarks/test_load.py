"""The benchmark of loading: its checkpoint is one of ours, of the size asked for; what it measures and cleans up."""

import json

import pytest
import torch

from benchmarks import load
from vlm.checkpoints.files import read_tensors, shards
from vlm.checkpoints.load import load as load_model

SMALL = {**load.text_config(1e-6, width=256, vocab_size=400), "num_hidden_layers": 2}


@pytest.mark.parametrize("billions", [1.0, 3.0])
def test_the_shape_has_as_many_parameters_as_asked_for(billions):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**load.text_config(billions)))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(billions * 1e9, rel=0.03)


def test_the_checkpoint_loads_from_its_shards(tmp_path):
    load.write(tmp_path / "model", SMALL, shard=2**20)
    assert len(shards(tmp_path / "model")) > 2
    tensors = read_tensors(str(tmp_path / "model"))
    assert {tensor.dtype for tensor in tensors.values()} == {"BF16"}
    model, processor = load_model(str(tmp_path / "model"), dtype=torch.bfloat16, device="cpu")
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(t.count for t in tensors.values())
    assert processor.tokenizer.mask_token_id == model.config.traits.mask_token_id
    load.read_every_page(model)
    load.forget(tmp_path / "model")


def test_large_weights_are_random_and_of_their_shape():
    tensor = load.random(torch.Size([3, 2**20]))
    assert tensor.shape == (3, 2**20) and tensor.dtype == torch.bfloat16
    assert tensor.float().std() == pytest.approx(0.02, rel=0.05)


@pytest.fixture
def quick(monkeypatch):
    """A small checkpoint, and measurements without a process of their own."""
    monkeypatch.setattr(load, "text_config", lambda billions: SMALL)
    found = {"load_s": 1.5, "read_s": 0.5, "loaded": 2 * load.MB, "peak": 3 * load.MB}
    monkeypatch.setattr(load, "apart", lambda folder, dtype: {**found, "there": folder.exists()})


def test_the_command_reports_and_takes_its_checkpoint_away(tmp_path, quick, capsys):
    output = tmp_path / "report.json"
    asked = ["--folder", str(tmp_path / "model"), "--output", str(output), "--dtypes", "bfloat16,float32"]
    assert load.main(asked) == 0
    report = json.loads(output.read_text())
    assert list(report["dtypes"]) == ["bfloat16", "float32"] and all(f["there"] for f in report["dtypes"].values())
    assert 2 * report["parameters"] < report["bytes"] < 2.1 * report["parameters"]
    assert not (tmp_path / "model").exists()
    said = capsys.readouterr().out
    assert said == load.lines(report) + "\n" and f"{3 * load.MB / report['bytes']:.2f}" in said


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--dtypes", "float8"], "dtype 'float8' is not one of bfloat16, float32"),
        (["--billions", "0"], "--billions 0.0 must be a positive number"),
        (["--billions", "999"], "the disk is too full for it"),
        (["--folder", "."], "exists already"),
    ],
)
def test_mistakes_are_one_line_and_take_nothing_away(tmp_path, quick, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_text("")
    assert load.main([*arguments, "--output", str(tmp_path / "report.json")]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and (tmp_path / "kept").exists()
