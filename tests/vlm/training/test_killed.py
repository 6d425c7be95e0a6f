"""A run killed at three points, each time started again with the same recipe, ends bit for bit like one that was not.

Run as a module, this file is the process whose children are killed; all runs are its own, so all compute alike.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.vlm.training.small import data_recipe, save_start, small_recipe
from vlm.noise import BetaCurriculum
from vlm.training import heldout, saving
from vlm.training.curricula import Growth
from vlm.training.lines import Lines
from vlm.training.recipe import NoiseRecipe, Recipe
from vlm.training.run import run
from vlm.training.trainer import BlockDiffusionTrainer, checkpoints

ROOT = Path(__file__).parents[3]
FILES = ("metrics.jsonl", "samples.jsonl")


def recipe_of(folder: Path, name: str) -> Recipe:
    """Ten steps of two micro-batches, saved at every third, with dropout, growing blocks and moving noise."""
    return small_recipe(
        folder / name,
        folder / "start",
        max_steps=10,
        accumulation=2,
        eval_steps=4,
        sample_answers=1,
        data=data_recipe(growth=Growth([4, 8], earlier=0.5)),
        noise=NoiseRecipe(schedule=BetaCurriculum(), stratified=True),
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_step() -> None:
    """Behind the first of the two micro-batches of step 4: the newest checkpoint is the third's."""
    compute = BlockDiffusionTrainer.compute_loss

    def until(self, *args, **kwargs):
        loss = compute(self, *args, **kwargs)
        return loss if self.state.global_step < 4 else die()

    BlockDiffusionTrainer.compute_loss = until


def while_saving() -> None:
    """Checkpoint 6 is written, and not yet flushed or named."""
    flush = saving.flush

    def until(directory: Path):
        die() if directory.name == "checkpoint-6" else flush(directory)

    saving.flush = until


def in_a_line() -> None:
    """In the middle of the metrics of step 8, two steps after the checkpoint."""
    append = Lines.append

    def until(self, line: dict):
        if line["step"] == 8 and self.path.name == FILES[0]:
            self.path.open("a").write(json.dumps(line)[:20])
            die()
        append(self, line)

    Lines.append = until


def killed(folder: Path, point: Callable[[], None]) -> None:
    """Start or resume the run in a process that is killed at ``point``."""
    child = os.fork()
    if not child:
        point()
        run(recipe_of(folder, "killed"))
        os._exit(0)  # it was not killed
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (point.__name__, status)
    newest = [path.name for path in checkpoints(folder / "killed")][-1:]
    (folder / "seen.jsonl").open("a").write(json.dumps([point.__name__, newest]) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tests.vlm.training.test_killed", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def lines(path: Path) -> list[dict]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "waiting", "seconds")} for line in found]


@pytest.mark.slow
def test_it_was_killed_where_it_should(folder):
    seen = [json.loads(line) for line in (folder / "seen.jsonl").open()]
    newest = {"in_a_step": ["checkpoint-3"], "while_saving": ["checkpoint-3"], "in_a_line": ["checkpoint-6"]}
    assert seen == [list(pair) for pair in newest.items()]


@pytest.mark.slow
def test_the_curves_the_answers_and_the_weights_are_those_of_a_run_that_was_not(folder):
    straight, killed = folder / "straight", folder / "killed"
    assert [line["step"] for line in lines(straight / FILES[0])] == list(range(1, 11))
    assert [line["step"] for line in lines(straight / FILES[1])] == [4, 8]
    for name in FILES:
        assert lines(killed / name) == lines(straight / name)
    ours, theirs = (load_file(run / "final" / "model.safetensors") for run in (killed, straight))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert list((killed / saving.PARTIAL).iterdir()) == []


def main(folder: Path) -> None:
    heldout.SAMPLES = 2
    torch.set_num_threads(1)
    save_start(folder / "start")
    for point in (in_a_step, while_saving, in_a_line):
        killed(folder, point)
    run(recipe_of(folder, "killed"))
    run(recipe_of(folder, "straight"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
