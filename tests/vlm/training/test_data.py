"""The training stream: pure in (seed, index), restartable anywhere, complete, within its budget, readable back."""

from dataclasses import replace
from itertools import islice, takewhile

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data_pipelines import playground
from data_pipelines.batching import length_buckets
from data_pipelines.playground.base import stream as item_stream
from tests.vlm.training.small import MIXED, data_recipe, stream
from vlm.layout import answer_spans
from vlm.training.curricula import Phase
from vlm.training.data import chat, tokenizer_texts
from vlm.training.recipe import DataRecipe

PACKED = data_recipe(rows_per_batch=500, row_capacity=250)
CUTS = pytest.mark.parametrize("recipe", [None, PACKED], ids=["buckets", "packs"])


def same(a, b) -> bool:
    arrays = [(getattr(a.encoded, n), getattr(b.encoded, n)) for n in ("input_ids", "is_answer", "images", "frames")]
    arrays += [(getattr(a.layout, n), getattr(b.layout, n)) for n in a.layout.__dataclass_fields__]
    return (
        a.encoded.id == b.encoded.id and a.block_size == b.block_size and all(np.array_equal(x, y) for x, y in arrays)
    )


def ids(batch) -> list[str]:
    return [sample.encoded.id for sample in batch.samples]


def test_a_sample_does_not_depend_on_what_was_drawn_before():
    alone = [stream().sample(i) for i in (11, 3)]
    dataset = stream()
    in_order = [dataset.sample(i) for i in range(12)]
    assert same(alone[0], in_order[11]) and same(alone[1], in_order[3])


def test_another_seed_gives_other_samples():
    assert not any(same(stream(seed=0).sample(i), stream(seed=1).sample(i)) for i in range(6))


@CUTS
def test_restarting_at_any_position_continues_exactly(recipe):
    batches = list(islice(stream(recipe=recipe), 12))
    assert {batch.position[0] for batch in batches} >= {0, 1, 2}
    for at, batch in enumerate(batches):
        dataset = stream(recipe=recipe)
        dataset.start = batch.position
        for expected, found in zip(batches[at : at + 3], dataset):
            assert found.position == expected.position and found.packs == expected.packs
            assert all(same(a, b) for a, b in zip(expected.samples, found.samples, strict=True))


def test_positions_past_a_windows_end_mean_the_next_window():
    """A checkpoint after the last batch of a window restarts at (window, number + 1), which does not exist."""
    first = list(stream().window(0))
    dataset = stream()
    dataset.start = (0, len(first))
    assert next(iter(dataset)).position == (1, 0)


@pytest.mark.parametrize("number", [0, 3])
def test_every_sample_of_a_window_comes_once_and_within_the_budget(number):
    dataset = stream()
    batches = list(dataset.window(number))
    found = sorted(int(s.encoded.id.split("/")[1]) for batch in batches for s in batch)
    assert found == list(range(number * 8, number * 8 + 8))
    assert len(batches) > 1
    for batch in batches:
        longest = max(len(sample.layout.ids) for sample in batch)
        assert len(batch) == 1 or longest * len(batch) <= dataset.recipe.rows_per_batch


def test_packs_fill_rows_and_rows_fill_batches():
    """Every sample of four windows once; the same samples at the same size as without packing."""
    batches, plain = list(takewhile(lambda b: b.position[0] < 4, stream(recipe=PACKED))), stream()
    samples = [sample for batch in batches for sample in batch.samples]
    in_order = sorted(samples, key=lambda s: int(s.encoded.id.split("/")[1]))
    assert len(samples) == 32 and all(same(sample, plain.sample(i)) for i, sample in enumerate(in_order))
    for batch in batches:
        assert sum(batch.packs) == len(batch.samples)
        rest = iter(batch.samples)
        packs = [[sample.rows for sample in islice(rest, length)] for length in batch.packs]
        assert all(sum(pack) <= 250 or len(pack) == 1 for pack in packs)
        assert max(map(sum, packs)) * len(packs) <= 500 or len(batch.samples) == 1
    assert any(len(batch.packs) > 1 and max(batch.packs) > 1 for batch in batches)
    assert any(batch.samples[0].rows > 250 for batch in batches)  # above the capacity, and not dropped


def test_without_a_capacity_every_sample_has_a_row_in_batches_of_similar_length():
    dataset = stream()
    samples = [dataset.sample(i) for i in range(8)]
    expected = length_buckets(samples, lambda s: len(s.layout.ids), 900, 8, seed=0)
    for batch, bucket in zip(islice(dataset, 2), expected, strict=True):
        assert ids(batch) == [s.encoded.id for s in bucket] and batch.packs == [1] * len(bucket)


def test_a_sample_above_the_budget_stands_alone():
    batches = list(stream(recipe=data_recipe(rows_per_batch=10)).window(0))
    assert [len(batch) for batch in batches] == [1] * 8


