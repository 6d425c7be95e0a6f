"""Noise that belongs to the sample, padding that weighs nothing, targets where they belong, exact normalisers.

Layouts against each other, on a tiny float64 model: packed rows and the doubled layout give the plain loss."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from data_pipelines.packing import best_fit
from tests.vlm.training.small import data_recipe, pair, stream
from train import main
from vlm.attention import PADDING
from vlm.layout import doubled_layout
from vlm.noise import PUBLISHED, BetaCurriculum, NoiseTokens, Uniform
from vlm.objective import weighted
from vlm.training.collate import IGNORED, collate, nelbo_sample, noise_sample, noise_tokens, rows_of
from vlm.training.recipe import DataRecipe, NoiseRecipe, ObjectiveRecipe, Recipe

SAMPLES = [stream().sample(i) for i in range(16)]
MASK, PAD = pair()[0].config.traits.mask_token_id, pair()[1].tokenizer.pad_token_id
FIELDS = ("ids", "source", "position", "view", "block_start", "block_end", "targets", "weights", "next_targets")


def noised(sample, weighting="emrs", seed=0, step=3, progress=0.2, schedule=None, level="block"):
    noise = NoiseRecipe(schedule=schedule or BetaCurriculum(), level=level)
    return noise_sample(sample, NoiseTokens(MASK), noise, ObjectiveRecipe(weighting=weighting), seed, step, progress)


def batch_of(numbers):
    samples = [SAMPLES[i] for i in numbers]
    return collate(samples, [noised(s) for s in samples], PAD)


def test_noise_is_the_same_whatever_the_batch_or_its_order():
    alone = {i: batch_of([i]) for i in (2, 5, 9)}
    for order in ([2, 5, 9], [9, 2, 5], [5, 9]):
        together = batch_of(order)
        for row, i in enumerate(order):
            for name in FIELDS:
                single = alone[i][name][0]
                assert torch.equal(together[name][row, : len(single)], single)


def test_a_pack_is_one_row_of_its_samples_as_packed_each_with_the_noise_it_has_alone():
    for batch in islice(stream(recipe=data_recipe(row_capacity=450)), 4):
        tensors = collate(batch.samples, [noised(s) for s in batch.samples], PAD, batch.packs)
        assert len(tensors["ids"]) == len(batch.packs) < len(batch.samples)
        rest = iter(batch.samples)
        for row, length in enumerate(batch.packs):
            alone = [collate([s], [noised(s)], PAD) for s in islice(rest, length)]
            for name in set(FIELDS) - {"source"}:  # which counts rows from the row's beginning
                expected = torch.cat([single[name][0] for single in alone])
                assert torch.equal(tensors[name][row, : len(expected)], expected), name
            assert (tensors["segment"][row, len(expected) :] == PADDING).all()


def test_packs_of_another_number_of_samples_are_refused():
    with pytest.raises(ValueError, match="packs of 3 samples, but there are 2"):
        collate(SAMPLES[:2], [noised(s) for s in SAMPLES[:2]], PAD, [1, 2])


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 4}])
def test_noise_changes_with_seed_and_step(change):
    changed = [not np.array_equal(noised(s).ids, noised(s, **change).ids) for s in SAMPLES]
    assert sum(changed) > len(changed) // 2  # a short answer may be masked whole both times


def test_two_samples_of_equal_tokens_get_their_own_noise():
    sample = max(SAMPLES, key=lambda s: s.layout.n_blocks)
    first = noised(sample).ids
    name, sample.encoded.id = sample.encoded.id, "counting/999"
    try:
        assert not np.array_equal(noised(sample).ids, first)
    finally:
        sample.encoded.id = name


def test_padding_rows_are_nobodys_and_weigh_nothing():
    batch = batch_of(range(16))
    lengths = [len(s.layout.ids) for s in SAMPLES]
    assert len(set(lengths)) > 1
    for row, length in enumerate(lengths):
        assert (batch["segment"][row, :length] == 0).all() and (batch["segment"][row, length:] == PADDING).all()
        assert (batch["ids"][row, length:] == PAD).all()
        assert not batch["weights"][row, length:].any()
        for name in ("targets", "next_targets"):
            assert (batch[name][row, length:] == IGNORED).all()
    assert rows_of(batch).segment is batch["segment"]


@pytest.mark.parametrize("weighting", ["emrs", "nelbo", "none"])
def test_only_masked_maskable_rows_are_targets(weighting):
    for sample in SAMPLES:
        result, layout = noised(sample, weighting), sample.layout
        supervised = result.targets != IGNORED
        assert (layout.maskable & (layout.view > 0))[supervised].all()
        assert np.array_equal(supervised, result.ids != layout.ids)  # a mask stands exactly at the targets
        assert (result.ids[supervised] == MASK).all()
        assert np.array_equal(result.targets[supervised], layout.ids[supervised])
        assert np.array_equal(result.weights > 0, supervised)


def test_next_token_targets_are_the_answers_token_by_token():
    for sample in SAMPLES:
        result, encoded = noised(sample), sample.encoded
        rows = np.flatnonzero(result.next_targets != IGNORED)
        assert np.array_equal(rows + 1, np.flatnonzero(encoded.is_answer))
        assert np.array_equal(result.next_targets[rows], encoded.input_ids[encoded.is_answer])


def test_normalisers_count_what_the_published_rules_count():
    for sample in SAMPLES:
        layout = sample.layout
        noisy = layout.view > 0
        masked = (noised(sample).targets != IGNORED)[noisy]
        block, maskable = layout.block[noisy], layout.maskable[noisy]
        touched = sum(maskable[block == b].sum() for b in range(layout.n_blocks) if masked[block == b].any())
        assert noised(sample, "emrs").normaliser == touched
        assert noised(sample, "nelbo").normaliser == maskable.sum()
        assert noised(sample, "none").normaliser == masked.sum()


def test_sequence_level_noise_shares_one_level():
    """Under the NELBO a slot's weight is 1 / t of its block, so the weights tell the levels."""
    sample = max(SAMPLES, key=lambda s: s.layout.n_blocks)
    assert sample.layout.n_blocks > 3
    draws = {
        level: noised(sample, "nelbo", schedule=Uniform(0.3, 1.0), level=level) for level in ("block", "sequence")
    }
    found = {level: set(draw.weights[draw.weights > 0]) for level, draw in draws.items()}
    assert len(found["sequence"]) == 1 and len(found["block"]) > 1


