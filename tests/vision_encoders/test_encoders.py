"""Oracles: the stock timm and transformers networks with the same weights, and the shape of a real forward."""

# First: it makes torchvision importable beside a CPU-only torch, which timm needs.
import vision_encoders  # noqa: F401  # isort: skip

import json
import subprocess
import sys

import pytest
import timm
import torch
import transformers
from PIL import Image

from vision_encoders import VisionConfig, build_vision_encoder, pixels

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
SMALL_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32], "stem_width": 8, "stem_type": "deep"}
TIMM = [
    VisionConfig("timm", "resnet18", 64, options=SMALL_RESNET),
    VisionConfig("timm", "resnet10t", 80),
    VisionConfig("timm", "convnext_atto", 64),
    VisionConfig("timm", "vit_tiny_patch16_224", 48, options={"depth": 2, "reg_tokens": 3}),
    VisionConfig("timm", "deit_tiny_distilled_patch16_224", 32, options={"depth": 2}),
    VisionConfig("timm", "vit_base_patch16_siglip_gap_224", 32, options={"depth": 1, "embed_dim": 48, "num_heads": 2}),
    VisionConfig("timm", "swin_tiny_patch4_window7_224", 64, options={"embed_dim": 24, "depths": [1, 1, 1, 1]}),
    VisionConfig("timm", "mobilenetv3_small_050", 64),
    VisionConfig("timm", "resnet18", 32, options=SMALL_RESNET),  # one cell: batch statistics of it are impossible
]


def transformers_config(kind: str, layer: int = -1, size: int = 32, **options) -> VisionConfig:
    return VisionConfig(kind, "", size, feature_layer=layer, options={**TINY, **options})


def noise(config: VisionConfig, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, config.image_size, config.image_size, generator=generator)


@pytest.mark.parametrize("config", TIMM, ids=lambda config: config.model)
def test_timm_features_are_the_cells_of_forward_features(config):
    torch.manual_seed(0)
    encoder = build_vision_encoder(config).eval()
    images = noise(config)
    with torch.no_grad():
        features, raw = encoder(images), encoder.backbone.forward_features(images)
    (rows, columns), width = encoder.grid, encoder.hidden_size
    assert features.shape == (2, encoder.num_tokens, width) == (2, rows * columns, width)
    last = features[:, (rows - 1) * columns]  # the lower left cell
    if raw.ndim == 3:
        assert torch.equal(features, raw[:, raw.shape[1] - rows * columns :])
    elif "swin" in config.model:  # [N, h, w, D]
        assert raw.shape == (2, rows, columns, width) and torch.equal(last, raw[:, rows - 1, 0])
    else:
        assert raw.shape == (2, width, rows, columns) and torch.equal(last, raw[:, :, rows - 1, 0])


def test_prefix_tokens_are_dropped():
    counts = {config.model: build_vision_encoder(config) for config in TIMM[3:6]}
    raw = {name: encoder.backbone.num_prefix_tokens for name, encoder in counts.items()}
    assert list(raw.values()) == [4, 2, 0]
    assert [encoder.num_tokens for encoder in counts.values()] == [9, 4, 4]


def test_a_changed_quarter_of_the_image_changes_the_same_quarter_of_the_grid():
    torch.manual_seed(0)
    encoder = build_vision_encoder(VisionConfig("timm", "resnet18", 192, options=SMALL_RESNET)).eval()
    images = torch.zeros(1, 3, 192, 192)
    changed = images.clone()
    changed[:, :, :96, 96:] = 3.0
    with torch.no_grad():
        difference = (encoder(changed) - encoder(images)).norm(dim=-1).view(encoder.grid)
    upper, lower = difference[:3], difference[3:]
    for other in (upper[:, :3], lower[:, :3], lower[:, 3:]):
        assert upper[:, 3:].mean() > 2 * other.mean()


