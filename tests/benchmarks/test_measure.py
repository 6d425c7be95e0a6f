"""The arithmetic and the frame that the benchmarks share."""

import json
from argparse import Namespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import at_least, command, names, ratios, settled, spread, turns, whole_numbers


def test_spread_is_median_and_quartiles():
    assert spread([5, 1, 2, 4, 3]) == {"median": 3.0, "q25": 2.0, "q75": 4.0}
    assert spread([]) is None


def test_ratios_leave_out_what_took_no_time():
    assert ratios([2.0, 1.0, 0.0, 9.0], [1.0, 0.0, 1.0, 3.0]) == [2.0, 3.0]


@given(st.integers(1, 6), st.integers(0, 5))
def test_over_two_rounds_every_arm_has_every_turn_twice_and_as_often_before_another_as_behind_it(n, start):
    arms = list(range(n))
    orders = [turns(arms, 2 * n * start + i) for i in range(2 * n)]
    assert all(sorted(order) == arms for order in orders)
    for place in range(n):
        assert sorted(order[place] for order in orders) == sorted(2 * arms)
    for a in arms:
        for b in range(a):
            assert sum(order.index(a) < order.index(b) for order in orders) == n


def test_settled_forgets_the_first_quarter():
    assert settled([100.0, 100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 3.5


def test_lists_of_words_and_numbers():
    assert names("b,a,b", ("a", "b"), "mode") == ["b", "a"]
    assert whole_numbers("16,1,16", "--batches") == [16, 1]
    for text in ("", "0", "1,x", "-3", "1.5", "²"):
        with pytest.raises(ValueError, match="--batches .* must be a number of at least 1"):
            whole_numbers(text, "--batches")
    with pytest.raises(ValueError, match="mode 'c' is not one of a, b"):
        names("a,c", ("a", "b"), "mode")
    at_least(Namespace(limit=1, block_size=3), limit=1)
    with pytest.raises(ValueError, match="--block-size 3 must be at least 4"):
        at_least(Namespace(block_size=3), block_size=4)


def test_a_command_writes_and_prints_what_it_found(tmp_path, capsys):
    output = tmp_path / "new" / "out.json"
    assert command(str(output), lambda: {"x": 1}, lambda report: f"x is {report['x']}") == 0
    assert json.loads(output.read_text()) == {"x": 1}
    assert capsys.readouterr().out == "x is 1\n"


def test_a_command_says_a_mistake_in_one_line_and_does_not_work_for_a_file_it_cannot_write(tmp_path, capsys):
    def mistaken():
        raise ValueError("a\nb")

    assert command(str(tmp_path / "out.json"), mistaken, str) == 2
    assert capsys.readouterr().err == "error: a b\n"
    worked = []
    assert command(str(tmp_path), lambda: worked.append(1) or {}, str) == 2
    assert not worked and capsys.readouterr().err.count("\n") == 1
