"""Converted vision-language models in block mode, against their own text model without a cache."""

import pytest
import torch

from tests.vlm.checkpoints.composites import NEW, SHOWN, TINY, decoded, made, request_of, save, stock_inputs
from vlm.checkpoints.convert import Choices, converted
from vlm.composite import Media
from vlm.generation.likelihood import score_continuations
from vlm.generation.prefix import PrefixStore
from vlm.generation.request import Request

# The others differ in nothing that a batch shows.
BATCHED = ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "gemma3"]
BATCHED += [pytest.param(family, marks=pytest.mark.slow) for family in TINY if family not in BATCHED]


def uncached(stock, inputs: dict, size: int, banned: list[int], mask_id: int) -> list[int]:
    """Block decoding, a token a pass, that computes everything anew each time: by the original's text model alone.

    The prompt's embeddings, positions and DeepStack features are those that the original hands to it.
    """
    text, seen = stock.get_decoder(), {}
    hook = text.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    with torch.no_grad():
        stock(**inputs)
    hook.remove()
    prompt, written = inputs["input_ids"][0].tolist(), []
    extra = {n: seen[n] for n in ("visual_pos_masks", "deepstack_visual_embeds") if seen.get(n) is not None}
    while len(written) < NEW:
        canvas = [mask_id] * size
        while mask_id in canvas:
            rows = (seen["inputs_embeds"], prompt, written, canvas)
            logits = text_pass(stock, text, *rows, seen["position_ids"], extra)
            logits[:, banned] = -torch.inf
            sure, best = logits.softmax(-1).max(-1)
            slot = max((i for i in range(size) if canvas[i] == mask_id), key=lambda i: sure[i])
            canvas[slot] = int(best[slot])
        written += canvas
    return written[:NEW]


@torch.no_grad()
def text_pass(stock, text, embeds, prompt, written, canvas, positions, extra) -> torch.Tensor:
    """Logits of the canvas [size, V]."""
    clean, total = len(prompt) + len(written), len(prompt) + len(written) + len(canvas)
    tail = stock.get_input_embeddings()(torch.tensor([written + canvas]))
    place = torch.arange(total)
    in_block = place >= clean
    allowed = (place.unsqueeze(0) <= place.unsqueeze(1)) | (in_block.unsqueeze(0) & in_block.unsqueeze(1))
    pictures = torch.tensor([token == stock.config.image_token_id for token in prompt + written + canvas])
    masks = {"full_attention": allowed}
    if stock.config.model_type == "gemma3":
        run = (pictures & ~torch.cat([torch.zeros(1, dtype=torch.bool), pictures[:-1]])).cumsum(0)
        allowed = allowed | (pictures.unsqueeze(0) & pictures.unsqueeze(1) & (run.unsqueeze(0) == run.unsqueeze(1)))
        near = place.unsqueeze(1) - place.unsqueeze(0) < stock.config.text_config.sliding_window
        masks = {"full_attention": allowed, "sliding_attention": allowed & near}
    masks = {name: mask.expand(1, 1, total, total) for name, mask in masks.items()}
    if positions is not None and positions.ndim == 3:  # from the last position of any axis on, all axes count alike
        rest = positions.max() + 1 + torch.arange(total - len(prompt))
        place = torch.cat([positions[-3:], rest.expand(3, 1, -1)], -1)
    else:
        place = place.unsqueeze(0)
    if extra:
        shown_at = extra["visual_pos_masks"]
        extra = {**extra, "visual_pos_masks": torch.nn.functional.pad(shown_at, (0, total - shown_at.shape[1]))}
    hidden = text(
        inputs_embeds=torch.cat([embeds, tail], 1), position_ids=place, use_cache=False,
        attention_mask=masks if len(masks) > 1 else masks["full_attention"], **extra,
    ).last_hidden_state  # fmt: skip
    return stock.lm_head(hidden[0, clean:])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3", "llava_onevision", "idefics3"])
def test_block_mode_with_a_cache_is_the_originals_text_model_without_one(family, tmp_path_factory):
    stock, model, processor, _ = made(family, tmp_path_factory)
    banned, mask_id = model.generation_config.suppress_tokens, model.config.traits.mask_token_id
    expected = uncached(stock, stock_inputs(family, ("image", "image")), 4, banned, mask_id)
    found = decoded(model, [request_of(processor, ("image", "image"))], policy="static", denoising_steps=4)
    assert found == [expected] and mask_id not in expected


