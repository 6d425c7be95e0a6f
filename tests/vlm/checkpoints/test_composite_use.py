"""Converted vision-language models by the commands that a person uses, and in training."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import infer
from data_pipelines.media import open_media
from tests.vlm.checkpoints.composites import TINY, chat, composite, made, picture, shown, tokenizer_of
from tests.vlm.checkpoints.sources import change_config
from tests.vlm.tiny import greedy
from vlm import VLMConfig, convert, inspect
from vlm.answering import build_request
from vlm.checkpoints.load import load
from vlm.composite import Media, joined_media, part_of
from vlm.training import show
from vlm.training.collate import collate, nelbo_sample, rows_of
from vlm.training.data import lay_out, token_counter
from vlm.training.losses import losses
from vlm.training.recipe import DataRecipe

ANSWERED = {"role": "assistant", "content": "It is red, and there are 4 circles."}


def test_the_command_line_answers_about_a_picture(tmp_path, tmp_path_factory, capsys):
    path = made("qwen2_5_vl", tmp_path_factory).path
    picture(24, 16).save(tmp_path / "x.png")
    ask = [
        "--model",
        str(path),
        "--image",
        str(tmp_path / "x.png"),
        "--prompt",
        "What color?",
        "--max-new-tokens",
        "8",
    ]
    for mode in ("block", "ar", "speculative"):
        assert infer.main([*ask, "--json", "--device", "cpu", "--mode", mode]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["mode"] == mode and 0 < told["tokens"] <= 8 and "mask" not in told["answer"]


@pytest.fixture
def clip(tmp_path):
    """Four frames, five a second."""
    first, *more = (picture(16, 16, number) for number in range(4))
    first.save(tmp_path / "clip.gif", save_all=True, append_images=more, duration=200)
    return tmp_path / "clip.gif"


def test_videos_tell_their_times_to_the_originals_processor(clip, tmp_path_factory, capsys):
    messages = chat("video")
    messages[0]["content"][0]["video"] = str(clip)
    media = open_media(messages, 4)
    _, _, processor, path = made("qwen2_5_vl", tmp_path_factory)
    seconds = processor.encode(messages, media).media.inputs["second_per_grid_ts"]
    assert seconds.tolist() == pytest.approx([0.4])  # of two frames, which make one row of features
    _, _, processor, _ = made("qwen3_vl", tmp_path_factory)
    text = processor.tokenizer.decode(processor.encode(messages, media).input_ids)
    assert "<0.1 seconds>" in text and "<0.5 seconds>" in text  # the middle of each two
    assert infer.main(["--model", str(path), "--video", str(clip), "--prompt", "What?", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip()


def test_what_a_family_does_not_take_is_one_line(clip, tmp_path, tmp_path_factory, capsys):
    picture(24, 16).save(tmp_path / "x.png")

    def refused(family: str, *more: str) -> str:
        ask = ["--model", str(made(family, tmp_path_factory).path), "--prompt", "What?", "--video", str(clip)]
        capsys.readouterr()  # what making the model wrote
        assert infer.main([*ask, *more, "--device", "cpu"]) == 2
        return capsys.readouterr().err

    assert refused("idefics3") == "error: this model takes images only, no videos\n"
    assert "--timestamps" in refused("qwen2_5_vl", "--timestamps")
    assert "not both" in refused("smolvlm", "--image", str(tmp_path / "x.png"))


@pytest.mark.parametrize("family", TINY)
def test_it_is_described(family, tmp_path_factory, capsys):
    _, model, processor, path = made(family, tmp_path_factory)
    assert inspect.main([str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["conversion"]["family"] == family and told["modes"]["ar"] is None and told["modes"]["block"] is None
    assert told["traits"]["positions"] == ("mrope" if family.startswith("qwen") else "1d")
    merger = model.language_model.model.visual.merger if family.startswith("qwen") else part_of(model, "projector")
    counted = sum(parameter.numel() for parameter in dict.fromkeys(model.parameters()))
    assert sum(count for count, _ in told["parts"].values()) == counted
    if family != "qwen3_vl":  # which has a merger for every DeepStack layer beside it
        assert told["parts"]["projector"][0] == sum(parameter.numel() for parameter in merger.parameters())
    assert inspect.main([str(path.parent / "source")]) == 0
    assert "python -m vlm.convert" in capsys.readouterr().out


def test_what_cannot_be_converted_is_one_line(tmp_path, tmp_path_factory, capsys):
    source = made("qwen2_5_vl", tmp_path_factory).path.parent / "source"

    def refused(path, *more: str) -> str:
        capsys.readouterr()  # what saving the sources wrote
        assert convert.main([str(path), str(tmp_path / "out"), *more]) == 2 and not (tmp_path / "out").exists()
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "--vision is for language models" in refused(source, "--vision", "timm:resnet18")
    assert "block_size 0 must be at least 1" in refused(source, "--shift", "1", "--block-size", "0")
    sizeless = shutil.copytree(source, tmp_path / "sizeless")
    change_config(sizeless, text_config=None)  # transformers would fill in those of the 7B
    assert "is of a larger model" in refused(sizeless)
    bare = tmp_path / "bare"
    composite("qwen2_5_vl", dtype=torch.float32).save_pretrained(bare)
    assert "no tokenizer.json" in refused(bare)
    tokenizer_of("qwen2_5_vl").save_pretrained(bare)
    assert "no usable processor" in refused(bare)
    other = tmp_path / "other"
    composite("llava_onevision", dtype=torch.float32).save_pretrained(other)
    change_config(other, model_type="llava")
    assert "converted are qwen2_vl, qwen2_5_vl" in refused(other)


def test_its_own_processor_counts_and_shows_samples(tmp_path, tmp_path_factory, capsys):
    _, _, processor, path = made("qwen2_5_vl", tmp_path_factory)
    messages, media = [*chat("image"), ANSWERED], shown("image")
    expected = len(processor.encode(messages, media).input_ids)
    assert token_counter(str(path))(messages, [media[0].size]) == expected
    media[0].save(tmp_path / "x.png")
    messages[0]["content"][0]["image"] = "x.png"
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    asked = [str(tmp_path / "data.jsonl"), "--model", str(path), "--output", str(tmp_path / "rows.html")]
    assert show.main(asked) == 0, capsys.readouterr().err
    assert f"{expected} in the clean stream" in (tmp_path / "rows.html").read_text()


def test_pixels_that_are_not_its_processors_are_refused(tmp_path_factory):
    _, model, _, _ = made("qwen2_5_vl", tmp_path_factory)
    ids = torch.tensor([[20, model.config.image_token_id, 21]])
    with pytest.raises(ValueError, match="come as `media` from its own processor"):
        model.generate(ids, pixel_values=torch.zeros(1, 3, 16, 16), max_new_tokens=4)


def test_generate_takes_media(tmp_path_factory):
    stock, model, processor, _ = made("qwen3_vl", tmp_path_factory)
    request = build_request(processor, chat("image"), shown("image"))
    told = {"max_new_tokens": 6, "eos_token_id": None}
    found = model.generate(request.input_ids.unsqueeze(0), media=Media(request.media.inputs), mode="ar", **told)
    ids = request.input_ids.unsqueeze(0)
    kinds = (ids == model.config.image_token_id).int()
    inputs = {**request.media.inputs, "mm_token_type_ids": kinds}
    inputs["pixel_values"] = inputs["pixel_values"].double()
    told |= {"suppress_tokens": model.generation_config.suppress_tokens, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(found.sequences, stock.generate(ids, **inputs, **told))


def test_a_cache_is_not_continued_under_three_axes(tmp_path_factory):
    from vlm.cache import BlockCache

    _, model, _, _ = made("qwen2_5_vl", tmp_path_factory)
    cache, ids = BlockCache(model.config.text_config, 1), torch.arange(20, 30).unsqueeze(0)
    model.generate(ids, past_key_values=cache, generation_config=greedy(max_new_tokens=4))
    with pytest.raises(ValueError, match="positions 'mrope'"):
        model.generate(ids, past_key_values=cache, generation_config=greedy(max_new_tokens=4))


def prepared(model, processor, kinds: tuple[str, ...], text: str):
    encoded = processor.encode([*chat(*kinds, text=text), ANSWERED], shown(*kinds))
    return lay_out(encoded, 4, DataRecipe(), model.config.traits, processor.tokenizer.eos_token_id)


@pytest.mark.parametrize("family", TINY)
def test_training_rows_are_the_same_alone_together_and_packed(family, tmp_path_factory):
    """Their clean rows are the plain stream, so the next-token loss is the original model's."""
    _, model, processor, _ = made(family, tmp_path_factory)
    kinds = [("image",), ("image", "image"), (), ("video",) if TINY[family].video else ("image",)]
    samples = [prepared(model, processor, one, f"What color is {n}?") for n, one in enumerate(kinds)]
    noised = [nelbo_sample(sample, model.config.traits.mask_token_id, seed=0) for sample in samples]

    def hidden(which: list[int], packs: list[int] | None) -> dict[int, torch.Tensor]:
        batch = collate([samples[i] for i in which], [noised[i] for i in which], 0, packs)
        rows, ids = rows_of(batch), batch["ids"]
        logits = model(ids, rows=rows, source=batch["source"], media=batch.get("media")).logits
        theirs = [rows.segment[row] == s for row in range(len(ids)) for s in rows.segment[row].unique() if s >= 0]
        at = [row for row in range(len(ids)) for s in rows.segment[row].unique() if s >= 0]
        parts = {tuple(ids[row, mine].tolist()): logits[row, mine] for row, mine in zip(at, theirs)}
        return {i: parts[tuple(noised[i].ids.tolist())] for i in which}

    with torch.no_grad():
        alone = {i: hidden([i], None)[i] for i in range(4)}
        for packs in (None, [4], [1, 3]):
            together = hidden([0, 1, 2, 3], packs)
            assert max((together[i] - alone[i]).abs().max() for i in range(4)) <= 1e-9
        for i, sample in enumerate(samples):
            media = None if sample.encoded.media is None else sample.encoded.media.inputs
            ids = torch.from_numpy(sample.encoded.input_ids).unsqueeze(0)
            plain = model(ids, media=media).logits[0]
            assert (alone[i][: len(plain)] - plain).abs().max() <= 1e-9


