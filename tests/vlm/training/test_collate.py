"""Noise that belongs to the sample, padding that weighs nothing, targets where they belong, exact normalisers."""

import numpy as np
import pytest
import torch

from tests.vlm.training.small import pair, stream
from vlm.attention import PADDING
from vlm.noise import BetaCurriculum, Uniform
from vlm.training.collate import IGNORED, collate, noise_sample, rows_of
from vlm.training.recipe import NoiseRecipe, ObjectiveRecipe

SAMPLES = [stream().sample(i) for i in range(16)]
MASK, PAD = pair()[0].config.traits.mask_token_id, pair()[1].tokenizer.pad_token_id
FIELDS = ("ids", "source", "position", "view", "block_start", "block_end", "targets", "weights", "next_targets")


def noised(sample, weighting="emrs", seed=0, step=3, progress=0.2, schedule=None, level="block"):
    noise = NoiseRecipe(schedule=schedule or BetaCurriculum(), level=level)
    return noise_sample(sample, MASK, noise, ObjectiveRecipe(weighting=weighting), seed, step, progress)


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