def test_phases_end_by_sample_count_and_the_last_goes_on():
    phases = [Phase(2, {"attributes": 1.0}), Phase(3, {"counting": 1.0}), Phase(1, {"relations": 1.0})]
    dataset = stream(recipe=data_recipe(phases=phases))
    families = [dataset.sample(i).encoded.id.split("/")[0] for i in range(8)]
    assert families == ["attributes"] * 2 + ["counting"] * 3 + ["relations"] * 3


def test_families_and_block_sizes_follow_their_shares():
    phases = [Phase(1, {"attributes": 3.0, "counting": 1.0}, max_side=96)]
    dataset = stream(recipe=data_recipe(phases=phases, block_sizes={4: 0.25, 8: 0.75}))
    samples = [dataset.sample(i) for i in range(200)]
    eights = np.mean([sample.block_size == 8 for sample in samples])
    attributes = np.mean([sample.encoded.id.startswith("attributes") for sample in samples])
    assert {sample.block_size for sample in samples} == {4, 8}
    assert abs(eights - 0.75) < 0.1 and abs(attributes - 0.75) < 0.1  # three standard deviations are 0.092


def test_a_layout_is_built_with_its_samples_block_size():
    dataset = stream()
    for i in range(8):
        sample = dataset.sample(i)
        noisy = sample.layout.view > 0
        sizes = (sample.layout.block_end - sample.layout.block_start)[noisy]
        assert set(sizes) == {sample.block_size}


@pytest.mark.parametrize("family", ["attributes", *MIXED])
def test_tokens_read_back_as_the_questions_and_answers(family):
    dataset = stream(recipe=data_recipe(phases=[Phase(1, {family: 1.0}, 96, (2, 3))]))
    tokenizer = dataset.processor.tokenizer
    for index in range(3):
        encoded = dataset.sample(index).encoded
        spans = answer_spans(encoded.is_answer)
        item = playground.FAMILIES[family](item_stream(family, "train", 0, index), "train", len(spans), 96)
        answers = [tokenizer.decode(encoded.input_ids[a:b]) for a, b in spans]
        assert answers == [turn.answer + tokenizer.eos_token for turn in item.turns]
        starts = [0, *(end for _, end in spans)]
        for start, (end, _), turn in zip(starts, spans, item.turns):
            asked = tokenizer.decode(encoded.input_ids[start:end])
            assert asked.endswith(f"{turn.question}{tokenizer.eos_token}<|assistant|>")
        expected = len(item.media) if item.kind == "image" else 0
        assert len(encoded.images) == expected
        assert len(encoded.frames) == (0 if item.kind == "image" else len(item.media))


def test_media_stand_once_before_the_first_question():
    item = playground.item("multi_image", "train", 0, 1, n_turns=3, max_side=96)
    messages, media = chat(item)
    kinds = [[part["type"] for part in message["content"]] for message in messages]
    assert kinds == [["image"] * len(item.media) + ["text"], *[["text"]] * 5]
    assert media == item.media


def test_words_read_off_pictures_are_kept_from_the_tokenizer():
    recipe = data_recipe(phases=[Phase(1, {"reading": 1.0, "counting": 1.0})])
    texts = list(tokenizer_texts(recipe, seed=0, n_items=20))
    families = ["counting", "reading"] * 10
    items = [
        playground.FAMILIES[name](item_stream(name, "train", 1, i), "train", 4, 96) for i, name in enumerate(families)
    ]
    expected = []
    for name, item in zip(families, items):
        for turn in item.turns:
            expected += [turn.question] if name == "reading" else [turn.question, turn.answer]
    assert texts == expected


@pytest.mark.slow
def test_a_worker_process_gives_the_same_stream():
    loader = DataLoader(stream(), batch_size=None, num_workers=1, collate_fn=lambda batch: batch)
    for here, there in islice(zip(stream(), loader), 4):
        assert here.position == there.position
        assert all(same(a, b) for a, b in zip(here.samples, there.samples, strict=True))


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"phases": []}, "phases"),
        ({"block_sizes": {}}, "block_sizes"),
        ({"block_sizes": {0: 1.0}}, "block_sizes 0"),
        ({"block_sizes": {8: 0.0}}, "block_sizes 8"),
        ({"workers": -1}, "workers"),
        ({"window": 0}, "window"),
        ({"rows_per_batch": 0}, "rows_per_batch"),
    ],
)
def test_impossible_recipes_are_refused_by_name(wrong, says):
    with pytest.raises(ValueError, match=says):
        replace(DataRecipe(), **wrong)


def test_unknown_families_and_empty_mixtures_are_refused():
    with pytest.raises(ValueError, match="'countng'; did you mean counting"):
        Phase(1, {"countng": 1.0})
    with pytest.raises(ValueError, match="must be positive"):
        Phase(1, {"counting": 0.0})
    with pytest.raises(ValueError, match="at least one playground family"):
        Phase(1, {})
