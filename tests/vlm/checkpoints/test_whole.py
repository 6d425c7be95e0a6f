"""Other projects' whole vision-language models: greedy block decoding token for token, against a restatement.

The restatement is the transformers class with the same weights, its text model run anew at every pass without a cache,
under a mask and positions written out here from each project's description. What it takes from our side is the pixels
of the request and the tokens that may not be written, which the published samplers do not hold back.
"""

from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.vlm.checkpoints.composites import chat, decoded, request_of, shown
from tests.vlm.checkpoints.wholes import BLOCK, FAMILIES, made
from vlm.checkpoints.convert import Choices, convert, converted
from vlm.checkpoints.export import export
from vlm.checkpoints.load import load

NEW = 11  # tokens of an answer: its last block is cut off


@dataclass
class Prompt:
    """What the original's text model reads of a prompt [P]: embeddings [1, P, D], axes [3, 1, P], DeepStack."""

    ids: list[int]
    embeds: torch.Tensor
    axes: torch.Tensor | None
    extra: dict


@torch.no_grad()
def read(kind: str, stock, ids: torch.Tensor, media: dict | None) -> Prompt:
    """The prompt as the stock class reads it; DiffusionVL and SDAR-VL number every token, also those of pictures."""
    text, seen = stock.get_decoder(), {}
    hook = text.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None]), **(media or {})}
    if kind != "sdar_v":
        inputs["mm_token_type_ids"] = (ids[None] == stock.config.image_token_id).int()
    stock(**inputs)
    hook.remove()
    extra = {n: seen[n] for n in ("visual_pos_masks", "deepstack_visual_embeds") if seen.get(n) is not None}
    own = kind in ("fast_dvlm", "bard_vl")
    axes = seen["position_ids"][-3:] if own else torch.arange(len(ids)).expand(3, 1, -1)
    return Prompt(ids.tolist(), seen["inputs_embeds"], None if kind == "sdar_v" else axes, extra)


@torch.no_grad()
def text_pass(stock, prompt: Prompt, tail: list[int], allowed: torch.Tensor) -> torch.Tensor:
    """Logits [P + T, V] of a prompt and what follows it, under a mask [P + T, P + T]."""
    embeds = torch.cat([prompt.embeds, stock.get_input_embeddings()(torch.tensor([tail], dtype=torch.long))], 1)
    place = torch.arange(len(allowed))[None]
    if prompt.axes is not None:  # behind a prompt all axes count on from the furthest of them
        rest = prompt.axes.max() + 1 + torch.arange(len(tail))
        place = torch.cat([prompt.axes, rest.expand(3, 1, -1)], -1)
    extra = dict(prompt.extra)
    if extra:
        extra["visual_pos_masks"] = torch.nn.functional.pad(extra["visual_pos_masks"], (0, len(tail)))
    text = stock.get_decoder()
    hidden = text(
        inputs_embeds=embeds, position_ids=place, attention_mask=allowed[None, None], use_cache=False, **extra
    )
    return stock.lm_head(hidden.last_hidden_state[0])


