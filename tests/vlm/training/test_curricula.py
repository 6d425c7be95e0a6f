"""Curricula at given progress against the published formulas, and stages as the runs that they stand for."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vlm.training.small import small_recipe
from vlm.noise import PUBLISHED, Uniform
from vlm.training.curricula import Growth, Phase, Stage, draw_block_size, frozen_parts
from vlm.training.recipe import AdapterRecipe, OptimRecipe

ALL = {"language_model": 1e-5, "projector": 2e-5, "vision_tower": 2e-6}


def at(growth: Growth, progress: float) -> int:
    ((size, share),) = growth.block_sizes(progress).items()
    assert share == 1
    return size


def test_doubling_is_nbdiffs_formula_at_every_step():
    growth, steps, every = Growth([1, 2, 4, 8, 16, 32], "doubling", end=0.625), 4000, 500
    for step in range(steps + 1):
        assert at(growth, step / steps) == min(32, 2 ** (step // every))


@pytest.mark.parametrize("sizes", [[4, 8, 16, 32], [2, 4, 8, 16, 32]])
def test_sqrt_is_fast_dvlms_formula_at_every_step(sizes):
    growth, n = Growth(sizes, "sqrt"), len(sizes)
    for step in range(1000):
        exact = math.isqrt(step * n * n * 1000) // 1000  # floor(n sqrt(step / 1000)) in whole numbers
        assert at(growth, step / 1000) == sizes[min(exact, n - 1)]
    assert at(growth, 1.0) == sizes[-1]


def test_plateaus_begin_where_they_are_told_to():
    growth = Growth([4, 16, 64], "plateaus", starts=[0.0, 0.9, 0.95])
    assert [at(growth, u) for u in (0.0, 0.899, 0.9, 0.949, 0.95, 1.0)] == [4, 4, 16, 16, 64, 64]


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.9), st.sampled_from(["doubling", "sqrt"]), st.integers(1, 6))
def test_shares_sum_to_one_and_earlier_sizes_share_alike(progress, earlier, pace, n):
    sizes = [2**k for k in range(n)]
    plain, shares = Growth(sizes, pace), Growth(sizes, pace, earlier=earlier).block_sizes(progress)
    assert sum(shares.values()) == pytest.approx(1)
    current = at(plain, progress)
    assert set(shares) == ({size for size in sizes if size <= current} if earlier else {current})
    passed = [share for size, share in shares.items() if size != current]
    assert passed == pytest.approx([earlier / len(passed)] * len(passed) if passed else [])


def test_pictures_smaller_than_the_playground_draws_are_refused():
    with pytest.raises(ValueError, match="a phase's max_side must be at least 96 pixels, not 64"):
        Phase(1, {"counting": 1.0}, max_side=64)


def test_block_sizes_are_drawn_by_share():
    rng = np.random.default_rng(0)
    drawn = [draw_block_size({4: 1.0, 8: 3.0}, rng) for _ in range(2000)]
    assert abs(np.mean(np.array(drawn) == 8) - 0.75) < 0.03  # three standard deviations


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"sizes": []}, "must be block sizes from 1"),
        ({"sizes": [0, 4]}, "must be block sizes from 1"),
        ({"sizes": [8, 4]}, "must be block sizes from 1"),
        ({"sizes": [4, 6], "pace": "sqrt"}, "each a multiple"),
        ({"sizes": [4, 16]}, r"\[4, 16\] must double"),
        ({"sizes": [4, 8], "end": 0.0}, r"end 0.0 must lie in \(0, 1\]"),
        ({"sizes": [4, 8], "earlier": 1.0}, "earlier 1.0 must lie"),
        ({"sizes": [4, 8], "starts": [0.0, 0.5]}, "starts goes with pace 'plateaus'"),
        ({"sizes": [4, 8], "pace": "plateaus"}, "starts .* must rise"),
        ({"sizes": [4, 8], "pace": "plateaus", "starts": [0.1, 0.5]}, "must rise from 0"),
        ({"sizes": [4, 8], "pace": "plateaus", "starts": [0.0, 1.0]}, "below 1"),
    ],
)
def test_impossible_growth_is_refused_in_a_sentence(wrong, says):
    with pytest.raises(ValueError, match=says):
        Growth(**wrong)


def test_parts_are_frozen_as_named_and_the_tower_before_its_start():
    assert frozen_parts([], 3, 2) == {"vision_tower"} and frozen_parts([], 3, 3) == set()
    assert frozen_parts(["projector"], 3, 2) == {"vision_tower", "projector"}
    assert frozen_parts(["vision_tower"], 0, 9) == {"vision_tower"}


def staged(tmp_path, **changes):
    stages = [
        Stage(100, {"projector": 1e-3}, "alignment", [Phase(1, {"counting": 1.0})], {4: 1.0}, Uniform(0.3, 1.0)),
        Stage(300, ALL, schedule="pbnc_paper_general"),
    ]
    optim = OptimRecipe(name="adamw", lr=5.0, warmup_steps=40, decay_steps=200, vision_start=7)
    return small_recipe(tmp_path, **{"stages": stages, "max_steps": 400, "optim": optim, **changes})


def test_stages_are_runs_in_a_row(tmp_path):
    recipe = staged(tmp_path, init_from=tmp_path / "start")
    first, second = recipe.in_stages()
    assert (first.init_from, second.init_from) == (str(tmp_path / "start"), f"{first.output_dir}/final")
    assert (first.output_dir, second.output_dir) == (f"{tmp_path}/stage-1", str(tmp_path))
    assert (first.max_steps, second.max_steps) == (100, 300)
    assert first.seed != second.seed  # the pictures of one stage do not come again in the next
    assert first.optim.frozen == ["vision_tower", "language_model"] and second.optim.frozen == []
    assert (first.optim.projector_lr, first.optim.vision_start) == (1e-3, 0)
    assert (second.optim.lr, second.optim.projector_lr, second.optim.vision_lr) == (1e-5, 2e-5, 2e-6)
    assert (first.optim.warmup_steps, first.optim.decay_steps) == (10, 50)
    assert (second.optim.warmup_steps, second.optim.decay_steps) == (30, 150)
    assert first.noise.schedule == Uniform(0.3, 1.0) and second.noise.schedule == PUBLISHED["pbnc_paper_general"]
    assert list(first.data.phases[0].weights) == ["counting"] and second.data.phases == recipe.data.phases
    assert first.data.block_sizes == {4: 1.0} and second.data.block_sizes == recipe.data.block_sizes


def test_a_recipe_without_stages_is_its_own_only_run(tmp_path):
    recipe = small_recipe(tmp_path)
    assert recipe.in_stages() == [recipe]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"max_steps": 500}, "max_steps 500 must be the sum of the stages' steps, 400"),
        ({"optim": OptimRecipe(name="muon")}, "stages need optim.name 'adamw', not 'muon'"),
        ({"adapter": AdapterRecipe()}, "stages cannot go with an adapter"),
    ],
)
def test_impossible_stages_are_refused_in_a_sentence(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        staged(tmp_path, **changes)


def test_growth_and_the_block_sizes_of_a_stage_exclude_each_other(tmp_path):
    recipe = staged(tmp_path)
    with pytest.raises(ValueError, match="data.growth and the block_sizes of a stage"):
        replace(recipe, data=replace(recipe.data, growth=Growth([4, 8])))


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"steps": 0, "lr": ALL}, "steps of stage 'x' must be at least 1, not 0"),
        ({"steps": 1, "lr": {}}, "stage 'x' trains nothing"),
        ({"steps": 1, "lr": {"projektor": 1e-3}}, "'projektor' in the lr of stage 'x'; did you mean projector"),
        ({"steps": 1, "lr": {"projector": 0.0}}, "lr of projector in stage 'x' must be positive"),
    ],
)
def test_an_impossible_stage_is_refused_in_a_sentence(wrong, says):
    with pytest.raises(ValueError, match=says):
        Stage(**wrong, name="x")


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"frozen": ["vision_tower", "projector", "language_model"]}, "leaves no part to train"),
        (
            {"frozen": ["projector", "language_model"], "vision_start": 5},
            "leaves no part to train from the first step",
        ),
        ({"frozen": ["language_model"], "name": "muon"}, "'muon' trains the language model's matrices"),
    ],
)
def test_freezing_what_a_run_needs_is_refused_in_a_sentence(wrong, says):
    with pytest.raises(ValueError, match=says):
        OptimRecipe(**wrong)
