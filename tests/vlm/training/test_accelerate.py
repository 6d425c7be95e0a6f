"""The files for `accelerate launch`: accelerate reads each as what it says it is; weights that were cut come whole."""

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import data_recipe, small_recipe
from vlm.training.run import run
from vlm.training.trainer import BlockDiffusionTrainer

CONFIGS = Path(__file__).parents[3] / "configs" / "accelerate"
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def test_every_file_is_known():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name, monkeypatch):
    """Fields it does not know are an error, and what it hands to the launched processes is what the file says."""
    path = str(CONFIGS / f"{name}.yaml")
    config = load_config_from_file(path)
    assert config.distributed_type == KINDS[name] and not config.use_cpu
    monkeypatch.setattr("accelerate.commands.launch.is_torch_xla_available", lambda *args, **kwargs: False)
    arguments = launch_command_parser().parse_args(["--config_file", path, "train.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.num_processes == config.num_processes >= 2
    assert bool(arguments.multi_gpu) == (name == "ddp")
    assert bool(arguments.use_fsdp) == (name == "fsdp2")
    assert bool(arguments.use_deepspeed) == name.startswith("zero")
    if name == "fsdp2":
        assert str(arguments.fsdp_version) == "2" and arguments.fsdp_state_dict_type == "FULL_STATE_DICT"
    if name.startswith("zero"):
        assert str(arguments.zero_stage) == name[-1]


@pytest.mark.parametrize("name", KINDS)
def test_it_says_whether_it_was_run(name):
    header = (CONFIGS / f"{name}.yaml").read_text().partition("compute_environment")[0]
    assert (f"accelerate launch --config_file configs/accelerate/{name}.yaml train.py") in header
    assert ("NOT RUN" in header) == (name != "ddp")


def test_sharded_weights_are_gathered_for_the_final_model(tmp_path, monkeypatch):
    """On one process, which gathers what it has: the same files as without."""
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    settings = {"max_steps": 1, "data": data_recipe(phases=data_recipe().phases[:1])}
    run(small_recipe(tmp_path / "whole", tmp_path / "start", **settings))
    monkeypatch.setattr(BlockDiffusionTrainer, "sharded", True)
    run(small_recipe(tmp_path / "sharded", tmp_path / "start", **settings))
    one, two = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "sharded"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
