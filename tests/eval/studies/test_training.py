"""What is measured of a training arm, on made-up metrics and on noise whose variance is known."""

import numpy as np
import pytest
import torch

from eval.studies import gradients
from eval.studies.gradients import gradient_noise
from eval.studies.training import base, curves_of, of_metrics, relative_variance
from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import data_recipe, small_recipe
from vlm.noise import Uniform
from vlm.training.sections import NoiseRecipe, ObjectiveRecipe


def test_a_trend_is_no_variance_and_a_scale_neither():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.2, 4000)
    assert relative_variance(np.linspace(9, 1, 50)) == pytest.approx(0, abs=1e-20)
    steady = relative_variance(5 + noise)
    assert steady == pytest.approx(0.2**2 / 5**2, rel=0.05)
    assert relative_variance(3 * (5 + noise)) == pytest.approx(steady)
    assert relative_variance(5 + np.linspace(1, -1, 4000) + noise) == pytest.approx(steady, rel=0.01)
    assert np.isnan(relative_variance(np.ones(2)))


def test_metrics_are_taken_late_in_the_run():
    lines = [{"step": s, "loss": 10.0 if s <= 4 else 2.0, "grad_norm": 1.0} for s in range(1, 9)]
    lines[3]["nelbo"], lines[6]["nelbo"] = 3.0, 2.5
    found = of_metrics(lines)
    assert found["loss"] == 2.0 and found["nelbo"] == 2.5
    assert found["loss variance"] == pytest.approx(0, abs=1e-20)
    assert curves_of(lines)["held-out NELBO"] == [(4, 3.0), (7, 2.5)]
    assert [step for step, _ in curves_of(lines)["training loss"]] == list(range(1, 9))


@pytest.mark.parametrize("steps", [1, 2, 300])
def test_a_run_of_any_length_logs_every_step_and_measures_at_the_last(steps):
    recipe = base(steps, 4)
    assert recipe.log_steps == 1 and (steps % recipe.eval_steps == 0)


def noise_of(noise: NoiseRecipe, weighting: str = "nelbo") -> float:
    model, processor = tiny_model(dtype=torch.float32, context_attention="block_causal")
    changes = {"noise": noise, "objective": ObjectiveRecipe(weighting, ar_weight=0.0)}
    return gradient_noise(model, processor, small_recipe("unused", data=data_recipe(block_sizes={4: 1.0}), **changes))


def test_noise_without_choice_has_no_variance(monkeypatch):
    monkeypatch.setattr(gradients, "DRAWS", 4)
    everything = NoiseRecipe(Uniform(0.99, 1.0), exact_count=True)  # hides all slots of every block, every time
    assert noise_of(everything, "none") == pytest.approx(0, abs=1e-6)
    assert noise_of(NoiseRecipe(), "none") > 0.01


def test_the_ratio_of_variance_and_mean_is_unbiased(monkeypatch):
    """Gradients whose variance and mean are known stand in for the model's."""
    truth, spread, found = torch.tensor([3.0, 4.0]), 2.0, []
    rng = torch.Generator().manual_seed(0)
    for _ in range(400):
        drawn = truth + spread * torch.randn(gradients.DRAWS, 2, generator=rng)
        found.append(gradients.variance_and_mean_square(iter(drawn)))
    variance, mean_square = np.mean(found, axis=0)
    assert variance == pytest.approx(2 * spread**2, rel=0.05)
    assert mean_square == pytest.approx(25, rel=0.05)
