"""Oracles: closed-form values on constant images, geometry of both fits, and the processors of transformers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_encoders import VisionConfig, pixels

# PIL's image-processor module is imported from its file: the public name picks a backend by what is installed.
clip_processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
siglip_processor = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")


def config(size: int = 32, **changes) -> VisionConfig:
    return VisionConfig("timm", "resnet18", size, **changes)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=3),
    size=st.integers(1, 40),
    fit=st.sampled_from(["squash", "pad"]),
)
def test_shape_and_dtype_of_any_batch(sizes, size, fit):
    batch = pixels([picture(*shape) for shape in sizes], config(size, fit=fit))
    assert batch.shape == (len(sizes), 3, size, size)
    assert batch.dtype == np.float32 and batch.flags.c_contiguous
    assert np.isfinite(batch).all()


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_a_constant_square_stays_constant(fit, resample):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    image = Image.new("RGB", (50, 50), (255, 51, 0))
    (values,) = pixels([image], config(mean=mean, std=std, fit=fit, resample=resample))
    for channel, expected in enumerate([(1.0 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0.0 - 0.3) / 2.0]):
        np.testing.assert_allclose(values[channel], expected, atol=1e-6)


def test_squash_fills_the_square_and_pad_keeps_the_aspect_ratio():
    image = Image.new("RGB", (80, 40), (255, 255, 255))
    mean = (0.2, 0.4, 0.6)  # exact multiples of 1/255
    (squashed,) = pixels([image], config(mean=mean, std=(1, 1, 1)))
    (padded,) = pixels([image], config(mean=mean, std=(1, 1, 1), fit="pad"))
    white = 1 - np.float32(mean)[:, None, None]
    np.testing.assert_allclose(squashed, np.broadcast_to(white, squashed.shape), atol=1e-6)
    np.testing.assert_allclose(padded[:, 8:24], np.broadcast_to(white, (3, 16, 32)), atol=1e-6)
    # Padding has the mean color, so it is zero after normalisation.
    np.testing.assert_allclose(np.delete(padded, np.s_[8:24], axis=1), 0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_pad_places_one_centred_rectangle(width, height):
    image = Image.new("RGB", (width, height), (255, 255, 255))
    (values,) = pixels([image], config(mean=(0, 0, 0), std=(1, 1, 1), fit="pad"))
    rows, columns = np.flatnonzero(values[0].max(1)), np.flatnonzero(values[0].max(0))
    assert max(len(rows), len(columns)) == 32
    assert (values[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 1).all()
    for lines, extent, other in ((rows, height, width), (columns, width, height)):
        assert abs(len(lines) - max(1, 32 * extent / max(extent, other))) <= 0.5
        assert 0 <= (31 - lines[-1]) - lines[0] <= 1


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_other_modes_equal_their_rgb_conversion(mode):
    image = picture(20, 30).convert(mode)
    np.testing.assert_array_equal(pixels([image], config()), pixels([image.convert("RGB")], config()))


def test_a_batch_equals_its_single_images():
    images = [picture(20, 30, 1), picture(64, 32, 2), picture(7, 9, 3)]
    together = pixels(images, config(fit="pad"))
    np.testing.assert_array_equal(together, np.concatenate([pixels([image], config(fit="pad")) for image in images]))


@pytest.mark.parametrize("shape", [(64, 64), (90, 37), (20, 50), (48, 48)])
@pytest.mark.parametrize(("resample", "code"), [("bilinear", 2), ("bicubic", 3)])
@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_squash_equals_the_processor_of_transformers(family, shape, resample, code):
    square = {"size": {"height": 48, "width": 48}, "resample": code}
    if family == "siglip":
        processor = siglip_processor.SiglipImageProcessorPil(**square)
    else:
        processor = clip_processor.CLIPImageProcessorPil(**square, do_center_crop=False)
    image = picture(*shape)
    expected = processor(image, return_tensors="np")["pixel_values"]
    ours = config(48, resample=resample, mean=tuple(processor.image_mean), std=tuple(processor.image_std))
    np.testing.assert_allclose(pixels([image], ours), expected, atol=1e-6)