@pytest.mark.parametrize("config", TIMM[:4], ids=lambda config: config.model)
def test_building_leaves_the_network_in_training_mode_with_untouched_statistics(config):
    torch.manual_seed(3)
    encoder = build_vision_encoder(config)
    torch.manual_seed(3)
    sized = {"img_size": config.image_size} if config.model.startswith("vit") else {}
    stock = timm.create_model(config.model, num_classes=0, **sized, **config.options)
    assert encoder.training and all(module.training for module in encoder.modules())
    for (name, ours), theirs in zip(encoder.backbone.state_dict().items(), stock.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("layer", [-1, -2, 0, 2])
@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_features_are_the_hidden_states_of_the_stock_model(kind, layer):
    encoder = build_vision_encoder(transformers_config(kind, layer)).eval()
    name = {"siglip": "SiglipVisionModel", "clip": "CLIPVisionModel"}[kind]
    stock = getattr(transformers, name)(encoder.backbone.config).eval()
    stock.load_state_dict(encoder.backbone.state_dict())
    images = noise(encoder.config)
    with torch.no_grad():
        features, states = encoder(images), stock(images, output_hidden_states=True).hidden_states
    expected = states[layer][:, 1:] if kind == "clip" else states[layer]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
    assert features.shape == (2, 16, 16) and encoder.grid == (4, 4) and encoder.hidden_size == 16


def test_the_last_siglip_layer_is_read_before_the_closing_norm():
    encoder = build_vision_encoder(transformers_config("siglip")).eval()
    torch.nn.init.normal_(encoder.backbone.post_layernorm.weight)
    images = noise(encoder.config)
    with torch.no_grad():
        features, closed = encoder(images), encoder.backbone(images).last_hidden_state
        assert not torch.allclose(features, closed, atol=1e-2)
        torch.testing.assert_close(encoder.backbone.post_layernorm(features), closed)


@pytest.mark.parametrize("layer", [-1, -2])
def test_siglip2_equals_the_stock_processor_and_model(layer):
    module = pytest.importorskip("transformers.models.siglip2.image_processing_pil_siglip2")
    # A position table of 5 × 5 that must be resized to the 4 × 4 patches of the image.
    encoder = build_vision_encoder(transformers_config("siglip2", layer, num_patches=25)).eval()
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(0, 256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    images = [Image.fromarray(value) for value in values]
    inputs = module.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)(images, return_tensors="pt")
    assert inputs["spatial_shapes"].tolist() == [[4, 4], [4, 4]]
    with torch.no_grad():
        expected = encoder.backbone(**inputs, output_hidden_states=True).hidden_states[layer]
        features = encoder(torch.from_numpy(pixels(images, encoder.config)))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert features.shape == (2, encoder.num_tokens, encoder.hidden_size) and encoder.grid == (4, 4)


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "clip"])
def test_a_loaded_tower_is_rebuilt_from_its_config_alone(kind, tmp_path):
    source = build_vision_encoder(transformers_config(kind, -2)).eval()
    source.backbone.save_pretrained(tmp_path)
    # Another resolution than the position table's, and nothing said about the architecture.
    asked = VisionConfig(kind, "", 48, feature_layer=-2)
    loaded = build_vision_encoder(asked, pretrained=str(tmp_path)).eval()
    for ours, theirs in zip(loaded.state_dict().values(), source.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    again = build_vision_encoder(VisionConfig.from_dict(json.loads(json.dumps(loaded.config.to_dict())))).eval()
    again.load_state_dict(loaded.state_dict())
    images = noise(asked)
    with torch.no_grad():
        assert torch.equal(again(images), loaded(images))
    assert loaded(images).shape == (2, 36, 16) and loaded.grid == again.grid == (6, 6)


@pytest.mark.parametrize("config", [TIMM[0], TIMM[3], *map(transformers_config, ["siglip", "siglip2", "clip"])])
def test_gradients_reach_the_pixels_and_the_first_parameters(config):
    encoder = build_vision_encoder(config)
    images = noise(config).requires_grad_()
    features = encoder(images)
    # Random weights: a plain sum is blind behind a layer norm.
    (features * torch.randn_like(features)).sum().backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    reached = [name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert any("patch_embed" in name or "conv1" in name for name in reached)


def test_building_inside_a_meta_device_context_knows_the_shape():
    """transformers builds a model this way before it loads a checkpoint."""
    for config in (TIMM[0], TIMM[6], *map(transformers_config, ["siglip", "siglip2", "clip"])):
        with torch.device("meta"):
            hollow = build_vision_encoder(config)
        real = build_vision_encoder(config)
        assert (hollow.grid, hollow.hidden_size) == (real.grid, real.hidden_size)
        assert hollow.config == real.config and all(p.is_meta for p in hollow.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VisionConfig("timm", "resnet_18", 64), "did you mean .*resnet18"),
        (VisionConfig("timm", "", 64), "unknown timm model ''"),
        (VisionConfig("timm", "resnet18", 64, options={"no_such": 1}), "resnet18 .*no_such"),
        (VisionConfig("timm", "vit_tiny_patch16_224", 48, options={"img_size": 64}), "cannot take images of 48"),
        (VisionConfig("timm", "crossvit_tiny_240", 240), "crossvit_tiny_240"),
        (VisionConfig("siglip", "", 32, options={"hidden_siz": 16}), "'hidden_siz'; did you mean hidden_size"),
        (transformers_config("siglip", -5), "feature_layer -5 .* 3 layers"),
        (transformers_config("siglip2", size=36), "36 pixels into patches of 8"),
        (transformers_config("clip", size=4), "4 pixels into patches of 8"),
    ],
)
def test_a_config_that_cannot_be_built_is_explained(config, message):
    with pytest.raises(ValueError, match=message):
        build_vision_encoder(config)


