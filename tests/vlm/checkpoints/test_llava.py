"""LLaDA-V and DiffusionVL's SigLIP variants: prompt, pixels, features, logits, greedy answers and losses, restated."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tests.vlm.checkpoints.composites import decoded
from tests.vlm.checkpoints.llavas import (
    BLOCK,
    KINDS,
    PICTURES,
    SIDE,
    SYSTEM,
    Parts,
    asked,
    conversations,
    grid_of,
    make,
    tiny_towers,
    views_of,
)
from tests.vlm.checkpoints.test_whole import dynamic, quota
from vlm.checkpoints.convert import Choices, converted
from vlm.noise import NoiseTokens, Uniform, levels, noise_rng
from vlm.training.collate import collate, noise_sample
from vlm.training.data import lay_out
from vlm.training.losses import losses
from vlm.training.recipe import DataRecipe, NoiseRecipe, ObjectiveRecipe

NEW = 12


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        tiny_towers(patch)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return partial(make, factory=tmp_path_factory)


def seen(parts: Parts, media: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Features of all pictures of one conversation; several are not cut into tiles."""
    sizes = [(int(width), int(height)) for height, width in media["image_sizes"]]
    views = media["pixel_values"].double()  # [N, V, 3, S, S]
    return [
        parts.features(v[: 1 + np.prod(grid_of(size))] if len(sizes) == 1 else v[:1], size)
        for v, size in zip(views, sizes)
    ]


def everything(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool)


def block_causal(length: int) -> torch.Tensor:
    blocks = torch.arange(length) // BLOCK
    return blocks[None] <= blocks[:, None]


SIGHT = {"llava_llada": everything, "llava_llada_bd3lm": block_causal, "diffusionvl_qwen": block_causal}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_a_picture_is_seen_as_llavas_code_shows_it(kind, number, made):
    """Views by Pillow, features by the parts, tokens by the text around them: then the logits of the whole prompt."""
    parts, model, processor, _ = made(kind)
    request = asked(processor, PICTURES[number])
    views = [np.asarray(view, np.float64) / 127.5 - 1 for view in views_of(PICTURES[number])]
    shown = request.media.inputs["pixel_values"][0].permute(0, 2, 3, 1).numpy()
    assert len(views) == [10, 4, 3][number] == len(shown)
    assert np.abs(np.stack(views) - shown).max() <= 2 / 127.5  # two filters that round to whole levels
    ids, features = request.input_ids.tolist(), seen(parts, request.media.inputs)
    assert ids == prompt_ids(kind, processor, ["", ""], [len(features[0])], model.config.image_token_id)
    expected = parts.logits(parts.embeds(ids, model.config.image_token_id, features), SIGHT[kind](len(ids)))
    with torch.no_grad():
        found = model(input_ids=request.input_ids[None], media=request.media.inputs).logits[0]
    assert (found - expected).abs().max() <= 1e-9


def prompt_ids(kind: str, processor, between: list[str], counts: list[int], image_id: int) -> list[int]:
    """Tokens of a prompt, cut where pictures stand: a line for them, then the question."""
    begin, start, middle, end = "", "<|im_start|>", "\n", "<|im_end|>\n"
    if "llada" in kind:
        begin, start, middle, end = "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"
    system = SYSTEM["llada" if "llada" in kind else "qwen"]
    first = f"{begin}{start}system{middle}{system}{end}{start}user{middle}"
    last = f"\nWhat color is it?{end}{start}assistant{middle}"
    pieces = [processor.tokenizer(text, add_special_tokens=False).input_ids for text in (first, *between[2:], last)]
    ids = list(pieces[0])
    for piece, count in zip(pieces[1:], counts):
        ids += [image_id] * count + piece
    return ids


