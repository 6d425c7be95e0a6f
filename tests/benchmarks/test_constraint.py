"""The cost of a grammar: what is counted, on a model that knows nothing of JSON."""

import pytest

from benchmarks.constraint import compare, lines, main
from tests.vlm.cli.lively import lively_model


@pytest.mark.parametrize("mode", ["block", "speculative", "ar"])
def test_both_ways_are_counted_and_the_schema_makes_answers_parse(mode):
    model, processor = lively_model()
    model.generation_config.max_new_tokens = 64
    found = compare(model, processor, mode, 1, 3, {"enum": ["red", "blue", 7]})
    assert found["schema"]["parses"] == found["schema"]["items"] == found["free"]["items"] == 3
    assert found["free"]["parses"] == 0
    assert found["time_ratio"]["median"] > 0
    text = lines({"modes": {mode: found}})
    assert "3 of 3 parse" in text and "0 of 3 parse" in text


@pytest.mark.parametrize("flags", [("--limit", "0"), ("--modes", "magic"), ("--model", "nowhere")])
def test_mistakes_are_one_line(tmp_path, capsys, flags):
    assert main([*flags, "--output", str(tmp_path / "out.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