def test_pixels_follow_the_samples():
    videos = next(i for i, s in enumerate(SAMPLES) if len(s.encoded.frames))
    images = [i for i, s in enumerate(SAMPLES) if len(s.encoded.images)][:2]
    batch = batch_of([images[0], videos, images[1]])
    expected = np.concatenate([SAMPLES[i].encoded.images for i in images])
    assert np.array_equal(batch["pixel_values"].numpy(), expected)
    assert np.array_equal(batch["pixel_values_videos"].numpy(), SAMPLES[videos].encoded.frames)
    assert "pixel_values_videos" not in batch_of(images)


# Views and tokens --------------------------------------------------------------------------------------------------


def with_views(views: int, **traits) -> list:
    source = stream(recipe=data_recipe(views=views), **traits)
    return [source.sample(i) for i in range(8)]


def hidden_counts(sample, result) -> np.ndarray:
    """How often each clean position is supervised by a noisy view, fill left out."""
    at = sample.layout.source[(result.targets != IGNORED) & (sample.layout.source >= 0)]
    return np.bincount(at, minlength=len(sample.encoded.input_ids))


@pytest.mark.parametrize("context", ["causal", "full"])
@pytest.mark.parametrize("exact", [False, True])
def test_complementary_views_supervise_every_answer_token_once_a_pair(context, exact):
    noise = NoiseRecipe(complementary=True, exact_count=exact)
    for sample in with_views(4, context_attention=context):
        result = noise_sample(sample, NoiseTokens(MASK), noise, ObjectiveRecipe(), 0, 3, 0.2)
        assert np.array_equal(hidden_counts(sample, result), 2 * sample.encoded.is_answer)
        layout = sample.layout
        for first in (1, 3):
            shown = [result.ids[layout.noise_view == view] == MASK for view in (first, first + 1)]
            assert np.array_equal(shown[0] ^ shown[1], layout.maskable[layout.noise_view == first])


