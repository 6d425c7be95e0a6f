"""Pictures of any shape through the whole model: what is counted is produced, alone and together, trained, decoded."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.vlm.tiny import TEXTS, greedy, tiny_model
from tests.vlm.training.small import data_recipe, small_recipe
from vision_encoders import Pictures, VisionConfig, build_vision_encoder
from vision_encoders.pictures import joined
from vlm import VLMForBlockDiffusion
from vlm.answering import build_request
from vlm.generation.generate import answer
from vlm.generation.prefix import PrefixStore
from vlm.noise import NoiseTokens
from vlm.training.build import build_model, build_processor, train_tokenizer
from vlm.training.collate import collate, noise_sample, rows_of
from vlm.training.data import lay_out, n_rows, row_count, token_counter
from vlm.training.run import run
from vlm.training.sections import DataRecipe, ModelRecipe, NoiseRecipe, ObjectiveRecipe

VIT = {"kind": "timm", "model": "vit_tiny_patch16_224", "image_size": 32,
       "options": {"embed_dim": 16, "depth": 1, "num_heads": 2}}  # fmt: skip
ANY_SIZE = {**VIT, "options": {**VIT["options"], "dynamic_img_size": True}}
RESNET = {"kind": "timm", "model": "resnet18", "image_size": 64,
          "options": {"layers": [1, 1, 1, 1], "channels": [64, 64, 64, 64], "norm_layer": "groupnorm"}}  # fmt: skip
LAYER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
SIGLIP = {"kind": "siglip", "model": "", "image_size": 32, "options": LAYER}
NAFLEX = {**SIGLIP, "kind": "siglip2", "options": {**LAYER, "num_patches": 16}}
POLICIES = {
    "square": VIT,
    "pad": {**VIT, "fit": "pad"},
    "anyres": {**VIT, "fit": "anyres", "max_grid": 3, "max_tiles": 4},
    "anyres newline": {**VIT, "fit": "anyres", "max_grid": 3, "newline": True},
    "anyres resnet": {**RESNET, "fit": "anyres", "max_grid": 2, "newline": True},
    "dynamic vit": {**ANY_SIZE, "fit": "dynamic", "max_pixels": 64 * 96},
    "dynamic merged": {**ANY_SIZE, "fit": "dynamic", "merge": 2, "min_pixels": 64**2, "max_pixels": 128**2},
    "dynamic resnet": {**RESNET, "fit": "dynamic", "max_pixels": 96 * 192},
    "dynamic siglip": {**SIGLIP, "fit": "dynamic", "max_pixels": 48**2},
    "dynamic siglip2": {**NAFLEX, "fit": "dynamic", "max_pixels": 48**2},
}
SHAPED = [name for name in POLICIES if name not in ("square", "pad")]
_built: dict = {}


def model_of(policy: str):
    """A tiny random float64 model; one a policy, read only."""
    if policy not in _built:
        text = {"model_type": "qwen3", "head_dim": 8, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                "max_position_embeddings": 4096, "tie_word_embeddings": True}  # fmt: skip
        tokenizer = train_tokenizer(TEXTS, 300)
        traits = {"block_size": 4, "trained_block_sizes": (1, 4, 8), "ar_mode": True}
        model = build_model(ModelRecipe(text=text, vision=POLICIES[policy], diffusion=traits), tokenizer, 0)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(8)
        _built[policy] = model.double().eval(), build_processor(model, tokenizer)
    return _built[policy]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng([seed, width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def asked(*kinds: str) -> list[dict]:
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": "red?"}]}]


# Of different token counts under every policy that has them, one of them twice.
SHOWN = [
    [picture(40, 30)],
    [picture(90, 33), picture(20, 70)],
    [],
    [picture(64, 64), [picture(30, 30)] * 3, picture(40, 30)],
]


def requests(processor) -> list:
    kinds = [["video" if isinstance(item, list) else "image" for item in shown] for shown in SHOWN]
    return [build_request(processor, asked(*kind), shown) for kind, shown in zip(kinds, SHOWN)]


@pytest.mark.parametrize("policy", POLICIES)
@given(sizes=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=3))
@settings(max_examples=6, deadline=None)
def test_what_is_counted_from_sizes_is_what_the_model_produces(policy, sizes):
    model, processor = model_of(policy)
    pictures = [picture(*size) for size in sizes]
    encoded = processor.encode(asked(*["image"] * len(sizes)), pictures)
    ids, _ = processor.tokens(asked(*["image"] * len(sizes)), sizes)
    assert np.array_equal(ids, encoded.input_ids)
    with torch.no_grad():
        features = model.encode_media(joined([encoded.images]).to(torch.float64))
    assert [len(f) for f in features] == [processor.image_tokens(size) for size in sizes]
    model.embed(torch.from_numpy(ids)[None], joined([encoded.images]))  # as many placeholders as features


@pytest.mark.parametrize("policy", SHAPED)
def test_the_features_of_a_picture_do_not_depend_on_the_others(policy):
    model, processor = model_of(policy)
    shown = [picture(*size) for size in ((40, 30), (90, 33), (20, 70), (33, 90), (90, 33))]
    batch = joined([processor.images(shown)])
    assert isinstance(batch, Pictures) and len(set(batch.counts)) > 1
    with torch.no_grad():
        together = model.encode_media(batch)
        for number, features in enumerate(together):
            alone = model.encode_media(batch[[number]])[0]
            assert torch.allclose(features, alone, rtol=0, atol=1e-9) and features.abs().max() > 1e-3


@pytest.mark.parametrize("policy", POLICIES)
def test_requests_with_ragged_pictures_decode_alike_alone_and_together(policy):
    model, processor = model_of(policy)
    settings_ = greedy(max_new_tokens=6, block_size=4)
    together = [state.generated for state in answer(model, requests(processor), settings_)]
    assert together == [answer(model, [request], settings_)[0].generated for request in requests(processor)]


@pytest.mark.parametrize("policy", ["anyres newline", "dynamic vit"])
def test_generate_shares_the_pictures_out_among_padded_prompts(policy):
    model, processor = model_of(policy)
    shown = [[picture(40, 30)], [], [picture(90, 33), picture(20, 70)]]
    texts = ["<|begin|><|user|>" + "<|image|>" * len(s) + "red?<|end|><|assistant|>" for s in shown]
    batch = processor(text=texts, images=shown, return_tensors="pt")
    assert isinstance(batch["pixel_values"], Pictures)
    together = model.generate(**batch, max_new_tokens=5).states
    for state, text, pictures in zip(together, texts, shown):
        alone = model.generate(**processor(text=[text], images=[pictures], return_tensors="pt"), max_new_tokens=5)
        assert state.generated == alone.states[0].generated
    with pytest.raises(ValueError, match="placeholders for"):
        model.generate(**{**batch, "pixel_values": batch["pixel_values"][[0]]}, max_new_tokens=5)


def prepared(processor, traits, shown, text: str = "green blue"):
    kinds = ["video" if isinstance(item, list) else "image" for item in shown]
    chat = [*asked(*kinds), {"role": "assistant", "content": text}]
    encoded = processor.encode(chat, shown)
    encoded.id = f"{len(shown)}/{text}"
    return lay_out(encoded, 4, DataRecipe(), traits, processor.tokenizer.eos_token_id)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("policy", ["square", "anyres newline", "dynamic vit", "dynamic resnet"])
def test_training_rows_with_ragged_pictures_are_alike_alone_and_together(policy, packed):
    model, processor = model_of(policy)
    samples = [prepared(processor, model.config.traits, shown) for shown in SHOWN]
    mask = NoiseTokens(model.config.traits.mask_token_id)
    noised = [noise_sample(s, mask, NoiseRecipe(), ObjectiveRecipe(), 0, 1, 0.5) for s in samples]

    def logits(chosen: list[int]) -> list[torch.Tensor]:
        packs = [len(chosen)] if packed else None
        batch = collate([samples[i] for i in chosen], [noised[i] for i in chosen], 0, packs)
        media = {k: batch[k] for k in ("pixel_values", "pixel_values_videos") if k in batch}
        with torch.no_grad():
            out = model(input_ids=batch["ids"], rows=rows_of(batch), source=batch["source"], **media).logits
        # Rows in the order of samples, whatever they were packed with: told by their number of rows and ids.
        return [out[batch["segment"] >= 0]]

    def key(rows: torch.Tensor) -> torch.Tensor:
        return rows.sum(-1).sort().values  # packing changes the order of samples

    together = key(logits([0, 1, 2, 3])[0])
    apart = key(torch.cat([logits([i])[0] for i in range(4)]))
    assert together.shape == apart.shape and torch.allclose(together, apart, rtol=0, atol=1e-8)


def test_gradients_reach_tower_projector_and_newline():
    model, processor = model_of("anyres newline")
    model = copy.deepcopy(model).train()
    request = build_request(processor, asked("image", "image"), [picture(90, 33), picture(20, 70)])
    ids = request.input_ids[None]
    model(input_ids=ids, pixel_values=request.pixel_values, labels=ids).loss.backward()
    projector = model.projector
    weights = [projector.newline, projector.position, projector.linear_1.weight, *model.vision_tower.parameters()]
    used = [w for w in weights if w.grad is not None and w.grad.abs().max() > 0]
    assert len(used) > 10 and projector.newline.grad.abs().max() > 0 and projector.position.grad.abs().max() > 0


@pytest.mark.parametrize("policy", ["anyres newline", "dynamic merged"])
def test_a_run_trains_on_ragged_pictures(tmp_path, policy):
    """Two steps of the whole trainer, with a loading process, from a saved checkpoint."""
    model, processor = model_of(policy)
    copy.deepcopy(model).float().save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    run(small_recipe(tmp_path / "run", tmp_path / "start", max_steps=2, save_steps=2, data=data_recipe(workers=1)))
    trained = VLMForBlockDiffusion.from_pretrained(tmp_path / "run" / "final", dtype=torch.float64)
    assert trained.config.vision_config["fit"] == policy.split()[0]
    before = dict(model.named_parameters())
    for name, weights in trained.named_parameters():
        assert weights.isfinite().all()
        if name in ("projector.newline", "projector.position", "projector.linear_1.weight"):
            assert not torch.allclose(weights, before[name], rtol=0, atol=1e-6), name


def test_every_row_of_tiles_ends_in_the_newline_and_only_these_tokens_differ():
    model, processor = model_of("anyres newline")
    shown = joined([processor.images([picture(90, 33)])])
    plan = shown.items[0].plan
    with torch.no_grad():
        features = model.encode_media(shown)[0]
    rows, columns = plan.tiles.shape
    lines = features[4:].view(rows, columns + 1, -1)
    assert torch.equal(lines[:, -1], model.projector.newline.expand(rows, -1))
    bare = copy.deepcopy(plan.tiles)
    object.__setattr__(bare, "newline", False)
    with torch.no_grad():
        views = model.projector.project(model.vision_tower(shown.items[0].views.double()))
        without = model.projector._tiles(views[1:], type(plan)(plan.view, plan.shape, 1, bare))
    assert torch.equal(lines[:, :-1].reshape(-1, 32), without)


def test_a_tiles_features_stand_where_the_tile_lies():
    """A change inside the picture's lower right tile changes that quarter of the map and the global view only."""
    model, processor = model_of("anyres")
    before = picture(64, 64)
    after = before.copy()
    after.paste((0, 0, 0), (40, 40, 64, 64))
    with torch.no_grad():
        one, two = (model.encode_media(joined([processor.images([p])]))[0] for p in (before, after))
    plan = processor.plan((64, 64))
    assert plan.tiles.grid == (2, 2) and plan.tiles.shape == (4, 4)
    changed = (one != two).any(-1)[4:].view(4, 4)
    assert changed[2:, 2:].all() and not changed[:2].any() and not changed[2:, :2].any()


