"""The memory benchmark: bytes counted by hand, what a process tells, and its mistakes."""

import json
import subprocess

import pytest
import torch

from benchmarks import training_memory
from benchmarks.training_layout import Case, Step
from benchmarks.training_memory import CLEAR, WAYS, Peak, decoder, held, lines, main, prepared
from vlm.training.optim import build_optimizer
from vlm.training.sections import OptimRecipe

TEXT = decoder(layers=2, width=64, vocab_size=64, rows=256)


def two_steps(way: str, checkpointing: bool = False):
    model = prepared(way, checkpointing, TEXT, "cpu")
    base = model if way == "full" else model.get_base_model()
    optimizer = build_optimizer(base, OptimRecipe())
    step = Step(model, optimizer, Case(0, 1, 24), "once", 1)
    return model, optimizer, [step(), step()]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_is_the_weights_and_thrice_what_trains(way):
    model, optimizer, _ = two_steps(way)
    found = held(model, optimizer)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad and p.grad is not None)
    scalars = 4 * len(optimizer.state)  # AdamW counts its steps by parameter
    assert found["training"] == 12 * trained + scalars
    if way != "qlora":
        assert found["weights"] == 4 * sum(p.numel() for p in model.parameters())
    else:
        whole = prepared("lora", False, TEXT, "cpu")
        linear = sum(m.weight.numel() for n, m in whole.named_modules() if n.endswith("base_layer"))
        assert found["weights"] == 4 * sum(p.numel() for p in whole.parameters()) - 4 * linear + linear // 2


def test_checkpointing_changes_no_loss():
    plain, saved = (two_steps("lora", checkpointing)[2] for checkpointing in (False, True))
    assert plain == pytest.approx(saved, rel=1e-6)


@pytest.mark.skipif(not CLEAR.exists(), reason="Linux's own")
def test_a_peak_is_of_what_came_after_it():
    torch.ones(2**24).sum()  # 64 MB, gone again
    peak = Peak("cpu")
    before = peak.read()
    kept = torch.ones(2**23)
    assert 0.9 * 2**25 < peak.read() - before < 1.5 * 2**25 and kept[0] == 1


def test_each_way_is_asked_of_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    asked = []
    told = {"total_mb": 90.0, "weights_mb": 40.0, "training_mb": 30.0, "rest_mb": 20.0, "trained_parameters": 1234}

    def running(command, **how):
        asked.append(command[1:])
        return subprocess.CompletedProcess(command, 0, f"a word before\n{json.dumps(told)}\n", "")

    monkeypatch.setattr(training_memory.subprocess, "run", running)
    output = tmp_path / "report.json"
    assert main(["--layers", "2", "--rows", "128", "--output", str(output)]) == 0
    sizes = ["--layers=2", "--width=512", "--vocab=8192", "--rows=128"]
    wanted = [f"{way},{checkpointing}" for way in WAYS for checkpointing in (0, 1)]
    assert asked == [["-m", "benchmarks.training_memory", "--measure", which, *sizes] for which in wanted]
    report = json.loads(output.read_text())
    assert all(found == told for found in report["ways"].values())
    said = capsys.readouterr().out
    assert said == lines(report) + "\n" and "lora + checkpointing" in said and "1,234" in said


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    output = str(tmp_path / "report.json")
    assert main(["--width", "8", "--output", output]) == 2
    assert "--width 8 must be at least 64" in capsys.readouterr().err
    failed = subprocess.CompletedProcess([], 1, "", "a\nno room")
    monkeypatch.setattr(training_memory.subprocess, "run", lambda command, **how: failed)
    assert main(["--output", output]) == 2
    said = capsys.readouterr().err
    assert "measuring memory failed: no room" in said and said.count("\n") == 1
