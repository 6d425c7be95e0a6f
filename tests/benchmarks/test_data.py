"""The data benchmark on tiny amounts: every part gives figures that are possible, and the right comparison."""

import json

import numpy as np
import pytest

from benchmarks import data
from benchmarks.data import main, packing, resume
from benchmarks.material import PICTURES, mixed_lengths, write_clip, write_lines
from data_pipelines.sampling import centres
from data_pipelines.video import load_video


def test_both_arms_give_the_same_frames(tmp_path):
    for suffix, direct in (("mp4", data._decord), ("ts", data._pyav)):
        path = tmp_path / f"a.{suffix}"
        write_clip(path, (64, 48), 30)
        ours = np.stack([np.asarray(frame) for frame in load_video(path, data.FRAMES)])
        theirs = np.stack(list(direct(path, centres(30, data.FRAMES))))
        assert ours.shape == theirs.shape == (data.FRAMES, 48, 64, 3)
        assert np.abs(ours.astype(int) - theirs).mean() < 2 < np.abs(np.diff(theirs.astype(int), axis=0)).mean()


def test_lengths_are_a_mix_and_packs_hold_them():
    lengths = mixed_lengths(np.random.default_rng(0), 2000)
    assert min(lengths) < 100 < np.median(lengths) < 2000 < max(lengths) and len(PICTURES) > 5
    found = packing(4096, seed=0)
    assert 0.97 <= found["fill"] <= 1 and found["dropped"] < 100 and found["batches"] < found["bucket_batches"]
    assert found["bucket_fill"] < found["bucket_tokens"] <= 1  # room that no sample of a bucket's length fits into


def test_resumption_finds_the_sample_that_comes_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = resume(write_lines(tmp_path, 3000), 2500)
    assert found["same_sample"] and found["resume_s"]["median"] < 2


def test_the_command_writes_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", "as it was")
    output = tmp_path / "report.json"
    few = ["--lines", "500", "--place", "300", "--read", "200", "--samples", "20", "--output", str(output)]
    assert main(["--parts", "workers,resume,memory", *few]) == 0
    report = json.loads(output.read_text())
    assert set(report["workers"]["samples_per_s"]) == {"0", "1", "2"} and report["memory"]["samples"] == 200
    said = capsys.readouterr().out
    assert "samples/s: 0 workers" in said and "resumed at 300" in said and "the same sample" in said
    assert main(["--parts", "speed", *few]) == 2
    assert "part 'speed' is not one of" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--repeats", "--lines", "--samples"])
def test_amounts_must_be_enough(option, capsys, tmp_path):
    assert main([option, "0", "--output", str(tmp_path / "x.json")]) == 2
    assert option in capsys.readouterr().err