def test_a_dynamic_picture_of_the_square_size_is_the_square():
    model, processor = model_of("dynamic vit")
    square = picture(32, 32)
    pixels = torch.from_numpy(processor.pixels([square])).double()
    with torch.no_grad():
        features = model.encode_media(joined([processor.images([square])]))[0]
        assert torch.equal(features, model.encode_media(pixels)[0])


@pytest.mark.parametrize("policy", ["anyres newline", "dynamic merged"])
def test_saving_keeps_the_policy(tmp_path, policy):
    from transformers import AutoProcessor

    model, processor = model_of(policy)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = VLMForBlockDiffusion.from_pretrained(tmp_path, dtype=torch.float64).eval()
    again = AutoProcessor.from_pretrained(tmp_path)
    shown = [picture(90, 33), picture(20, 70)]
    first, second = processor.encode(asked("image", "image"), shown), again.encode(asked("image", "image"), shown)
    assert np.array_equal(first.input_ids, second.input_ids)
    ids = torch.from_numpy(first.input_ids)[None]
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=joined([first.images])).logits
        assert torch.equal(expected, loaded(input_ids=ids, pixel_values=joined([second.images])).logits)


@pytest.mark.parametrize("policy", SHAPED)
def test_the_prefix_store_knows_ragged_pictures_by_their_content(policy):
    model, processor = model_of(policy)
    settings_, store = greedy(max_new_tokens=4), PrefixStore()
    plain = [state.generated for state in answer(model, requests(processor), settings_)]
    first = answer(model, requests(processor), settings_, None, None, store)
    encoded = store.encoded
    second = answer(model, requests(processor), settings_, None, None, store)
    assert [s.generated for s in first] == [s.generated for s in second] == plain
    assert store.encoded == encoded == 5  # four different images, and a frame that is shown three times
    assert all(state.reused > 0 for state in second)