@pytest.mark.parametrize("family", BATCHED)
def test_a_batch_of_all_kinds_gives_each_its_own_answer(family, tmp_path_factory):
    """Prompts with and without pictures, of all lengths, together and alone."""
    _, model, processor, _ = made(family, tmp_path_factory)
    kinds = [(), *(kinds for one, kinds in SHOWN if one == family)]
    quick = {"policy": "static", "denoising_steps": 2}
    alone = [decoded(model, [request_of(processor, one)], **quick)[0] for one in kinds]
    assert decoded(model, [request_of(processor, one) for one in kinds], **quick) == alone
    assert len({tuple(tokens) for tokens in alone}) > 1
    assert not any(model.config.traits.mask_token_id in tokens for tokens in alone)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
@pytest.mark.parametrize("context", ["causal", "block_causal"])
def test_a_kept_prefix_changes_no_answer(family, context, tmp_path):
    """The same picture and two questions: the second reads from the store what the first has read."""
    save(family, tmp_path / "source")
    model, processor = converted(str(tmp_path / "source"), Choices(block_size=4, context=context))
    texts = ("red green blue, how many circles?", "red green blue, what is at the top?")
    requests = [lambda text=text: request_of(processor, ("image", "image"), text=text) for text in texts]
    alone = [decoded(model, [request()])[0] for request in requests]
    store = PrefixStore()
    assert [decoded(model, [request()], store)[0] for request in requests] == alone
    pictures = int((requests[0]().input_ids == model.config.image_token_id).sum())
    assert store.reused_tokens > pictures


@pytest.mark.parametrize("stored", [False, True])
def test_one_picture_may_stand_at_two_places_of_two_prompts(stored, tmp_path_factory):
    """The same `Media`, together in a batch, or one after the other with the picture's KV from the store."""
    _, model, processor, _ = made("qwen3_vl", tmp_path_factory)
    first = request_of(processor, ("image",))
    ids = [first.input_ids, torch.cat([torch.tensor([40, 41, 42, 43, 44]), first.input_ids])]
    ids += [torch.cat([before, torch.tensor([50, 51])]) for before in ids] if stored else []
    alone = [decoded(model, [Request(i, media=Media(first.media.inputs))])[0] for i in ids]
    requests = [Request(i, media=first.media) for i in ids]
    if not stored:
        assert decoded(model, requests) == alone
        return
    store = PrefixStore()
    assert [decoded(model, [request], store)[0] for request in requests] == alone
    assert store.reused_tokens > 2 * len(first.input_ids)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_under_full_attention_a_picture_stands_where_it_stood(family, tmp_path):
    """Every pass feeds everything: an answer of one block begins as the prompt and its masks in one pass."""
    save(family, tmp_path / "source")
    model, processor = converted(str(tmp_path / "source"), Choices(block_size=4, context="full"))
    kinds = [("image",), (), ("image", "image")]
    alone = [decoded(model, [request_of(processor, one)])[0] for one in kinds]
    assert decoded(model, [request_of(processor, one) for one in kinds]) == alone
    request, mask_id = request_of(processor, ("image",)), model.config.traits.mask_token_id
    ids = torch.cat([request.input_ids, torch.full((4,), mask_id)]).unsqueeze(0)
    with torch.no_grad():
        logits = model(input_ids=ids, media=request.media.inputs).logits[0, -4:]
    logits[:, model.generation_config.suppress_tokens] = -torch.inf
    first = decoded(model, [request], max_new_tokens=4, policy="static", denoising_steps=1)[0]
    assert first == logits.argmax(-1).tolist()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_likelihoods_read_pictures_too(family, tmp_path_factory):
    stock, model, processor, _ = made(family, tmp_path_factory)
    inputs, tokens = stock_inputs(family, ("image",)), [40, 41, 42]
    ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
    longer = {name: torch.nn.functional.pad(inputs[name], (0, 3)) for name in inputs if name.endswith("type_ids")}
    with torch.no_grad():
        logits = stock(**{**inputs, **longer, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
    expected = logits[-4:-1].log_softmax(-1)[range(3), tokens].sum().item()
    found = score_continuations(model, [request_of(processor, ("image",))], [tokens], mode="ar")
    assert found[0].logprob == pytest.approx(expected, abs=1e-9)
