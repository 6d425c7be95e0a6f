"""Plans against the arithmetic of published processors, and against what pixels and features turn out to be."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from vision_encoders import VisionConfig, plan, views
from vision_encoders.resolution import best_grid, dynamic_size

onevision = pytest.importorskip("transformers.models.llava_onevision.processing_llava_onevision")
packing = pytest.importorskip("transformers.models.llava_onevision.modeling_llava_onevision")
qwen = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")

SIDES = st.integers(1, 3000)
SIDE, TILE = 4, 28  # features and pixels a side of a square


def config(fit: str, **changes) -> VisionConfig:
    return VisionConfig("timm", "resnet18", TILE, fit=fit, **changes)


@given(SIDES, SIDES, st.sampled_from([14, 28, 32]), st.integers(1, 60), st.integers(60, 1500))
@settings(max_examples=150, deadline=None)
def test_dynamic_sizes_are_qwens(width, height, unit, fewest, most):
    assume(min(width, height) >= unit and max(width, height) < 200 * min(width, height))
    limits = (fewest * unit**2, most * unit**2)
    expected = qwen.smart_resize(height, width, unit, *limits)
    assume(limits[0] <= expected[0] * expected[1] <= limits[1])  # it promises both, and breaks that for long strips
    assert dynamic_size((width, height), unit, *limits) == expected[::-1]


@given(SIDES, SIDES, st.integers(1, 64), st.integers(1, 10**6), st.integers(1, 10**6))
@settings(max_examples=150, deadline=None)
@example(100_000, 1, 28, 1, 28 * 28 * 16)
def test_dynamic_sizes_keep_to_whole_units_and_to_the_most(width, height, unit, fewest, most):
    most = max(most, unit**2)
    got = dynamic_size((width, height), unit, min(fewest, most), most)
    assert got[0] % unit == got[1] % unit == 0 < min(got)
    assert got[0] * got[1] <= most
    assert dynamic_size(got, unit, 1, most) == got  # what fits is left as it is


@given(SIDES, SIDES, st.integers(1, 6), st.sampled_from([28, 384]))
@settings(max_examples=150, deadline=None)
def test_grids_are_llavas(width, height, most, side):
    grids = [(r * side, c * side) for r in range(1, most + 1) for c in range(1, most + 1)]
    assume(max(width, height) < side * min(width, height))  # longer strips are less than a pixel across there
    expected = select_best_resolution((height, width), grids)
    assert best_grid((width, height), side, most) == (expected[0] // side, expected[1] // side)


class Published:
    """The published processor's count, given the few things that it reads of itself."""

    vision_aspect_ratio = "anyres_max_9"
    num_image_tokens = SIDE**2
    _get_unpadded_features = onevision.LlavaOnevisionProcessor._get_unpadded_features
    count = onevision.LlavaOnevisionProcessor._get_number_of_features

    class image_processor:
        image_grid_pinpoints = [[r * TILE, c * TILE] for r in range(1, 7) for c in range(1, 7)]


@given(SIDES, SIDES)
@settings(max_examples=150, deadline=None)
@example(2688, 2688)  # six tiles a side, averaged down to nine tiles' features
def test_anyres_counts_are_llava_onevisions(width, height):
    rows, columns = (SIDE * tiles for tiles in best_grid((width, height), TILE, 6))
    assume(min(height * columns // width, width * rows // height) >= 1)  # a longer strip loses all its features there
    found = plan((width, height), config("anyres", newline=True), SIDE)
    assert found.tokens == Published().count(height, width, TILE, TILE)
    without = plan((width, height), config("anyres"), SIDE)
    assert found.tokens - without.tokens == without.tiles.shape[0]


@given(SIDES, SIDES)
@settings(max_examples=200, deadline=None)
@example(1, 3000)
@example(3000, 1)
def test_every_picture_has_tokens_and_a_place_in_its_tiles(width, height):
    tiles = plan((width, height), config("anyres"), SIDE).tiles
    assert min(tiles.shape) >= 1 and min(tiles.kept) >= 1 and min(tiles.inner) >= 1
    rows, columns = tiles.grid
    assert tiles.inner[0] <= columns * TILE and tiles.inner[1] <= rows * TILE
    assert tiles.inner[0] == columns * TILE or tiles.inner[1] == rows * TILE  # it fills the grid in one direction
    assert tiles.shape[0] * tiles.shape[1] <= max(1.1**2 * 9 * SIDE**2, 1)
    for whole, kept in zip((rows * SIDE, columns * SIDE), tiles.kept):
        assert (whole - kept) % 2 == 0  # as much is cut off on both sides


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["squash", "pad", "anyres", "dynamic"]))
@settings(max_examples=80, deadline=None)
def test_views_are_those_of_the_plan(width, height, fit):
    settings_ = config(fit)
    found = plan((width, height), settings_, SIDE)
    shown = views(Image.new("RGB", (width, height), "red"), found, settings_)
    assert shown.shape == (found.views, 3, *found.view[::-1]) and shown.dtype == np.float32


def test_tiles_put_together_are_the_picture_on_its_canvas():
    ramp = np.arange(60, dtype=np.uint8)[:, None] * 4 + np.arange(90, dtype=np.uint8)[None]
    picture = Image.fromarray(np.repeat(ramp[:, :, None], 3, 2))
    settings_ = config("anyres", mean=(0, 0, 0), std=(1, 1, 1))
    found = plan(picture.size, settings_, SIDE)
    whole, *tiles = views(picture, found, settings_)
    rows, columns = found.tiles.grid
    assert (rows, columns) == (3, 4)  # 84 x 112 holds 75 x 112: all of the pixels; smaller grids do not
    canvas = np.block([[tiles[r * columns + c] for c in range(columns)] for r in range(rows)])[0]
    left, top = (112 - found.tiles.inner[0]) // 2, (84 - found.tiles.inner[1]) // 2
    inner = np.asarray(picture.resize(found.tiles.inner, Image.Resampling.BICUBIC), np.float32) / 255
    shown = canvas[top : top + found.tiles.inner[1], left : left + found.tiles.inner[0]]
    assert np.allclose(shown, inner[:, :, 0], atol=1e-6)
    assert canvas.sum() == pytest.approx(shown.sum(), rel=1e-5)  # around it there is nothing
    assert np.allclose(whole[0], np.asarray(picture.resize((28, 28), Image.Resampling.BICUBIC))[:, :, 0] / 255)


@given(st.integers(1, 900), st.integers(1, 900))
@settings(max_examples=60, deadline=None)
def test_the_kept_features_are_those_that_unpadding_keeps(width, height):
    tiles = plan((width, height), config("anyres"), SIDE).tiles
    joined = torch.arange(tiles.grid[0] * tiles.grid[1] * SIDE**2).view(1, tiles.grid[0] * SIDE, -1)
    kept = tuple(packing.unpad_image(joined, (height, width)).shape[1:])
    assume(all(kept))  # of the thinnest pictures the published arithmetic keeps nothing
    assert kept == tiles.kept


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 x 7"):
        plan((0, 7), config("dynamic"), SIDE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fit": "dynamic", "min_pixels": 9, "max_pixels": 8}, "max_pixels 8 is below"),
        ({"fit": "anyres", "max_tiles": 0}, "max_tiles must be at least 1"),
        ({"fit": "squash", "merge": 2}, "merge applies to fit 'dynamic'"),
        ({"fit": "dynamic", "newline": True}, "newline applies to fit 'anyres'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        config(**changes)
