"""Two processes do what one does with the same batches: loss curve, weights, resumption; and one step under FSDP2.

Run as a module, this file is what each of the two processes does.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD

from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import data_recipe, save_start, small_recipe, stream
from vlm import VLMForBlockDiffusion, VLMProcessor
from vlm.noise import NoiseTokens
from vlm.training import arguments, warmup
from vlm.training import run as run_module
from vlm.training.collate import IGNORED, collate, noise_sample
from vlm.training.curricula import PARTS, Stage
from vlm.training.losses import losses
from vlm.training.recipe import NoiseRecipe, ObjectiveRecipe, OptimRecipe
from vlm.training.trainer import BlockDiffusionTrainer, checkpoints

ROOT = Path(__file__).parents[3]
DATA = data_recipe(rows_per_batch=500, row_capacity=250)  # a window of eight samples in several batches, packed


def in_float64(source) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    model = VLMForBlockDiffusion.from_pretrained(str(source), dtype=torch.float64)
    return model, VLMProcessor.from_pretrained(str(source))


def staged(folder: Path, name: str, **changes):
    """Two steps with the vision tower frozen, then three of everything from a saved model."""
    stages = [Stage(2, dict.fromkeys(PARTS[1:], 3e-3)), Stage(3, dict.fromkeys(PARTS, 3e-3))]
    optim = OptimRecipe(name="adamw", lr=3e-3, warmup_steps=2, decay_steps=2)
    settings = {"stages": stages, "max_steps": 5, "save_steps": 2, "eval_steps": 2, "data": DATA, "optim": optim}
    return small_recipe(folder / name, folder / "start", **{**settings, **changes})


def first_update(model) -> tuple[list[dict[str, torch.Tensor]], dict[str, float]]:
    """The stream's first two batches as tensors, and their normalisers."""
    batches = list(islice(stream(recipe=DATA), 2))
    tokens = NoiseTokens(model.config.traits.mask_token_id)
    noised = [
        [noise_sample(s, tokens, NoiseRecipe(), ObjectiveRecipe(), 0, step=0, progress=0.0) for s in batch.samples]
        for batch in batches
    ]
    drawn = [draw for one in noised for draw in one]
    nexts = sum(int((draw.next_targets != IGNORED).sum()) for draw in drawn)
    totals = {"diffusion": sum(draw.normaliser for draw in drawn), "next": nexts}
    return [collate(batch.samples, draws, 0, batch.packs) for batch, draws in zip(batches, noised)], totals


def gradient_step(model, share: torch.Tensor) -> dict[str, torch.Tensor]:
    share.backward()
    SGD(model.parameters(), lr=0.1).step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def sharded_step(folder: Path) -> None:
    """One gradient step under FSDP2, a batch for each process; the first one saves the weights."""
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model, _ = in_float64(folder / "start")
    mesh = init_device_mesh("cpu", (ranks,))
    for layer in model.language_model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    batches, totals = first_update(model)
    weights = gradient_step(model, sum(losses(model, batches[rank], 0, totals)) * ranks)
    assert all(len(w.to_local()) < len(w) for w in weights.values() if len(w) > 1)
    whole = {name: weight.full_tensor() for name, weight in weights.items()}
    if rank == 0:
        save_file(whole, folder / "sharded.safetensors")


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "waiting", "seconds")} for line in lines]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert (found[name] - weight).norm() <= 1e-5 * weight.norm(), name


