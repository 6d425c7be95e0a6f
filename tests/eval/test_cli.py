"""``python -m eval``: a whole run on a saved tiny model, and one-line errors with exit code 2."""

import json
import sys

import pytest
import torch

from eval.__main__ import main
from eval.suites.local import METRICS
from eval.suites.playground import FAMILIES
from tests.vlm.tiny import tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return str(directory)


def run(*arguments):
    return main(["run", *map(str, arguments)])


def refused(capsys, *arguments):
    """The one line that a refusal prints."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


def test_list_names_every_family(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "playground: " + ", ".join(FAMILIES)
    assert all(name in shown[1] for name in METRICS)


def test_a_run_writes_items_header_and_summary_and_prints_a_table(checkpoint, tmp_path, capsys):
    options = ("--families", "json,counting,json", "--limit", 2, "--max-new-tokens", 4, "--block-size", 8)
    assert run("--model", checkpoint, "--output", tmp_path / "a" / "b", *options, "--threshold", 0.5) == 0
    output = tmp_path / "a" / "b"
    assert sorted(p.name for p in output.iterdir()) == ["items.jsonl", "run.json", "summary.json"]
    items = [json.loads(line) for line in (output / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(i["family"], i["index"]) for i in items] == [("json", 0), ("json", 1), ("counting", 0), ("counting", 1)]
    header = json.loads((output / "run.json").read_text())
    assert (header["settings"]["block_size"], header["settings"]["threshold"]) == (8, 0.5)
    assert (header["limit"], header["seed"], header["version"]) == (2, 1, 4)
    result = json.loads((output / "summary.json").read_text())
    assert list(result["families"]) == ["json", "counting"] and result["run"] == header
    assert result["total"]["tokens"] == sum(i["tokens"] for i in items)
    assert result["total"]["forwards"] == sum(i["forwards"] for i in items)
    shown = capsys.readouterr().out
    assert "slot-F1" in shown and "counting" in shown


def test_an_unknown_family_brings_the_nearest_name(capsys):
    assert "unknown family 'countin'; did you mean counting?" in refused(capsys, "--families", "json,countin")
    assert "unknown family 'xyzzy'; known: attributes, counting" in refused(capsys, "--families", "xyzzy")


def test_suites_and_metrics_bring_the_nearest_name(capsys, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"messages": []}\n')
    assert "unknown suite 'playgroud'; did you mean playground?" in refused(capsys, "--suite", "playgroud")
    local = ("--suite", "local", "--source", source)
    assert "unknown metric 'exact'; did you mean exact_match?" in refused(capsys, *local, "--metric", "exact")
    assert "unknown family 'b'; known: a" in refused(capsys, *local, "--metric", "anls", "--tasks", "b")
    assert "--suite local needs --source FILE and --metric NAME" in refused(capsys, *local)
    assert "go with --suite local" in refused(capsys, "--metric", "anls")
    missing = ("--suite", "local", "--source", tmp_path / "none.tsv", "--metric", "anls")
    assert f"{tmp_path / 'none.tsv'}: no such file" in refused(capsys, *missing)


@pytest.mark.parametrize(
    "flag, value, least", [("--limit", 0, 1), ("--limit", -3, 1), ("--batch-size", 0, 1), ("--seed", -1, 0)]
)
def test_numbers_that_ask_for_nothing(capsys, flag, value, least):
    assert f"{flag} {value} must be at least {least}" in refused(capsys, flag, value)


@pytest.mark.parametrize(
    "flag, value, says",
    [
        ("--threshold", 1.5, "threshold 1.5 must lie in (0, 1]"),
        ("--block-size", 5, "block_size 5 was not trained"),
        ("--max-new-tokens", 0, "max_new_tokens 0 must be at least 1"),
    ],
)
def test_settings_the_checkpoint_does_not_allow(checkpoint, tmp_path, capsys, flag, value, says):
    options = ("--model", checkpoint, "--limit", 1, "--families", "counting", "--output", tmp_path / "out")
    assert run(*options, flag, value) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_an_unknown_model_is_named(capsys, tmp_path):
    assert f"{tmp_path / 'none'}: no such model directory" in refused(capsys, "--model", tmp_path / "none")


@pytest.mark.parametrize("place", ["file", "file/below", pytest.param("/proc/none", id="proc")])
def test_an_output_that_cannot_be_written_is_named(checkpoint, tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    if place.startswith("/proc") and sys.platform != "linux":
        pytest.skip("no /proc here")
    output = tmp_path / place
    err = refused(capsys, "--model", checkpoint, "--families", "json", "--limit", 1, "--output", output)
    assert f"{output}: cannot be used for results" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_of_another_run_is_refused(checkpoint, tmp_path, capsys):
    options = ("--model", checkpoint, "--families", "counting", "--limit", 1, "--max-new-tokens", 2)
    assert run(*options, "--output", tmp_path) == 0
    capsys.readouterr()
    assert f"{tmp_path} holds another run: its seed is 1, this one's 2" in refused(
        capsys, *options, "--output", tmp_path, "--seed", 2
    )


def test_control_c_ends_without_a_traceback(monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.__main__._run", interrupted)
    assert run() == 130
