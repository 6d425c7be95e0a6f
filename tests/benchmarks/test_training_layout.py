"""The comparison of layouts: rows counted by hand, one loss on one noise, its report, and its mistakes."""

import json

import pytest
import torch

from benchmarks import training_layout
from benchmarks.training_layout import END, LAYOUTS, MASK, PROMPT, VIDEO, Case, Step, build, lines, main, prepared

TEXT = {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 512,
        "tie_word_embeddings": True}  # fmt: skip
TINY = {"image": Case(1, 9, 6), "video": Case(3, 4, 5, video=True), "text": Case(0, 1, 11)}


def up(length: int, block: int) -> int:
    return -(-length // block) * block


@pytest.mark.parametrize("case", TINY.values(), ids=TINY)
def test_rows_and_losses(case):
    model, optimizer = prepared(case, TEXT, 4, "cpu")
    once, doubled = (Step(model, optimizer, case, layout, 3) for layout in LAYOUTS)
    assert case.clean == PROMPT + case.media * case.features + case.answer
    assert once.rows == case.clean + up(case.answer, 4)
    assert doubled.rows == case.clean + (case.clean - case.answer) + up(case.answer, 4)
    for step in (once, doubled):
        noisy = step.batch["targets"] != -100
        assert (step.batch["ids"][noisy] == MASK).all() and noisy.any(-1).all()
        assert (step.batch["view"][noisy] == 1).all()
    assert (once.batch["targets"] != -100).sum() == (doubled.batch["targets"] != -100).sum()
    first = once()
    assert doubled() == pytest.approx(first, rel=training_layout.SAME)
    assert once() == first  # a step leaves the weights as they are


def test_both_layouts_have_the_same_gradients():
    case = TINY["video"]
    model = build(case, TEXT, 4).double()
    found = []
    for layout in LAYOUTS:
        model.zero_grad()
        Step(model, None, case, layout, 2).loss().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and any("vision_tower" in name for name in found[0])
    largest = max(g.norm() for g in found[1].values())
    for name, gradient in found[1].items():
        assert (found[0][name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 0.01 * largest), name


def test_the_full_sizes_are_those_asked_for():
    sizes = {name: (case.media * case.features, case.answer) for name, case in training_layout.CASES.items()}
    assert sizes == {"image": (729, 64), "video": (196 * 8, 64), "text": (0, 512)}
    assert all(round(case.features**0.5) ** 2 == case.features for case in training_layout.CASES.values())
    assert len({END, MASK, VIDEO}) == 3


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A checkpoint's directory with a tiny decoder, and tiny cases."""
    build(TINY["text"], TEXT, 4).config.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(training_layout, "CASES", TINY)
    return str(tmp_path / "model")


def test_the_command_writes_and_prints_its_report(tiny, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        training_layout, "step_mb", lambda *a: asked.append(a) or {"once": 30.0, "doubled": 60.0}[a[1]]
    )
    output = tmp_path / "out.json"
    options = ["--model", tiny, "--cases", "video,text", "--block-size", "4", "--batch", "2", "--rounds", "3"]
    assert main([*options, "--output", str(output)]) == 0
    assert asked == [(name, layout, tiny, 4, 2) for name in ("video", "text") for layout in LAYOUTS]
    found = json.loads(output.read_text())
    assert list(found["cases"]) == ["video", "text"] and found["settings"]["rounds"] == 3
    for case in found["cases"].values():
        assert case["loss_difference"] <= training_layout.SAME and case["memory_mb"]["ratio"] == 0.5
        assert case["speedup"]["q25"] <= case["speedup"]["median"] <= case["speedup"]["q75"]
        assert case["rows"]["once"] < case["rows"]["doubled"]
    printed = capsys.readouterr().out
    assert "memory 0.5 (30.0 MB, 60.0 MB)" in printed and "FAULT" not in printed
    found["cases"]["text"]["loss_difference"] = 1e-3
    assert "FAULT: the losses differ by 1.0e-03" in lines(found)


def test_a_process_for_memory_prints_one_number(tiny, capsys, monkeypatch):
    peaks = iter([100.0, 107.25])
    monkeypatch.setattr(training_layout, "peak_mb", lambda: next(peaks))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--measure", "doubled", "--cases", "text", "--model", tiny, "--block-size", "4", "--batch", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == 7.2


@pytest.mark.parametrize(
    "options, says",
    [
        (["--cases", "image,sound"], "case 'sound' is not one of image, video, text"),
        (["--batch", "0"], "--batch 0 must be at least 1"),
        (["--model", "/no/such/model"], "/no/such/model: no such model directory"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, says):
    assert main(["--output", str(tmp_path / "out.json"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
