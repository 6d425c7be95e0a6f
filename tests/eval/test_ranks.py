"""One evaluation by several processes: the file of one process, whoever is killed in between."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eval import runner
from eval.ranks import ALONE, Ranks, joined
from eval.runner import evaluate
from eval.suites import playground
from tests.vlm.tiny import tiny_model
from vlm.answering import answer_batch, settings

FAMILIES = ["attributes", "describe", "counting"]
TIMES = {"prefill_s", "decode_s", "seconds"}
ROOT = Path(__file__).parents[2]


def run(output, ranks=ALONE, limit=5):
    model, processor = tiny_model()
    config = settings(model, max_new_tokens=6)
    return evaluate(model, processor, config, playground.suite(1), FAMILIES, limit, 2, output, "tiny", None, ranks)


def shared(output, world, killed=None):
    """Forked processes that find each other by the environment, one of which may end at its third batch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [os.fork() or _child(output, rank, world, port, rank == killed) for rank in range(world)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _child(output, rank, world, port, dies):
    code = 1
    try:
        place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in place.items()})
        answered = iter(range(2 if dies else 1000))

        def until_killed(*arguments, **options):
            if next(answered, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer_batch(*arguments, **options)

        runner.answer_batch = until_killed
        with joined() as ranks:
            run(output, ranks)
        code = 0
    except SystemExit as left:
        code = left.code
    finally:
        os._exit(code)


def lines(output):
    text = (output / "items.jsonl").read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    run(output)
    return output


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_leave_the_file_of_one(whole, tmp_path, world):
    assert shared(tmp_path, world) == [0] * world
    assert lines(tmp_path) == lines(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["items.jsonl", "run.json"]
    assert json.loads((tmp_path / "run.json").read_text()) == json.loads((whole / "run.json").read_text())
    before = (tmp_path / "items.jsonl").read_bytes()
    run(tmp_path)  # finished: one process finds nothing to do
    assert (tmp_path / "items.jsonl").read_bytes() == before


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("again", [1, 2, 3])
def test_a_process_killed_among_others_costs_nothing(whole, tmp_path, killed, again):
    codes = shared(tmp_path, 2, killed)
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] != 0  # the other does not wait for ever
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("items*.jsonl")).splitlines()
    assert 4 <= len(kept) < 15
    assert (run(tmp_path) and [0]) if again == 1 else shared(tmp_path, again) == [0] * again
    assert lines(tmp_path) == lines(whole)
    assert set(kept) <= set((tmp_path / "items.jsonl").read_bytes().splitlines())  # to the last digit of their times
    assert sorted(p.name for p in tmp_path.iterdir()) == ["items.jsonl", "run.json"]


def test_a_part_that_someone_writes_is_not_taken(whole, tmp_path):
    from eval.output import locked

    with locked(tmp_path / "items.1.jsonl"):
        with pytest.raises(ValueError, match=f"{tmp_path}: another run is writing there"):
            run(tmp_path)
    run(tmp_path)
    assert lines(tmp_path) == lines(whole)


def test_work_is_dealt_once():
    for world in (1, 2, 5):
        owners = [[rank for rank in range(world) if Ranks(rank, world).owns(n)] for n in range(20)]
        assert all(len(own) == 1 for own in owners) and {own[0] for own in owners} == set(range(world))


@pytest.mark.slow
def test_processes_of_the_command_line_killed_and_run_again(tmp_path):
    """SIGKILL to the process that started the others; they end with it, and a rerun ends like a run of one."""
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--families", "attributes,counting", "--limit", "40"]
    command = [sys.executable, "-m", "eval", "run", *options, "--batch-size", "2", "--max-new-tokens", "16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(output, *more):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, "--output", str(output), *more], cwd=ROOT, env=environment, **quiet)

    output = tmp_path / "shared"
    first = start(output, "--processes", "2")
    while first.poll() is None and not list(output.glob("items.1.jsonl")):
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert start(tmp_path / "one").wait(timeout=300) == 0  # meanwhile the orphans end
    assert start(output, "--processes", "2").wait(timeout=300) == 0
    assert lines(output) == lines(tmp_path / "one")
    assert sorted(p.name for p in output.iterdir()) == ["items.jsonl", "run.json", "summary.json"]