def test_always_masked_tokens_are_hidden_in_every_view_and_counted_in_the_ratio():
    tokenizer = pair()[1].tokenizer
    noise = NoiseRecipe(schedule=Uniform(), complementary=True, always_masked=[tokenizer.eos_token])
    tokens = noise_tokens(tokenizer, pair()[0].config.traits, noise)
    for sample in with_views(2):
        results = {
            w: noise_sample(sample, tokens, noise, ObjectiveRecipe(weighting=w), 0, 3, 0.2) for w in ("emrs", "nelbo")
        }
        layout, answer = sample.layout, sample.encoded.is_answer
        ends = answer & (sample.encoded.input_ids == tokenizer.eos_token_id)
        assert ends.any()
        assert np.array_equal(hidden_counts(sample, results["emrs"]), answer + 1 * ends)
        end_rows = layout.maskable & (layout.ids == tokenizer.eos_token_id)
        assert (results["nelbo"].weights[end_rows] == 1).all()  # hidden with probability 1
        for block in range(layout.n_blocks):
            mine = layout.block == block
            hidden = (results["emrs"].targets != IGNORED) & mine
            assert results["emrs"].weights[hidden] == pytest.approx(
                (layout.maskable & mine).sum() / max(hidden.sum(), 1)
            )


def test_views_have_noise_of_their_own_and_extra_views_leave_the_first_alone():
    for one, three in zip(with_views(1), with_views(3)):
        single, several = noised(one), noised(three)
        views = [several.ids[three.layout.noise_view == view] for view in (1, 2, 3)]
        assert np.array_equal(single.ids[one.layout.noise_view == 1], views[0])
        if len(views[0]) > 16:
            assert not np.array_equal(views[0], views[1]) and not np.array_equal(views[1], views[2])


def test_a_batch_level_is_shared_by_samples_and_changes_with_the_step():
    levels = {
        step: {
            w
            for s in SAMPLES
            for w in noised(s, "nelbo", step=step, schedule=Uniform(0.3, 1.0), level="batch").weights
            if w
        }
        for step in (3, 4)
    }
    assert len(levels[3]) == len(levels[4]) == 1 and levels[3] != levels[4]


@pytest.mark.parametrize("kind", ["uniform", "mixed"])
def test_random_corruption_never_shows_a_special_token(kind):
    tokenizer, traits = pair()[1].tokenizer, replace(pair()[0].config.traits, noise=kind)
    noise = NoiseRecipe(corruption=kind, random_share=0.5)
    tokens = noise_tokens(tokenizer, traits, noise)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    shown = []
    for sample in SAMPLES:
        result = noise_sample(sample, tokens, noise, ObjectiveRecipe("flat"), 0, 3, 0.2)
        assert np.array_equal(result.targets != IGNORED, sample.layout.maskable)  # a visible token may be wrong
        assert result.normaliser == sample.layout.maskable.sum()
        shown += result.ids[result.ids != sample.layout.ids].tolist()
    assert set(shown) & special == ({MASK} if kind == "mixed" else set())
    assert len(set(shown)) > 20


def test_noise_tokens_refuse_what_the_model_lacks():
    tokenizer, traits = pair()[1].tokenizer, pair()[0].config.traits
    with pytest.raises(ValueError, match="always_masked '<think>' is not a token"):
        noise_tokens(tokenizer, traits, NoiseRecipe(always_masked=["<think>"]))
    with pytest.raises(ValueError, match="corruption 'uniform' differs from the model's noise 'mask'"):
        noise_tokens(tokenizer, traits, NoiseRecipe(corruption="uniform"))


def test_the_nelbo_draws_one_uniform_level_a_stratum_and_never_changes():
    for sample in SAMPLES:
        result, layout = nelbo_sample(sample, MASK, seed=5), sample.layout
        assert np.array_equal(result.ids, nelbo_sample(sample, MASK, seed=5).ids)
        assert result.normaliser == layout.maskable.sum()
        found = {}  # 1 / weight is the level of a block with a mask
        for block, weight in zip(layout.block, result.weights):
            if weight:
                found.setdefault(block, set()).add(1 / weight)
        assert all(len(levels) == 1 for levels in found.values())
        strata = [int((next(iter(levels)) - 1e-3) / (1 - 1e-3) * layout.n_blocks) for levels in found.values()]
        assert len(set(strata)) == len(strata)


@pytest.mark.parametrize("schedule", [Uniform(0.2, 0.8), PUBLISHED["pbnc_released"], "pbnc_paper_general"])
def test_complementary_views_need_symmetric_noise(schedule):
    with pytest.raises(ValueError, match="complementary needs noise symmetric about 1/2"):
        NoiseRecipe(schedule=schedule, complementary=True)


@pytest.mark.parametrize("level", ["sequence", "batch"])
def test_strata_are_of_blocks(level):
    with pytest.raises(ValueError, match=f"noise.stratified spreads the levels of blocks.*level is '{level}'"):
        NoiseRecipe(level=level, stratified=True)