def test_pretrained_of_the_wrong_sort_is_explained():
    with pytest.raises(ValueError, match="True or False"):
        build_vision_encoder(TIMM[0], pretrained="some/where")
    with pytest.raises(ValueError, match="directory or a hub id"):
        build_vision_encoder(transformers_config("clip"), pretrained=True)


@pytest.mark.parametrize(
    "config", [*TIMM, VisionConfig("clip", "", 8, -2, {"a": [1]}, (0, 0, 1), (1, 2, 3), "bilinear")]
)
def test_a_config_survives_json(config):
    assert VisionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imagesize": 3}, "unknown key 'imagesize'.*image_size"),
        ({"kind": "siglip3"}, "kind 'siglip3'; did you mean .*siglip"),
        ({"fit": "crop"}, "fit 'crop'"),
        ({"resample": "cubic"}, "resample 'cubic'; did you mean bicubic"),
        ({"image_size": 0}, "image_size"),
        ({"mean": [0.5, 0.5]}, "three numbers"),
        ({"std": [1, 0, 1]}, "std positive"),
        ({"feature_layer": -2}, "feature_layer"),
    ],
)
def test_an_impossible_config_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        VisionConfig.from_dict({**VisionConfig("timm", "resnet18", 64).to_dict(), **changes})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="model, image_size"):
        VisionConfig.from_dict({"kind": "timm"})


BROKEN = """
import importlib, sys, torch
calls, real = [], importlib.import_module
def fake(name, *rest):
    if name == "torchvision":
        calls.append(name)
        if {error!r} and len(calls) == 1:
            sys.modules["torchvision.half"] = object()
            raise {raised}
        return None
    return real(name, *rest)
importlib.import_module = fake
from importlib.util import spec_from_file_location, module_from_spec
spec = spec_from_file_location("compat", sys.argv[1])
module = module_from_spec(spec)
spec.loader.exec_module(module)
print(len(calls), "torchvision.half" in sys.modules, hasattr(torch.ops.torchvision, "qnms"), module._library is None)
"""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("", "1 False False True"),
        ("ImportError('no torchvision')", "1 True False True"),
        ("RuntimeError('operator torchvision::nms does not exist')", "2 False True False"),
    ],
)
def test_the_cure_acts_only_on_the_missing_operator(raised, expected):
    """Run apart: torchvision's state in a process cannot be taken back."""
    import vision_encoders.torchvision_compat as compat

    script = BROKEN.format(error=raised, raised=raised or "None")
    done = subprocess.run([sys.executable, "-c", script, compat.__file__], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