def squared(image: Image.Image) -> Image.Image:
    """A picture among several: in the middle of a square of grey, at the tower's size."""
    canvas = Image.new("RGB", (max(image.size),) * 2, (127, 127, 127))
    canvas.paste(image, tuple((canvas.width - side) // 2 for side in image.size))
    return canvas.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def test_several_pictures_are_one_view_each(made):
    parts, model, processor, _ = made("llava_llada")
    request = asked(processor, *PICTURES[:2])
    for image, views in zip(PICTURES, request.media.inputs["pixel_values"]):
        shown = np.asarray(squared(image), np.float64) / 127.5 - 1
        assert np.abs(shown - views[0].permute(1, 2, 0).numpy()).max() <= 2 / 127.5
    ids, features = request.input_ids.tolist(), seen(parts, request.media.inputs)
    assert [len(found) for found in features] == [17, 17]
    assert ids == prompt_ids("llava_llada", processor, ["", "", " "], [17, 17], model.config.image_token_id)
    expected = parts.logits(parts.embeds(ids, model.config.image_token_id, features), everything(len(ids)))
    with torch.no_grad():
        found = model(input_ids=request.input_ids[None], media=request.media.inputs).logits[0]
    assert (found - expected).abs().max() <= 1e-9


def proposals(logits: torch.Tensor, banned: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    logits[:, banned] = -torch.inf
    return logits.softmax(-1).max(-1)


def denoised(parts: Parts, prompt: torch.Tensor, mask: int, banned: list[int], choose, size: int) -> list[int]:
    """LLaDA-V's: the whole answer stands there as masks, blocks of it are filled one after another."""
    canvas, start = [mask] * NEW, prompt.shape[1]
    table = parts.language.get_input_embeddings()
    for first in range(0, NEW, size):
        step = 0
        while mask in canvas[first : first + size]:
            rows = torch.cat([prompt, table(torch.tensor([canvas]))], 1)
            sure, best = proposals(parts.logits(rows, everything(rows.shape[1]))[start:], banned)
            slots = [i for i in range(first, first + size) if canvas[i] == mask]
            for slot in choose({i: float(sure[i]) for i in slots}, step):
                canvas[slot] = int(best[slot])
            step += 1
    return canvas


def in_blocks(parts: Parts, prompt: torch.Tensor, mask: int, banned: list[int], choose) -> list[int]:
    """DiffusionVL's: one grid over prompt and answer; what lies behind the open block is not there yet."""
    written, start = [], prompt.shape[1]
    table = parts.language.get_input_embeddings()
    while len(written) < NEW:
        final = start + len(written)
        canvas, step = [mask] * (BLOCK - final % BLOCK), 0
        while mask in canvas:
            rows = torch.cat([prompt, table(torch.tensor([written + canvas]))], 1)
            sure, best = proposals(parts.logits(rows, block_causal(rows.shape[1]))[final:], banned)
            slots = [i for i, token in enumerate(canvas) if token == mask]
            for slot in choose({i: float(sure[i]) for i in slots}, step):
                canvas[slot] = int(best[slot])
            step += 1
        written += canvas
    return written[:NEW]


@pytest.mark.parametrize("size, steps", [(NEW, NEW), (NEW, 5), (4, 3)])
def test_llada_v_decodes_as_published(size, steps, made):
    parts, _, processor, path = made("llava_llada")
    model, _ = converted(str(path), Choices(block_size=size))
    request = asked(processor, PICTURES[0])
    features = seen(parts, request.media.inputs)
    prompt = parts.embeds(request.input_ids.tolist(), model.config.image_token_id, features)
    mask, banned = model.config.traits.mask_token_id, model.generation_config.suppress_tokens
    expected = denoised(parts, prompt, mask, banned, quota(size, steps), size)
    settings = {"policy": "static", "denoising_steps": steps, "block_size": size, "max_new_tokens": NEW}
    assert decoded(model, [request], **settings) == [expected]


@pytest.mark.parametrize("kind", ["llava_llada_bd3lm", "diffusionvl_qwen"])
@pytest.mark.parametrize("tau", [None, 0.02])
def test_diffusionvl_decodes_as_published(kind, tau, made):
    parts, model, processor, _ = made(kind)
    request = asked(processor, PICTURES[2])
    features = seen(parts, request.media.inputs)
    prompt = parts.embeds(request.input_ids.tolist(), model.config.image_token_id, features)
    mask, banned = model.config.traits.mask_token_id, model.generation_config.suppress_tokens
    expected = in_blocks(parts, prompt, mask, banned, quota(BLOCK, BLOCK) if tau is None else dynamic(tau))
    settings = {"policy": "static"} if tau is None else {"policy": "threshold", "threshold": tau}
    settings |= {} if tau is None else {"policy_args": {"strict": True}}
    assert decoded(model, [request], max_new_tokens=NEW, **settings) == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_loss_on_fixed_noise(kind, made):
    """Sum of CE / p over hidden answer tokens, by the answer's length, averaged over samples.

    LLaDA-V hides at one level a conversation, in place; DiffusionVL at one a block, in a copy in front of the clean
    stream. Which rows were hidden at which level is handed to both; no fill, which either adds by rules of its own.
    """
    parts, model, processor, _ = made(kind)
    traits, image_id = model.config.traits, model.config.image_token_id
    recipe = NoiseRecipe(level="sequence" if kind == "llava_llada" else "block")
    samples, noised, wanted = [], [], 0.0
    for number, encoded in enumerate(conversations(processor, 1, 2)):
        encoded.id = str(number)
        sample = lay_out(encoded, BLOCK, DataRecipe(last_block="truncate"), traits, processor.tokenizer.eos_token_id)
        objective = ObjectiveRecipe("nelbo", ar_weight=0.0, normaliser="sample")
        drawn = noise_sample(sample, NoiseTokens(traits.mask_token_id), recipe, objective, 7, 0, 0.0)
        samples.append(sample)
        noised.append(drawn)
        n_blocks = sample.layout.n_blocks
        level = levels(Uniform(), recipe.level, noise_rng(7, 0, encoded.id, 1), n_blocks, 0.0, False)
        hidden = {
            int(position): float(level[block])
            for position, block, target in zip(sample.layout.position, sample.layout.block, drawn.targets)
            if target >= 0
        }
        wanted += restated_loss(kind, parts, encoded, hidden, traits.mask_token_id, image_id) / 2
    batch = collate(samples, noised, 0)
    totals = {"diffusion": sum(drawn.normaliser for drawn in noised), "next": 1.0}
    with torch.no_grad():
        found, _ = losses(model, batch, 0, totals)
    assert float(found) == pytest.approx(wanted, rel=1e-6) and wanted > 0  # the weights are float32


def restated_loss(kind: str, parts: Parts, encoded, hidden: dict[int, float], mask: int, image_id: int) -> float:
    """Of one conversation whose tokens at ``hidden`` (position to level) were replaced by the mask."""
    ids = encoded.input_ids.tolist()
    clean = parts.embeds(ids, image_id, seen(parts, encoded.media.inputs))
    noisy = clean.clone()
    noisy[0, list(hidden)] = parts.language.get_input_embeddings()(torch.tensor(mask)).detach()
    if kind == "llava_llada":
        logits = parts.logits(noisy, everything(len(ids)))
    else:
        blocks, none = torch.arange(len(ids)) // BLOCK, torch.zeros(len(ids), len(ids), dtype=torch.bool)
        same, earlier = blocks[:, None] == blocks[None], blocks[None] < blocks[:, None]
        allowed = torch.cat([torch.cat([same, earlier], 1), torch.cat([none, same | earlier], 1)])
        place = torch.arange(len(ids)).repeat(2)
        logits = parts.logits(torch.cat([noisy, clean], 1), allowed, place)[: len(ids)]
    told = logits.log_softmax(-1)
    return sum(-float(told[at, ids[at]]) / p for at, p in hidden.items()) / int(encoded.is_answer.sum())