def test_complementary_views_come_in_pairs():
    with pytest.raises(ValueError, match="even number of data.views, not 3"):
        Recipe(noise=NoiseRecipe(complementary=True), data=DataRecipe(views=3))


@pytest.mark.parametrize("name", ["views", "row_capacity"])
def test_counts_of_the_layout_start_at_one(name):
    with pytest.raises(ValueError, match=f"data.{name} must be at least 1, not 0"):
        DataRecipe(**{name: 0})


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_command_line_takes_a_published_curriculum_by_name(name, monkeypatch):
    handed = []
    monkeypatch.setattr("train.run", handed.append)
    assert main(["--noise.schedule", name]) == 0
    assert handed[0].noise.schedule == PUBLISHED[name]


# Layouts against each other, on a float64 model --------------------------------------------------------------------


def logits_and_losses(model, batch: dict, samples: list, results: list) -> tuple[torch.Tensor, float, float]:
    """Logits at supervised rows [S, V], sorted by sample and row; the diffusion loss and the next-token loss."""
    media = {k: batch[k].double() for k in ("pixel_values", "pixel_values_videos") if k in batch}
    with torch.no_grad():
        logits = model(input_ids=batch["ids"], rows=rows_of(batch), source=batch["source"], **media).logits
    supervised, following = batch["targets"] != IGNORED, batch["next_targets"] != IGNORED
    shift = model.config.traits.prediction_shift
    picked = logits.roll(shift, dims=1)[supervised]
    total = sum(result.normaliser for result in results)
    losses = cross_entropy(picked, batch["targets"][supervised], reduction="none")
    diffusion = weighted(losses, batch["weights"][supervised], total)
    nexts = cross_entropy(logits[following], batch["next_targets"][following], reduction="sum")
    return picked, diffusion.item(), nexts.item() / max(int(following.sum()), 1)


LAYOUTS = [
    {},
    {"prediction_shift": 1},
    {"context_attention": "block_causal", "block_origin": "sequence"},
    {"context_attention": "block_causal"},
    {"block_attention": "causal"},
]


@pytest.mark.parametrize("traits", [*LAYOUTS, {"context_attention": "full"}], ids=str)
def test_packed_rows_give_the_unpacked_loss(traits):
    """Images, several images and a video in one row; two views; the same logits at every supervised row.

    Beside them every sample in a forward of its own, whose losses add up to the same.
    """
    model, samples = pair(**traits)[0], with_views(2, **traits)
    results = [noised(sample) for sample in samples]
    lengths = [len(sample.layout.ids) for sample in samples]
    alone = collate(samples, results, PAD)
    packs = best_fit(lengths, 2 * max(lengths))
    order = [i for pack in packs for i in pack]
    packed = collate([samples[i] for i in order], [results[i] for i in order], PAD, [len(pack) for pack in packs])
    assert len(packed["ids"]) == len(packs) < len(samples) == len(alone["ids"]) and order != sorted(order)
    logits, *losses = logits_and_losses(model, alone, samples, results)
    packed_logits, *packed_losses = logits_and_losses(model, packed, samples, results)
    assert packed_losses == pytest.approx(losses, rel=1e-6)
    each = [logits_and_losses(model, collate([s], [r], PAD), samples, results) for s, r in zip(samples, results)]
    assert packed_losses[0] == pytest.approx(sum(diffusion for _, diffusion, _ in each), rel=1e-6)
    by_row = [(logits.sum(-1).sort(), logits), (packed_logits.sum(-1).sort(), packed_logits)]
    first, second = (values[order.indices] for order, values in by_row)
    assert torch.allclose(first, second, atol=1e-9)


@pytest.mark.parametrize("traits", LAYOUTS, ids=str)
def test_vision_once_gives_the_loss_of_the_doubled_layout(traits):
    model, processor = pair(**traits)
    samples = [stream(**traits).sample(i) for i in (0, 6, 7, 8)]
    doubled = [
        replace(
            s,
            layout=doubled_layout(
                s.encoded.input_ids,
                s.encoded.is_answer,
                block_size=s.block_size,
                traits=model.config.traits,
                end_token_id=processor.tokenizer.eos_token_id,
            ),
        )
        for s in samples
    ]
    found = []
    for batch in (samples, doubled):
        results = [noised(sample) for sample in batch]
        found.append(logits_and_losses(model, collate(batch, results, PAD), batch, results))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-9)
    assert found[0][1:] == pytest.approx(found[1][1:], rel=1e-6) and found[0][1] > 1
