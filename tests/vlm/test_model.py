"""The model against stock transformers, against itself after saving, and training rows against cached decoding."""

import numpy as np
import pytest
import torch

from tests.vlm.tiny import BACKBONES, tiny_model
from vlm import VLMForBlockDiffusion
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.layout import build_layout, clean_blocks


def pixels(n: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def prompt_with_image(model, length: int = 9) -> torch.Tensor:
    ids = torch.randint(20, 250, (length,), generator=torch.Generator().manual_seed(1))
    ids[1:5] = model.config.image_token_id
    return ids


@pytest.mark.parametrize("backbone", BACKBONES)
def test_clean_stream_is_the_stock_language_model(backbone):
    model, _ = tiny_model(backbone)
    ids = torch.randint(20, 250, (2, 11))
    stock = model.language_model(input_ids=ids).logits
    assert torch.allclose(model(input_ids=ids).logits, stock, atol=1e-9)


def test_padding_on_either_side_changes_nothing():
    model, _ = tiny_model()
    ids = torch.randint(20, 250, (1, 7))
    alone = model(input_ids=ids).logits[0]
    left = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 7])
    assert torch.allclose(model(input_ids=left, attention_mask=mask).logits[0, 3:], alone, atol=1e-9)
    assert torch.allclose(
        model(input_ids=left.roll(7, 1), attention_mask=mask.roll(7, 1)).logits[0, :7], alone, atol=1e-9
    )


def test_save_and_load_give_the_same_logits(tmp_path):
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert isinstance(loaded, VLMForBlockDiffusion)
    ids, image = prompt_with_image(model).unsqueeze(0), pixels().float()
    assert torch.equal(
        model(input_ids=ids, pixel_values=image).logits, loaded(input_ids=ids, pixel_values=image).logits
    )
    assert loaded.config.traits == model.config.traits
    assert loaded.generation_config.suppress_tokens == model.generation_config.suppress_tokens
    assert not list(tmp_path.glob("*.bin"))
    again = AutoProcessor.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "red green"}]
    assert np.array_equal(processor.encode(chat, []).input_ids, again.encode(chat, []).input_ids)


def test_placeholders_and_features_must_agree():
    model, _ = tiny_model()
    ids = prompt_with_image(model).unsqueeze(0)
    with pytest.raises(ValueError, match="4 image placeholders but 8 image features"):
        model(input_ids=ids, pixel_values=pixels(2))
    with pytest.raises(ValueError, match="4 image placeholders but 0"):
        model(input_ids=ids)


def as_rows(columns: dict) -> Rows:
    names = ("position", "segment", "view", "block_start", "block_end")
    return Rows(*(torch.as_tensor(columns[name]).unsqueeze(0) for name in names))


@pytest.mark.parametrize("context", ["causal", "block_causal"])
@pytest.mark.parametrize("origin", ["response", "sequence"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_rows_equal_cached_prefix_and_block(context, origin, backbone):
    """Two-view logits of every noisy block equal: prefix in the cache, then one pass over the noised block."""
    model, _ = tiny_model(backbone, context_attention=context, block_origin=origin)
    traits = model.config.traits
    ids = prompt_with_image(model, 21).numpy()
    is_answer = np.zeros(21, bool)
    is_answer[6:15] = is_answer[18:] = True  # under the sequence grid the first answer block starts inside the image
    layout = build_layout(ids, is_answer, block_size=4, traits=traits, end_token_id=2)
    rng = np.random.default_rng(0)
    noised = np.where(layout.maskable & (rng.random(len(layout.ids)) < 0.6), traits.mask_token_id, layout.ids)
    columns = {**vars(layout), "segment": np.zeros(len(noised), np.int64)}
    rows, batch = as_rows(columns), torch.tensor(noised).unsqueeze(0)
    source = torch.tensor(layout.source).unsqueeze(0)
    trained = model(input_ids=batch, pixel_values=pixels(), rows=rows, source=source).logits[0]
    embeds = model.embed(batch, pixels(), None, rows.view, source)
    for block in range(layout.n_blocks):
        noisy = np.flatnonzero(layout.block == block)
        start = layout.block_start[noisy[0]]
        cache = BlockCache(model.config.text_config, 1, capacity=4)
        clean = np.arange(start)
        pieces = {name: getattr(layout, name)[clean] for name in ("position", "view", "block_start", "block_end")}
        if start:
            model.decode(embeds[:, clean], as_rows({**pieces, "segment": np.zeros(start, np.int64)}), cache)
            cache.commit(torch.tensor([start]))
        pieces = {name: getattr(layout, name)[noisy] for name in ("position", "view", "block_start", "block_end")}
        hidden = model.decode(embeds[:, noisy], as_rows({**pieces, "segment": np.zeros(4, np.int64)}), cache)
        assert torch.allclose(model.head(hidden)[0], trained[noisy], atol=1e-9), block


@pytest.mark.parametrize("context", ["causal", "block_causal"])
def test_vision_once_equals_the_doubled_layout(context):
    """The published trainers repeat the whole sequence; noisy answer rows come out the same."""
    model, _ = tiny_model(context_attention=context, block_origin="sequence")
    traits = model.config.traits
    length, block = 16, 4
    ids = prompt_with_image(model, length).numpy()
    is_answer = np.arange(length) >= 7
    layout = build_layout(ids, is_answer, block_size=block, traits=traits, end_token_id=2)
    masked_positions = np.isin(np.arange(length), [8, 9, 13])
    noised = np.where((layout.view > 0) & masked_positions[layout.position], traits.mask_token_id, layout.ids)
    rows = as_rows({**vars(layout), "segment": np.zeros(len(noised), np.int64)})
    source = torch.tensor(layout.source).unsqueeze(0)
    once = model(input_ids=torch.tensor(noised)[None], pixel_values=pixels(), rows=rows, source=source).logits[0]
    position = np.tile(np.arange(length), 2)
    start = position // block * block
    doubled_rows = as_rows({
        "position": position, "segment": np.zeros(2 * length, np.int64), "view": np.repeat([0, 1], length),
        "block_start": start, "block_end": start + block,
    })  # fmt: skip
    doubled = np.concatenate([ids, np.where(masked_positions, traits.mask_token_id, ids)])
    twice = model(
        input_ids=torch.tensor(doubled)[None], pixel_values=pixels(), rows=doubled_rows,
        source=torch.tensor(position)[None],
    ).logits[0, length:]  # fmt: skip
    noisy = layout.view == 1
    assert torch.allclose(once[noisy], twice[layout.position[noisy]], atol=1e-9)


def test_response_grid_of_a_prompt_matches_its_layout():
    """Decoding lays earlier answers out as training does: prompt blocks end where answers begin."""
    spans = [(5, 9)]
    borders = clean_blocks(12, spans, 4, "response")
    assert borders[4].tolist() == [4, 5] and borders[5].tolist() == [5, 9] and borders[9].tolist() == [9, 12]