def test_the_same_views_under_two_plans_are_two_pictures():
    _, processor = model_of("anyres")
    grey = [Image.new("RGB", size, (128, 128, 128)) for size in ((96, 96), (96, 70))]  # the color of the filling
    one, two = (build_request(processor, asked("image"), [picture]) for picture in grey)
    assert torch.equal(one.pixel_values.items[0].views, two.pixel_values.items[0].views)
    assert one.pixel_values.counts != two.pixel_values.counts and one.digests != two.digests


@pytest.mark.parametrize("policy", POLICIES)
def test_the_cost_of_a_sample_is_known_before_its_pictures_are_read(policy):
    model, processor = model_of(policy)
    recipe = DataRecipe()
    for shown in SHOWN:
        kinds = ["video" if isinstance(item, list) else "image" for item in shown]
        chat = [*asked(*kinds), {"role": "assistant", "content": "green blue"}]
        sizes = [len(item) if isinstance(item, list) else item.size for item in shown]
        sample = prepared(processor, model.config.traits, shown)
        assert len(processor.tokens(chat, sizes)[0]) == len(sample.encoded.input_ids)
        assert row_count(chat, sizes, processor, recipe, model.config.traits, 4) == n_rows(sample)


def test_a_checkpoints_own_processor_counts():
    pictures = [picture(40, 30), picture(90, 33)]
    chat = [*asked("image", "image"), {"role": "assistant", "content": "green"}]
    count = token_counter()
    assert count(chat, [p.size for p in pictures]) == count(chat[:1], [(1, 1)] * 2) + count(chat[1:], []) - 1 > 72


@pytest.mark.parametrize(
    ("vision", "says"),
    [
        ({**VIT, "fit": "dynamic"}, "dynamic_img_size"),
        ({**SIGLIP, "image_size": 36, "fit": "dynamic"}, "into patches of 8"),
        ({**RESNET, "image_size": 80, "fit": "dynamic"}, "whole patches"),
    ],
)
def test_an_encoder_of_one_size_is_refused_for_dynamic_pictures(vision, says):
    with pytest.raises(ValueError, match=says):
        build_vision_encoder(VisionConfig.from_dict(vision))


def test_a_checkpoint_without_a_policy_is_the_fixed_square():
    model, processor = tiny_model()
    said = {key: model.config.vision_config[key] for key in ("kind", "model", "image_size")}
    assert VisionConfig.from_dict(said).fit == "squash"
    assert processor.encode(asked("image"), [picture(90, 33)]).images.shape == (1, 3, 32, 32)
    assert not any("newline" in name for name, _ in model.named_parameters())