def in_two_processes(module: str, folder: Path) -> None:
    """Run a test module's own main in two processes of one thread each, on ``folder``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``start``, a run of ``one`` process with four micro-batches a step, and of ``two`` with two each."""
    folder = tmp_path_factory.mktemp("processes")
    save_start(folder / "start", dtype=torch.float64)  # dropout is drawn by a micro-batch's place, whoever has it
    in_two_processes("tests.vlm.training.test_processes", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_loaded", in_float64)
        run_module.run(staged(folder, "one", accumulation=4))
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one(folder):
    """With gradient checkpointing in the two and not in the one, in both stages."""
    for stage, steps in (("stage-1", 2), (".", 3)):
        one, two = (folder / name / stage for name in ("one", "two"))
        assert [line["step"] for line in metrics(two)] == list(range(1, steps + 1))
        for ours, theirs in zip(metrics(two), metrics(one), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        assert_close(*(load_file(run / "final" / "model.safetensors") for run in (two, one)))
    assert "nelbo" in metrics(folder / "two")[1]
    began, ended = (load_file(folder / name / "model.safetensors") for name in ("start", "two/final"))
    for part in PARTS:  # the comparison above is of weights that moved
        assert any((began[name] - ended[name]).norm() > 1e-3 for name in ended if name.startswith(part))


@pytest.mark.slow
def test_the_first_process_writes_and_each_keeps_its_random_state(folder):
    two = folder / "two"
    assert [p.name for p in checkpoints(two)] == ["checkpoint-2", "checkpoint-3"]
    assert {p.name for p in (two / "checkpoint-2").glob("rng*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert len(list((two / "runs").glob("*/events*"))) == 1
    assert list((two / ".partial").iterdir()) == []


@pytest.mark.slow
def test_one_process_continues_what_two_began(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "two", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoint-3")
    shutil.rmtree(tmp_path / "two" / "final")
    monkeypatch.setattr(run_module, "_loaded", in_float64)
    run_module.run(staged(tmp_path, "two", accumulation=4))
    for ours, theirs in zip(metrics(tmp_path / "two"), metrics(folder / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert_close(*(load_file(d / "final" / "model.safetensors") for d in (tmp_path / "two", folder / "one")))


@pytest.mark.slow
def test_a_step_of_two_processes_under_fsdp2_is_that_of_one(folder):
    model, _ = in_float64(folder / "start")
    batches, totals = first_update(model)
    share = sum(sum(losses(model, batch, 0, totals)) for batch in batches)
    assert_close(load_file(folder / "sharded.safetensors"), gradient_step(model, share))


@pytest.mark.parametrize("data", [DATA, replace(DATA, row_capacity=None)], ids=["packs", "buckets"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_processes_share_the_stream_without_loss_or_repetition(ranks, data):
    sample = cache(stream(recipe=data).sample)

    def shard_of(rank, ranks, start=(0, 0)):
        dataset = stream(recipe=data)
        dataset.sample, dataset.shard, dataset.start = sample, (rank, ranks), start
        return dataset

    def names(batch):
        return batch.packs, [sample.encoded.id for sample in batch.samples]

    whole = list(islice(shard_of(0, 1), 3 * ranks))
    assert whole[-1].position[0] > 0  # past a window's end
    for turns in (0, 1):  # from the beginning, and from where a checkpoint after the first turn resumes
        window, number = whole[ranks - 1].position
        start = (window, number + 1) if turns else (0, 0)
        shards = [list(islice(shard_of(rank, ranks, start), 3 - turns)) for rank in range(ranks)]
        found = [names(shard[turn]) for turn in range(3 - turns) for shard in shards]
        assert found == [names(batch) for batch in whole[turns * ranks :]]
        for turn in range(3 - turns):
            assert {shard[turn].position for shard in shards} == {whole[(turn + turns + 1) * ranks - 1].position}


def test_a_process_that_sees_several_gpus_uses_one(tmp_path, monkeypatch):
    TrainingArguments = arguments.TrainingArguments
    setup = TrainingArguments.__dict__["_setup_devices"].func

    def three(found):
        device = setup(found)
        found._n_gpu = 3
        return device

    patched = cached_property(three)
    patched.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", patched)
    model, processor = tiny_model()
    trainer = BlockDiffusionTrainer(model, processor, stream(), small_recipe(tmp_path))
    assert trainer._wrap_model(model) is model  # and not a DataParallel of it


def test_of_several_processes_the_first_warms_the_tower_up(tmp_path, monkeypatch):
    state = tmp_path / warmup.STATE
    waited = []

    def save_meanwhile(seconds):
        waited.append(seconds)
        save_file({"x": torch.zeros(1)}, state, metadata={"step": str(3 * len(waited))})

    monkeypatch.setattr(warmup.time, "sleep", save_meanwhile)
    warmup._wait(state, 6)
    assert len(waited) == 2


if __name__ == "__main__":
    sharded_step(Path(sys.argv[1]))
    run_module._loaded = in_float64
    run_module.run(staged(Path(sys.argv[1]), "two", accumulation=2, gradient_checkpointing=True))
