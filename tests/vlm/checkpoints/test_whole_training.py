"""Training rows of other projects' whole models, against the doubled sequence [x_t ; x_0] that they train on.

The published layout repeats everything: a noised copy, then the clean stream, at the same positions. Under one mask a
noised token sees its own block of the noised copy and earlier blocks of the clean one. Noise is the same for both.
"""

import pytest
import torch

from tests.vlm.checkpoints.composites import chat, shown
from tests.vlm.checkpoints.test_whole import of_four, read
from tests.vlm.checkpoints.wholes import BLOCK, FAMILIES
from vlm.training.collate import collate, nelbo_sample, rows_of
from vlm.training.data import lay_out
from vlm.training.recipe import DataRecipe

ANSWERED = {"role": "assistant", "content": "It is red, and there are 4 circles."}


def numbers(kind: str, start: int, length: int) -> torch.Tensor:
    """Block [length] of every position; the answer begins at ``start``."""
    place = torch.arange(length)
    if kind in ("diffusionvl_qwenvl", "sdar_v"):
        return place // BLOCK
    before = torch.full((length,), -1) if kind == "fast_dvlm" else place // BLOCK
    first = 0 if kind == "fast_dvlm" else -(-start // BLOCK)
    return torch.where(place < start, before, first + (place - start) // BLOCK)


def doubled_sight(kind: str, blocks: torch.Tensor) -> torch.Tensor:
    """Who sees whom [2L, 2L]: the noised copy first."""
    same, earlier = blocks[:, None] == blocks[None], blocks[None] < blocks[:, None]
    place = torch.arange(len(blocks))
    clean = place[None] <= place[:, None] if kind == "fast_dvlm" else same | earlier
    return torch.cat([torch.cat([same, earlier], 1), torch.cat([torch.zeros_like(same), clean], 1)])


@torch.no_grad()
def doubled(
    kind: str, stock, clean: torch.Tensor, media: dict, noised: dict[int, int], start: int, sight=doubled_sight
) -> torch.Tensor:
    """Logits [2L, V] of the noised copy, in which position p holds the token ``noised[p]``, and of the clean one."""
    prompt, length = read(kind, stock, clean, media), max(noised) + 1
    table = stock.get_input_embeddings()
    fill = table(torch.tensor([[noised[p] for p in range(len(clean), length)]], dtype=torch.long))
    x_0 = torch.cat([prompt.embeds, fill], 1)[:, :length]
    x_t = x_0.clone()
    x_t[0, list(noised)] = table(torch.tensor(list(noised.values())))
    place = torch.arange(length)[None]
    if prompt.axes is not None:
        rest = prompt.axes.max() + 1 + torch.arange(max(0, length - len(clean)))
        place = torch.cat([prompt.axes, rest.expand(3, 1, -1)], -1)[..., :length]
    given = {"position_ids": torch.cat([place, place], -1), "use_cache": False}
    if prompt.extra:  # DeepStack adds to pictures in both copies
        seen = torch.nn.functional.pad(prompt.extra["visual_pos_masks"], (0, max(0, length - len(clean))))[:, :length]
        twice = [layer.repeat(2, 1) for layer in prompt.extra["deepstack_visual_embeds"]]
        given |= {"visual_pos_masks": seen.repeat(1, 2), "deepstack_visual_embeds": twice}
    allowed = sight(kind, numbers(kind, start, length))[None, None]
    hidden = stock.get_decoder()(inputs_embeds=torch.cat([x_t, x_0], 1), attention_mask=allowed, **given)
    return stock.lm_head(hidden.last_hidden_state[0])


@pytest.mark.parametrize("kind", FAMILIES)
def test_noised_rows_are_those_of_the_doubled_sequence(kind, tmp_path_factory):
    """So every loss on them is: cross-entropies at the masked slots, whatever their weights."""
    stock, model, processor = of_four(kind, tmp_path_factory)
    encoded = processor.encode([*chat("image"), ANSWERED], shown("image"))
    sample = lay_out(encoded, BLOCK, DataRecipe(), model.config.traits, processor.tokenizer.eos_token_id)
    batch = collate([sample], [nelbo_sample(sample, model.config.traits.mask_token_id, seed=1)], 0)
    rows, media = rows_of(batch), batch["media"]
    with torch.no_grad():
        found = model(batch["ids"], rows=rows, source=batch["source"], media=media).logits[0]
    at = torch.nonzero(rows.view[0] == 1).flatten()
    positions, ids = rows.position[0, at].tolist(), batch["ids"][0, at].tolist()
    start = int(encoded.is_answer.argmax())
    clean = torch.from_numpy(encoded.input_ids)
    expected = doubled(kind, stock, clean, media, dict(zip(positions, ids)), start)[positions]
    assert (found[at] - expected).abs().max() <= 1e-9
    masked = sum(token == model.config.traits.mask_token_id for token in ids)
    assert 0 < masked < len(ids) and len(positions) >= encoded.is_answer.sum()
