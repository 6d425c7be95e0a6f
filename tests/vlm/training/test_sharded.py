"""The trainer under accelerate's FSDP2, with the shipped file's settings, in two processes on a CPU: it trains as one.

Accelerate shards on accelerators only, so each process tells it that the CPU is one. Run as a module, this file is
what each of the two does.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from tests.vlm.tiny import tiny_model
from tests.vlm.training.test_processes import DATA, ROOT, assert_close, in_float64, in_two_processes, metrics, staged
from vlm.training import heldout
from vlm.training import run as run_module
from vlm.training.trainer import checkpoints

FSDP2 = ROOT / "configs" / "accelerate" / "fsdp2.yaml"
BUCKETS = replace(DATA, row_capacity=None)  # each sample a row of its own; `test_processes` trains on packs


def told_that_a_cpu_is_an_accelerator() -> None:
    """Accelerate's own setting up, but for the choice of backend and device."""

    def on_the_cpu(state) -> None:
        state.device = torch.device("cpu")

    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_XPU)
    PartialState.set_device = on_the_cpu
    arguments = launch_command_parser().parse_args(["--config_file", str(FSDP2), "train.py"])
    handed = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])  # what `accelerate launch` would hand on
    os.environ.update({name: value for name, value in handed.items() if "FSDP" in name})
    torch.distributed.init_process_group("gloo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``start``, a run of ``one`` process with four micro-batches a step, and of ``two`` with two each."""
    folder = tmp_path_factory.mktemp("sharded")
    for part in tiny_model():
        part.save_pretrained(folder / "start")
    in_two_processes("tests.vlm.training.test_sharded", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_loaded", in_float64)
        patch.setattr(heldout, "SAMPLES", 2)
        run_module.run(staged(folder, "one", accumulation=4, data=BUCKETS))
    return folder


@pytest.mark.slow
def test_two_sharded_processes_train_as_one(folder):
    """Losses, gradient norms, NELBO and weights of both stages; every file that a run without shards leaves."""
    for stage, steps in (("stage-1", 2), (".", 3)):
        one, two = (folder / name / stage for name in ("one", "two"))
        assert [line["step"] for line in metrics(two)] == list(range(1, steps + 1))
        for ours, theirs in zip(metrics(two), metrics(one), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        assert_close(*(load_file(run / "final" / "model.safetensors") for run in (two, one)))
    assert "nelbo" in metrics(folder / "two")[1]
    newest = checkpoints(folder / "two")[-1]
    assert newest.name == "checkpoint-3" and (newest / "pytorch_model_fsdp.bin").exists()  # FSDP's own way of saving
    assert not list((folder / "one").rglob("pytorch_model_fsdp.bin"))


if __name__ == "__main__":
    told_that_a_cpu_is_an_accelerator()
    heldout.SAMPLES = 2
    run_module._loaded = in_float64
    run_module.run(staged(Path(sys.argv[1]), "two", accumulation=2, data=BUCKETS))