def sight(kind: str, prompt: int, final: int, total: int, size: int) -> torch.Tensor:
    """Who sees whom [total, total], from each description: ``final`` tokens are written, the block behind is open."""
    place = torch.arange(total)
    if kind == "fast_dvlm":  # token-causal, and the open block in both directions
        inside = place >= final
        return (place[None] <= place[:, None]) | (inside[None] & inside[:, None])
    blocks = place // size  # one grid over everything
    if kind == "bard_vl":  # the prompt's grid ends with a short block, the answer's starts anew
        blocks = torch.where(place < prompt, blocks, -(-prompt // size) + (place - prompt) // size)
    return blocks[None] <= blocks[:, None]


def restated(
    kind: str, stock, prompt: Prompt, mask: int, banned: list[int], choose, new: int = NEW, size: int = BLOCK
):
    """The answer's tokens, and how many passes over open blocks they took."""
    shift, written, passes = int(kind == "fast_dvlm"), [], 0
    while len(written) < new:
        final = len(prompt.ids) + len(written)
        taken = final % size if kind in ("diffusionvl_qwenvl", "sdar_v") else 0
        canvas, step = [mask] * (size - taken), 0
        while mask in canvas:
            first = shift and canvas[0] == mask  # the row before the block is clean and predicts its first token
            rows = [] if first else canvas
            allowed = sight(kind, len(prompt.ids), final, final + len(rows), size)
            logits = text_pass(stock, prompt, written + rows, allowed)
            logits = logits[final - shift :] if first else logits[final - shift : len(logits) - shift]
            logits[:, banned] = -torch.inf
            sure, best = logits.softmax(-1).max(-1)
            slots = [0] if first else [i for i, token in enumerate(canvas) if token == mask]
            for slot in choose({i: float(sure[i]) for i in slots}, step):
                canvas[slot] = int(best[slot])
            step, passes = step + 1, passes + 1
        written += canvas
    return written[:new], passes


def quota(size: int, steps: int):
    """The most confident slots: ``size`` over ``steps``, the rest of the division in the first steps."""

    def choose(sure: dict[int, float], step: int) -> list[int]:
        return sorted(sure, key=sure.get, reverse=True)[: size // steps + (step < size % steps)]

    return choose


def dynamic(tau: float):
    """All slots above ``tau``, or the best one."""

    def choose(sure: dict[int, float], step: int) -> list[int]:
        return [slot for slot in sure if sure[slot] > tau] or [max(sure, key=sure.get)]

    return choose


def of_four(kind: str, factory):
    """The stock model, and ours with blocks of four tokens, which BARD-VL's config does not say."""
    stock, model, processor, path = made(kind, factory)
    if kind == "bard_vl":
        model, processor = converted(str(path), Choices(block_size=BLOCK))
    return stock, model, processor


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("tau", [None, 0.02])
def test_decodes_as_published(kind, tau, tmp_path_factory):
    stock, model, processor = of_four(kind, tmp_path_factory)
    request = request_of(processor, ("image",))
    prompt = read(kind, stock, request.input_ids, request.media.inputs)
    rule = (model.config.traits.mask_token_id, model.generation_config.suppress_tokens)
    expected, passes = restated(kind, stock, prompt, *rule, quota(BLOCK, BLOCK) if tau is None else dynamic(tau))
    settings = {"policy": "static"} if tau is None else {"policy": "threshold", "threshold": tau}
    settings |= {} if tau is None else {"policy_args": {"strict": True}}
    assert decoded(model, [request], max_new_tokens=NEW, block_size=BLOCK, **settings) == [expected]
    assert rule[0] not in expected and (tau is None or passes < NEW)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_convert_writes_answers_alike(kind, tmp_path, tmp_path_factory):
    stock, model, processor, path = made(kind, tmp_path_factory)
    ours, theirs = model.language_model.state_dict(), stock.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    convert(str(path), str(tmp_path / "ours"))
    again, its_processor = load(str(tmp_path / "ours"), dtype=torch.float64, device="cpu")
    assert again.config.diffusion == model.config.diffusion
    given = [request_of(processor, ("image",)), request_of(processor, ())]
    theirs = [request_of(its_processor, ("image",)), request_of(its_processor, ())]
    quick = {"max_new_tokens": 5, "policy": "static", "denoising_steps": 2}
    assert decoded(again, theirs, **quick) == decoded(model, given, **quick)


@pytest.mark.parametrize("kind", FAMILIES)
def test_prompts_are_the_chat_template_around_as_many_placeholders_as_features(kind, tmp_path_factory):
    """Also where LLaVA's code cuts the text at its own placeholder and tokenizes the parts."""
    stock, _, processor, _ = made(kind, tmp_path_factory)
    request = request_of(processor, ("image",))
    with torch.no_grad():
        found = stock.model.get_image_features(**request.media.inputs, return_dict=True).pooler_output
    count = sum(len(part.reshape(-1, part.shape[-1])) for part in found)
    around = {"diffusionvl_qwenvl": ("", "\n"), "sdar_v": ("", "")}.get(kind, ("<|vision_start|>", "<|vision_end|>"))
    before = f"<|im_start|>user\n{around[0]}"
    after = f"{around[1]}What color is it?<|im_end|>\n<|im_start|>assistant\n"
    ids = [processor.tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)]
    assert request.input_ids.tolist() == [*ids[0], *[stock.config.image_token_id] * count, *ids[1]]
    encoded = processor.encode([*chat("image"), {"role": "assistant", "content": "It is red."}], shown("image"))
    assert processor.tokenizer.decode(encoded.input_ids[encoded.is_answer]) == "It is red.<|im_end|>"


def test_fast_dvlm_keeps_its_autoregressive_mode(tmp_path, tmp_path_factory):
    """AR mode is the stock class's greedy search, speculation gives its tokens, and it leaves as Qwen2.5-VL."""
    stock, model, processor, path = made("fast_dvlm", tmp_path_factory)
    request = request_of(processor, ("image",))
    kinds = (request.input_ids[None] == stock.config.image_token_id).int()
    inputs = {"input_ids": request.input_ids[None], "mm_token_type_ids": kinds, **request.media.inputs}
    told = {"max_new_tokens": NEW, "suppress_tokens": model.generation_config.suppress_tokens, "do_sample": False}
    tokens = stock.generate(**inputs, **told, eos_token_id=None, pad_token_id=0)[0, len(request.input_ids) :]
    assert decoded(model, [request], mode="ar", max_new_tokens=NEW) == [tokens.tolist()]
    assert decoded(model, [request], mode="speculative", max_new_tokens=NEW, block_size=8) == [tokens.tolist()]
    export(str(path), str(tmp_path / "ar"), "ar")
    back = AutoModelForImageTextToText.from_pretrained(tmp_path / "ar", dtype=torch.float64).eval()
    with torch.no_grad():
        assert type(back) is type(stock) and torch.equal(back(**inputs).logits, stock(**inputs).logits)


def test_fast_dvlms_blocks_of_the_paper_and_of_the_code(tmp_path_factory):
    path = str(made("fast_dvlm", tmp_path_factory).path)
    assert converted(path)[0].config.traits.trained_block_sizes == (4, 8, 16, 32)
    assert converted(path, Choices(block_size=32))[0].config.traits.trained_block_sizes == (32,)


def test_diffusionvl_drops_the_axes_of_pictures(tmp_path_factory):
    """Its code numbers every token on all three axes: as the stock text model under those positions, not as Qwen."""
    stock, model, processor, _ = made("diffusionvl_qwenvl", tmp_path_factory)
    request = request_of(processor, ("image",))
    ids, media = request.input_ids, request.media.inputs
    allowed = sight("diffusionvl_qwenvl", len(ids), len(ids), len(ids), BLOCK)
    with torch.no_grad():
        found = model(input_ids=ids[None], media=media).logits[0]
    prompt = read("diffusionvl_qwenvl", stock, ids, media)
    assert (found - text_pass(stock, prompt, [], allowed)).abs().max() <= 1e-9
    with_axes = read("bard_vl", stock, ids, media)  # which keeps them
    assert (found - text_pass(stock, with_axes, [], allowed)).abs().max() > 1e-3


def test_diffusionvls_quota_of_the_paper_and_of_the_code(tmp_path_factory):
    """D slots in S steps: the paper takes ceil(D / S) a step, the code shares out the rest. Either is a step count."""
    stock, model, *_ = made("diffusionvl_qwenvl", tmp_path_factory)
    ids = torch.randint(20, 250, (8,), generator=torch.Generator().manual_seed(3))  # on the grid
    prompt = read("diffusionvl_qwenvl", stock, ids, None)
    rule = (model.config.traits.mask_token_id, model.generation_config.suppress_tokens)

    def paper(sure: dict[int, float], step: int) -> list[int]:
        return sorted(sure, key=sure.get, reverse=True)[:2]  # ceil(4 / 3)

    answers = []
    for choose, steps in ((quota(BLOCK, 3), 3), (paper, 2)):
        expected, _ = restated("diffusionvl_qwenvl", stock, prompt, *rule, choose, new=12)
        given = {"policy": "static", "denoising_steps": steps, "max_new_tokens": 12, "eos_token_id": None}
        answers.append(model.generate(ids[None], **given).sequences[0, 8:].tolist())
        assert answers[-1] == expected
    assert answers[0] != answers[1]


def test_bards_quota_in_blocks_that_start_with_the_answer(tmp_path_factory):
    stock, model, processor = of_four("bard_vl", tmp_path_factory)
    request = request_of(processor, ("image", "image"))
    prompt = read("bard_vl", stock, request.input_ids, request.media.inputs)
    rule = (model.config.traits.mask_token_id, model.generation_config.suppress_tokens)
    expected, passes = restated("bard_vl", stock, prompt, *rule, quota(BLOCK, 3))
    assert passes == 9 and len(prompt.ids) % BLOCK
    assert decoded(model, [request], policy="static", denoising_steps=3, max_new_tokens=NEW) == [expected]


@torch.no_grad()
def test_sdar_vl_reads_its_tower_before_the_last_norm(tmp_path_factory):
    """The base view's features, layer by layer: no normalisation behind the last one."""
    stock, _, processor, _ = made("sdar_v", tmp_path_factory)
    media = request_of(processor, ("image",)).media.inputs
    found = stock.model.get_image_features(**media, return_dict=True).pooler_output[0]
    tower, projector = stock.model.vision_tower, stock.model.multi_modal_projector
    hidden = tower.embeddings(media["pixel_values"][0, :1].double())
    for layer in tower.encoder.layers:
        hidden = layer(hidden, attention_mask=None)
        hidden = hidden if isinstance(hidden, torch.Tensor) else hidden[0]

    def projected(features: torch.Tensor) -> torch.Tensor:
        return projector.linear_2(torch.nn.functional.gelu(projector.linear_1(features)))

    assert torch.allclose(found[:16], projected(hidden)[0], atol=1e-9)
    assert not torch.allclose(found[:16], projected(tower.post_layernorm(hidden))[0], atol=1e-3)
