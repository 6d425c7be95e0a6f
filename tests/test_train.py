"""The training door: arguments arrive, mistakes are one line and exit 2, a killed run goes on unharmed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import small_recipe
from train import main

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / "configs" / "demo.yaml")


@pytest.fixture
def start(tmp_path) -> Path:
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def config(tmp_path, start) -> Path:
    """A small recipe as a file, saved at every third step and logged at every second."""
    values = asdict(small_recipe(tmp_path / "run", start, log_steps=2))
    values["noise"]["schedule"] = {"class_path": "vlm.noise.BetaCurriculum", "init_args": values["noise"]["schedule"]}
    for phase in values["data"]["phases"]:
        phase["turns"] = list(phase["turns"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def metrics(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "waiting", "seconds")} for line in lines]


def test_arguments_override_the_file(monkeypatch):
    handed = []
    monkeypatch.setattr("train.run", handed.append)
    assert main(["--config", DEMO, "--optim.lr", "3e-4", "--max_steps", "500"]) == 0
    assert (handed[0].optim.lr, handed[0].max_steps) == (3e-4, 500)
    assert handed[0].optim.name == yaml.safe_load(Path(DEMO).read_text())["optim"]["name"]  # the rest is the file's


def test_print_config_prints_a_recipe_that_reads_back(capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        main(["--config", DEMO, "--optim.lr", "3e-4", "--print_config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["optim"]["lr"] == 3e-4
    (tmp_path / "printed.yaml").write_text(printed)
    handed = []
    monkeypatch.setattr("train.run", handed.append)
    assert main(["--config", str(tmp_path / "printed.yaml")]) == 0
    assert main(["--config", DEMO, "--optim.lr", "3e-4"]) == 0
    assert handed[0] == handed[1]


MISTAKES = {
    "no such config": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "config is a directory": (["--config", str(ROOT)], str(ROOT)),
    "unknown key": (["--config", DEMO, "--optim.lrr", "1"], "optim.lrr"),
    "not a number": (["--config", DEMO, "--max_steps", "many"], "many"),
    "unknown optimiser": (["--config", DEMO, "--optim.name", "sgd"], "sgd"),
    "bad block size": (["--config", DEMO, "--data.block_sizes", "{0: 1.0}"], "block_sizes 0"),
    "bad workers": (["--config", DEMO, "--data.workers", "-1"], "workers"),
    "unknown family": (["--config", DEMO, "--data.phases", "[{samples: 1, weights: {countng: 1}}]"], "'countng'"),
    "unknown trait": (["--config", DEMO, "--model.diffusion", "{block_sise: 8}"], "'block_sise'"),
    "impossible noise": (["--noise.schedule", "vlm.noise.Uniform", "--noise.schedule.low", "2"], "noise range [2.0"),
    "no start": (["--config", DEMO, "--init_from", "nowhere"], "nowhere: no such model directory"),
}


@pytest.mark.parametrize("arguments, says", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_2(arguments, says, capsys, tmp_path):
    assert main([*arguments, "--output_dir", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and says in line


def test_an_unknown_key_in_the_file_is_named(config, capsys):
    config.write_text(config.read_text().replace("muon_lr", "moun_lr"))
    assert main(["--config", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "moun_lr" in line


def test_what_a_run_finds_wrong_is_an_error_line_too(tmp_path, config, capsys):
    capsys.readouterr()
    assert main(["--config", str(config), "--data.block_sizes", "{6: 1.0}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: data.block_sizes [6] are not among")


@pytest.mark.slow
def test_a_mistake_leaves_no_traceback_in_a_shell():
    done = subprocess.run(
        [sys.executable, "train.py", "--config", "nowhere.yaml"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error"]


KILLED_AT_5 = """
import os, signal, sys
from train import main
from vlm.training.callbacks import Metrics

end_of_step = Metrics.on_step_end

def kill(self, args, state, control, **kwargs):
    end_of_step(self, args, state, control, **kwargs)
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Metrics.on_step_end = kill
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_started_again_ends_as_if_it_had_not_been_killed(config, tmp_path):
    command = ["--config", str(config)]
    assert main([*command, "--output_dir", str(tmp_path / "straight")]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_5, *command], cwd=ROOT, env=environment, capture_output=True, timeout=300
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not (tmp_path / "run" / "final").exists()
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2, 3, 4]
    assert main(command) == 0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("run", "straight")]
    assert weights[0] == weights[1]