@pytest.mark.parametrize("family", ["qwen3_vl", "idefics3"])
def test_its_parts_learn_unless_they_are_frozen(family, tmp_path_factory):
    _, model, processor, _ = made(family, tmp_path_factory)
    sample = prepared(model, processor, ("image",), "What?")
    batch = collate([sample], [nelbo_sample(sample, model.config.traits.mask_token_id, seed=0)], 0)
    tower = part_of(model, "vision_tower")
    for frozen in (False, True):
        tower.requires_grad_(not frozen)
        model.zero_grad()
        diffusion, ar = losses(model, batch, 0, {"diffusion": 1.0, "next": 1.0})
        (diffusion + ar).backward()
        grads = [parameter.grad for parameter in tower.parameters()]
        assert any(grad is not None and grad.any() for grad in grads) is not frozen
        assert model.language_model.lm_head.weight.grad.abs().sum() > 0
    tower.requires_grad_(True)
    model.zero_grad()


def test_tiles_of_unequal_number_stand_in_one_batch():
    a, b = (Media({"pixel_values": torch.ones(1, n, 3, 2, 2), "image_sizes": torch.tensor([[n, 2]])}) for n in (2, 3))
    found = joined_media([a, b])
    assert found["pixel_values"].shape == (2, 3, 3, 2, 2) and found["image_sizes"].tolist() == [[2, 2], [3, 2]]
    assert not found["pixel_values"][0, 2].any() and np.all(found["pixel_values"][1].numpy() == 1)


def test_three_axes_and_two_way_pictures_need_a_composite():
    for trait in ({"positions": "mrope"}, {"media_attention": "bidirectional"}):
        with pytest.raises(ValueError, match="needs a composite_config"):
            VLMConfig(diffusion=trait)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_saved_again_it_is_the_same(family, tmp_path, tmp_path_factory):
    _, model, processor, path = made(family, tmp_path_factory)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load(str(tmp_path), dtype=torch.float64, device="cpu")
    assert again.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    kept, read = model.state_dict(), again.state_dict()
    assert kept.keys() == read.keys() and all(torch.equal(kept[name], read[name]) for name in kept)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(path / "model.safetensors").keys()
