"""Every parameter is stepped once, Muon keeps to the decoder's matrices, state survives, the schedule is as stated."""

import copy
import math

import pytest
import torch

from tests.vlm.tiny import tiny_model
from vlm.training.optim import MuonWithAdamW, build_optimizer, warmup_stable_decay
from vlm.training.recipe import OptimRecipe


def fresh(name: str):
    model = tiny_model(dtype=torch.float32)[0]
    return model, build_optimizer(model, OptimRecipe(name=name))


def step(model, optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_trainable_parameter_is_in_exactly_one_group(name):
    model = tiny_model(dtype=torch.float32)[0]
    model.vision_tower.requires_grad_(False)
    grouped = [p for group in build_optimizer(model, OptimRecipe(name=name)).param_groups for p in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_the_vision_tower_can_have_a_learning_rate_of_its_own(name):
    model = tiny_model(dtype=torch.float32)[0]
    recipe = OptimRecipe(name=name, lr=1e-3, vision_lr=1e-5)
    groups = build_optimizer(model, recipe).param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert set(rate) == {id(p) for p in model.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(rate)
    assert all(rate[id(p)] == 1e-5 for p in model.vision_tower.parameters())
    assert 1e-5 not in {rate[id(p)] for n, p in model.named_parameters() if not n.startswith("vision_tower")}


@pytest.mark.parametrize("vision_lr", [None, 1e-5])
def test_the_projector_can_have_a_learning_rate_of_its_own(vision_lr):
    model = tiny_model(dtype=torch.float32)[0]
    recipe = OptimRecipe(name="adamw", lr=1e-3, vision_lr=vision_lr, projector_lr=1e-4)
    groups = build_optimizer(model, recipe).param_groups
    found = [(id(p), group["lr"]) for group in groups for p in group["params"]]
    rates = {"vision_tower": vision_lr or 1e-3, "projector": 1e-4, "language_model": 1e-3}
    assert sorted(found) == sorted((id(p), rates[n.split(".")[0]]) for n, p in model.named_parameters())


def test_muon_gets_the_decoders_matrices_and_nothing_else():
    model, optimizer = fresh("muon")
    names = {id(p): n for n, p in model.named_parameters()}
    found = {names[id(p)] for group in optimizer.parts["muon"].param_groups for p in group["params"]}
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(found) == 2 * len(kinds)  # two layers
    assert all(n.startswith("language_model.") and n.split(".")[-2] in kinds for n in found)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_vectors_and_tables_get_no_decay(name):
    model, optimizer = fresh(name)
    names = {id(p): n for n, p in model.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for n, parameter in model.named_parameters():
        assert (decay[n] == 0) == (parameter.ndim < 2 or "embed" in n), n


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_survives_a_round_trip(name, tmp_path):
    model, optimizer = fresh(name)
    step(model, optimizer, seed=1)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    twin = copy.deepcopy(model)
    again = build_optimizer(twin, OptimRecipe(name=name))
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    untouched = copy.deepcopy(model)
    new = build_optimizer(untouched, OptimRecipe(name=name))
    for m, o in ((model, optimizer), (twin, again), (untouched, new)):
        step(m, o, seed=2)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (model, twin, untouched)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])  # the state matters


def test_a_learning_rate_set_from_outside_reaches_both_parts_after_loading():
    model, optimizer = fresh("muon")
    step(model, optimizer, seed=1)
    optimizer.load_state_dict(optimizer.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(model, optimizer, seed=2)
    assert isinstance(optimizer, MuonWithAdamW)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_each_part_has_its_own_peak_rate():
    optimizer = build_optimizer(fresh("muon")[0], OptimRecipe(name="muon", lr=1e-3, muon_lr=0.05))
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 1e-3, 1e-3]


def test_schedule_values():
    factor = warmup_stable_decay(OptimRecipe(warmup_steps=4, decay_steps=5), max_steps=20)
    assert [factor(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(factor(s) == 1.0 for s in range(4, 16))
    assert [factor(s) for s in range(16, 22)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_schedule_without_warmup_or_decay_is_constant():
    factor = warmup_stable_decay(OptimRecipe(warmup_steps=0, decay_steps=0), max_steps=3)
    assert [factor(s) for s in range(3)] == [1.0] * 3


def test_schedule_shorter_than_its_ramps_never_exceeds_either():
    factor = warmup_stable_decay(OptimRecipe(warmup_steps=10, decay_steps=10), max_steps=6)
    assert [factor(s) for s in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])


def test_cosine_decay_is_half_a_wave():
    factor = warmup_stable_decay(OptimRecipe(warmup_steps=0, decay_steps=4, decay="cosine"), max_steps=10)
    half = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]
    assert [factor(s) for s in range(6)] == [1.0] * 6
    assert [factor(s) for s in range(6, 12)] == pytest.approx([*half, 0.0])
