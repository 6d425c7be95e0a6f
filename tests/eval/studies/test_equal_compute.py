"""Equal compute: each arm's rows, what a step is counted to cost, and losses against ones that are known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.studies import equal_compute, regimes, training
from eval.studies.__main__ import main
from eval.studies.equal_compute import REGIMES, claims, equal_steps
from eval.studies.frame import Result
from eval.studies.regimes import (
    Cost,
    RegimeStream,
    _flops,
    answer_length,
    clean_only,
    heldout_nats,
    reads_next_tokens,
)
from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import data_recipe, small_recipe
from vlm.layout import answer_spans
from vlm.training import heldout

KINDS = {
    "ar": {"context_attention": "causal", "prediction_shift": 1, "block_size": 1, "trained_block_sizes": (1,)},
    "block": {"context_attention": "causal", "block_size": 4, "trained_block_sizes": (4,)},
    "full": {"context_attention": "full", "block_size": 48, "trained_block_sizes": (48,)},
}


def made(kind):
    """(model, processor, recipe, stream) of an arm; the head knows nothing, so every token costs log V."""
    model, processor = tiny_model(dtype=torch.float32, block_origin="response", ar_mode=kind == "ar", **KINDS[kind])
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    data = data_recipe(block_sizes={KINDS[kind]["block_size"]: 1.0})
    own = {"objective": REGIMES[kind].objective, "noise": REGIMES[kind].noise}
    recipe = small_recipe("unused", data=data, **own)
    return model, processor, recipe, RegimeStream(data, processor, model.config.traits, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_arm_has_the_rows_that_it_needs(kind):
    model, processor, _, stream = made(kind)
    for index in range(4):
        sample = stream.sample(index)
        layout, encoded = sample.layout, sample.encoded
        rows, length = len(layout.ids), len(encoded.input_ids)
        assert reads_next_tokens(model.config.traits) == (kind == "ar")
        if kind == "ar":
            assert rows == length and not layout.maskable.any() and layout.next_supervised.sum() > 0
        elif kind == "block":
            assert (layout.view == 0).sum() == length and layout.maskable.sum() == (layout.view == 1).sum()
            assert np.array_equal(clean_only(sample).layout.ids, encoded.input_ids)
        else:
            first, stop = answer_spans(encoded.is_answer)[-1]
            assert (
                length == stop and rows == first + 48 and layout.maskable.sum() == answer_length(sample) + rows - stop
            )
            assert (layout.ids[stop:] == processor.tokenizer.eos_token_id).all() and layout.maskable[first:].all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_model_that_knows_nothing(kind, monkeypatch):
    """log V an answer token; bounds also hold what fills the answers, and scatter by the noise's levels."""
    monkeypatch.setattr(regimes, "HELDOUT", 6)
    monkeypatch.setattr(regimes, "DRAWS", 40)
    monkeypatch.setattr(regimes, "FAMILIES", {"attributes": 1.0})
    monkeypatch.setattr(regimes, "MAX_SIDE", 96)
    model, processor, recipe, stream = made(kind)
    found = heldout_nats(model, processor, recipe) / math.log(model.get_output_embeddings().weight.shape[0])
    if kind == "ar":
        assert found == pytest.approx(1, abs=1e-5)
        return
    data = replace(recipe.data, phases=[replace(recipe.data.phases[-1], weights={"attributes": 1.0}, turns=(1, 1))])
    stream = RegimeStream(data, processor, model.config.traits, regimes.HELDOUT_SEED, "heldout")
    samples = [stream.sample(index) for index in range(6)]
    slots = sum(int(sample.layout.maskable.sum()) for sample in samples)
    assert found == pytest.approx(slots / sum(map(answer_length, samples)), rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_two_of_a_sample_cost_twice_as_much(kind):
    model, processor, recipe, stream = made(kind)
    sample = stream.sample(0)
    once, twice = (_flops(model, processor, recipe, [sample] * n) for n in (1, 2))
    assert twice == pytest.approx(2 * once, rel=1e-3) and once > 0


def test_arms_get_as_many_steps_as_cost_the_same():
    costs = {name: Cost(flops, 1, 1, 1) for name, flops in (("ar", 3e9), ("block", 5e9), ("full", 7.5e9))}
    planned = equal_steps(costs, 240)
    assert planned["block"] == 240
    assert all(abs(steps * costs[name].flops - 240 * 5e9) <= costs[name].flops / 2 for name, steps in planned.items())
    assert equal_steps(costs, 1)["full"] == 1


def test_verdicts_follow_the_figures():
    """A made-up study in which every published direction holds, and its mirror image."""
    truth = {"ar": (62.6, 2.0, 1.0), "block": (62.3, 3.0, 2.0), "full": (40.0, 4.0, 2.5)}

    def found(sign: int) -> list[Result]:
        return [
            Result(arm, seed, {"score": sign * score + seed, "nats": sign * nats, "per forward": pace**sign})
            for arm, (score, nats, pace) in truth.items()
            for seed in range(3)
        ]

    assert [c.verdict for c in claims(found(1))] == ["confirmed"] * 5
    assert [c.verdict for c in claims(found(-1))] == ["contradicted"] * 5


@pytest.mark.slow
def test_the_study_runs_from_one_command_and_is_not_redone(tmp_path, monkeypatch, capsys):
    tiny = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    monkeypatch.setattr(training, "TEXT", {**training.TEXT, **tiny})
    for module, values in (
        (training, {"ROWS": 256, "WINDOW": 2}),
        (regimes, {"COUNTED": 1, "HELDOUT": 2, "DRAWS": 2}),
        (heldout, {"SAMPLES": 1}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    command = ["equal_compute", "--steps", "2", "--seeds", "2", "--limit", "2", "--output", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    told = json.loads((tmp_path / "results.json").read_text())
    assert [line["arm"] for line in told["results"]] == [*REGIMES] * 2 and len(told["claims"]) == 5
    spent = {line["arm"]: line["TFLOP"] for line in told["results"]}
    costs = json.loads((tmp_path / "costs.json").read_text())
    assert all(abs(spent[a] - spent["block"]) <= costs[a]["flops"] / 1e12 for a in REGIMES)  # a step at most
    assert all(line["nats"] > 0 and line["forwards"] > 0 for line in told["results"])
    monkeypatch.setattr(equal_compute, "train", None)
    monkeypatch.setattr(equal_compute, "cost_of_a_step", None)
    assert main(command) == 0 and capsys.readouterr().out == text
