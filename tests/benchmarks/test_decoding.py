"""The comparison of modes and precisions: its structure on a tiny random model, its lines on made-up answers."""

import json
from functools import partial

import pytest
import torch

from benchmarks import decoding
from benchmarks.decoding import lines, main, summary
from benchmarks.paired import Item
from tests.vlm.tiny import tiny_model
from vlm.answering import Answer
from vlm.generation.config import MODES

FORWARD = {
    "block_size": 8, "seconds": {"one_row": 0.002, "block": 0.003, "closing": 0.004}, "row_cost": 1.5,
    "row_cost_closing": 2.0, "ceilings": {"block": 5.333, "block_closing": 4.0, "speculative": 3.0},
}  # fmt: skip


def made(index, drafted="a"):
    """AR takes 4 s at fp32, block 1 s, speculative 2 s; at int8 half of that, and block says something else."""
    answers, counts = {}, {}
    for precision, scale in (("fp32", 1.0), ("int8", 0.5)):
        for mode, seconds, forwards in (("block", 1.0, 2), ("speculative", 2.0, 4), ("ar", 4.0, 8)):
            text = drafted if mode == "speculative" else "b" if (precision, mode) == ("int8", "block") else "a"
            answers[precision, mode] = Answer(text, 8, forwards, 8 / forwards, 0.1, scale * seconds, "stop", mode)
            counts[precision, mode] = (int(text == "a"), 1, 1)
    return Item(index, answers, counts)


def report(items):
    families = {p: {"describe": summary(items, p, "fp32", MODES)} for p in ("fp32", "int8")}
    return {"precisions": {p: {"forward": FORWARD, "families": found} for p, found in families.items()}}


def test_modes_stand_beside_ar_of_their_own_precision_and_precisions_beside_the_first():
    items = [made(0), made(1)]
    one, other = (summary(items, precision, "fp32", MODES) for precision in ("fp32", "int8"))
    assert [s["against_ar"]["block"]["decode_ratio"]["median"] for s in (one, other)] == [4.0, 4.0]
    assert one["against_ar"]["speculative"]["decode_ratio"]["median"] == 2.0
    assert "ar" not in one["against_ar"] and "against_fp32" not in one
    assert [other["against_fp32"][mode]["decode_ratio"]["median"] for mode in MODES] == [2.0, 2.0, 2.0]
    assert [other["against_fp32"][mode]["same_answer"] for mode in MODES] == [0.0, 1.0, 1.0]
    assert other["against_ar"]["block"]["accuracy_difference"]["difference"] == -1.0


def test_without_ar_there_is_nothing_to_stand_beside():
    found = summary([made(0)], "fp32", "fp32", ("block", "speculative"))
    assert list(found["modes"]) == ["block", "speculative"] and found["against_ar"] == {}


def test_the_lines_tell_ceilings_and_a_fault_of_speculation():
    shown = lines(report([made(0), made(1)]))
    assert "ceilings: block 5.333 (4.0 when every block is closed), speculative 3.0" in shown
    assert "block / ar: decoding 4.00 (4.00 – 4.00) times as fast (ceiling 5.333)" in shown
    assert "a pass 1000.0 ms, a bare one 3.0" in shown and "block, int8 / fp32: decoding 2.00" in shown
    assert "speculative answers are AR's, all of them" in shown and "FAULT" not in shown
    assert "FAULT: 1 speculative answers are not AR's: items 1" in lines(report([made(0), made(1, "c")]))


def test_the_command_writes_and_prints_its_report(tmp_path, capsys, monkeypatch):
    loaded = tiny_model(dtype=torch.float32)
    loaded[0].generation_config.max_new_tokens = 6
    monkeypatch.setattr(decoding, "row_cost", partial(decoding.row_cost, repeats=2))
    asked = []
    monkeypatch.setattr(decoding, "load", lambda name, **kind: asked.append(kind) or loaded)
    output = tmp_path / "out.json"
    options = ["--families", "json,counting", "--limit", "1", "--block-size", "8", "--threshold", "0.5"]
    assert main([*options, "--precisions", "fp32,int8", "--output", str(output)]) == 0
    assert asked == [{"dtype": torch.float32}, {"quantize": "int8"}]
    found = json.loads(output.read_text())
    assert found["settings"] == {"policy": "threshold", "threshold": 0.5, "block_size": 8, "seed": 1, "limit": 1}
    assert list(found["precisions"]) == ["fp32", "int8"]
    fp32, int8 = found["precisions"].values()
    assert fp32["forward"]["block_size"] == 8 and list(fp32["families"]) == ["json", "counting"]
    for family in ("json", "counting"):
        assert list(fp32["families"][family]["modes"]) == list(MODES)
        assert fp32["families"][family]["against_ar"]["speculative"]["differing_items"] == []
        assert all(v["same_answer"] == 1.0 for v in int8["families"][family]["against_fp32"].values())  # one model
    assert "counting, 1 items" in capsys.readouterr().out


def test_modes_and_the_policy_can_be_chosen(tmp_path, monkeypatch):
    loaded = tiny_model(dtype=torch.float32)
    loaded[0].generation_config.max_new_tokens = 4
    monkeypatch.setattr(decoding, "load", lambda name, **kind: loaded)
    monkeypatch.setattr(decoding, "row_cost", partial(decoding.row_cost, repeats=2))
    output = tmp_path / "out.json"
    chosen = ["--modes", "ar,block", "--policy", "factor", "--families", "counting", "--limit", "1"]
    assert main([*chosen, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["settings"]["policy"] == "factor" and found["settings"]["threshold"] is None
    assert list(found["precisions"]["fp32"]["families"]["counting"]["modes"]) == ["ar", "block"]


@pytest.mark.parametrize(
    "options, says",
    [
        (["--families", "jsn"], "unknown family 'jsn'; did you mean json?"),
        (["--modes", "block,blok"], "mode 'blok' is not one of block, ar, speculative"),
        (["--precisions", "int4"], "precision 'int4' is not one of fp32, bf16, int8, nf4"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--policy", "greedy", "--limit", "1"], "policy 'greedy' is not one of"),
        (["--policy", "factor", "--threshold", "0.5"], "threshold 0.5 means nothing to policy 'factor'"),
        (["--block-size", "5"], "block_size 5 was not trained; this checkpoint allows 1, 4, 8"),
        (["--model", "/no/such/model"], "/no/such/model: no such model directory"),
        (["--output", "/proc/none/x.json"], "/proc/none"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, options, says):
    original, tiny = decoding.load, tiny_model()
    monkeypatch.setattr(decoding, "load", lambda name, **kind: tiny if name is None else original(name, **kind))
    assert main(["--output", str(tmp_path / "out.json"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_a_checkpoint_without_ar_is_refused_with_the_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decoding, "load", lambda name, **kind: tiny_model(context_attention="block_causal"))
    assert main(["--output", str(tmp_path / "out.json")]) == 2
    assert "needs causal context and a trained AR mode" in capsys.readouterr().err
