"""Pictures of every kind come out RGB and upright; anything that is not a whole picture is one line that names it."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile, features

from data_pipelines.errors import DataError
from data_pipelines.images import MAX_PIXELS, image_size, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def noise(height=48, width=64, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


def quarters():
    """40 x 20, its corners red, green / blue, white: every turn and mirror of it looks different."""
    image = Image.new("RGB", (40, 20), WHITE)
    for box, color in (((0, 0, 19, 9), RED), ((20, 0, 39, 9), GREEN), ((0, 10, 19, 19), BLUE)):
        ImageDraw.Draw(image).rectangle(box, color)
    return image


def fails(source, says):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as caught:
            load_image(source)
    message = str(caught.value)
    assert os.path.basename(source) in message and says in message and message.isprintable()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_rgb_files_keep_every_pixel(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    for source in (path, str(path)):
        image = load_image(source)
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), noise())


# The stored picture that each EXIF orientation turns into `quarters()`: the inverse of what the tag asks for.
STORED = {
    1: lambda i: i,
    2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda i: i.rotate(180),
    4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
    6: lambda i: i.rotate(90, expand=True),  # "turn me clockwise"
    7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
    8: lambda i: i.rotate(-90, expand=True),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_exif_orientation_is_honoured(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    STORED[orientation](quarters()).save(path, exif=exif, quality=95)
    image = load_image(path)
    assert image.size == (40, 20)
    centres = [image.getpixel(at) for at in ((10, 5), (30, 5), (10, 15), (30, 15))]
    assert np.abs(np.subtract(centres, (RED, GREEN, BLUE, WHITE))).max() <= 12  # JPEG's and WebP's loss
    with Image.open(path) as opened:
        assert image_size(opened) == (40, 20)
        assert load_image(opened).size == (40, 20)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "avif", "gif", "bmp"])
def test_the_size_is_known_from_the_header(tmp_path, orientation, suffix, monkeypatch):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    STORED[orientation](quarters()).save(path, **({} if suffix in ("gif", "bmp") else {"exif": exif}))
    expected = load_image(path).size
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # no pixel may be decoded
    assert image_size(path) == image_size(str(path)) == expected


@pytest.mark.parametrize("text", [False, True])
def test_a_png_that_says_behind_its_pixels_how_it_lies(tmp_path, text):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    quarters().save(path)
    data = path.read_bytes()
    profile = f"\nexif\n    {len(exif.tobytes())}\n{exif.tobytes().hex()}\n"
    kind, body = (b"tEXt", b"Raw profile type exif\0" + profile.encode()) if text else (b"eXIf", exif.tobytes()[6:])
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data[:-12] + chunk + data[-12:])
    assert image_size(path) == load_image(path).size == (20, 40)


def test_sizes_of_what_is_no_picture_are_refused_alike(tmp_path):
    for name, data in {"a.png": b"", "b.png": b"text " * 9, "c.png": png_header(60_000, 60_000)}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError) as size_error, warnings.catch_warnings():
            warnings.simplefilter("error")
            image_size(tmp_path / name)
        with pytest.raises(DataError) as load_error:
            load_image(tmp_path / name)
        assert str(size_error.value) == str(load_error.value)


def test_16_bit_colors_are_scaled_not_wrapped(tmp_path):
    """A 16-bit RGB PNG, which Pillow cannot write: a ramp of red from 0 to the full scale."""
    ramp = np.zeros((1, 256, 3), ">u2")
    ramp[0, :, 0] = np.arange(256) * 257
    rows = b"".join(b"\0" + row.tobytes() for row in ramp)
    header = struct.pack(">IIBBBBB", 256, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    got = np.asarray(load_image(tmp_path / "a.png"))
    assert np.array_equal(got[0, :, 0], np.arange(256)) and not got[:, :, 1:].any()


def test_unreadable_exif_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    quarters().save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert load_image(path).size == (40, 20)


def test_palette_and_bilevel_and_cmyk(tmp_path):
    quarters().quantize(8).save(tmp_path / "p.png")
    assert load_image(tmp_path / "p.png").getpixel((10, 5)) == RED
    Image.new("1", (4, 4), 1).save(tmp_path / "1.png")
    assert load_image(tmp_path / "1.png").getpixel((0, 0)) == WHITE
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    assert np.abs(np.subtract(load_image(tmp_path / "c.jpg").getpixel((8, 8)), RED)).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_lies_on_white(tmp_path, mode):
    """Columns of alpha 0, 128, 255 over black: white, middle grey, black."""
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = (0, 128, 255)
    source = Image.fromarray(rgba).convert(mode)
    if mode != "PA":  # no common file holds it
        source.save(tmp_path / "a.png")
        source = tmp_path / "a.png"
    grey = np.asarray(load_image(source))[0].astype(int)  # [3 columns, RGB]
    assert np.abs(grey - [[255], [127], [0]]).max() <= 1


def test_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    assert np.asarray(load_image(tmp_path / "a.png"))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_16_bit_greys_are_scaled_not_clipped(tmp_path, name):
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / name)
    got = np.asarray(load_image(tmp_path / name))
    assert np.array_equal(got, np.repeat(np.rint(grey / 257).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("low, high", [(0, 1), (0, 255), (0, 65535)])
def test_float_greys_take_the_scale_their_values_imply(tmp_path, low, high):
    ramp = np.linspace(low, high, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "f.tiff")
    got = np.asarray(load_image(tmp_path / "f.tiff"))[:, :, 0].ravel()
    assert np.array_equal(got, np.arange(256))
    dark = np.asarray(load_image(Image.fromarray(ramp * np.float32(0.6))))  # still the same scale, not stretched
    assert abs(int(dark.max()) - 153) <= 1


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_greys_beyond_every_scale_span_their_own_range(dtype):
    values = np.linspace(-1e6, 1e6, 256).astype(dtype).reshape(16, 16)
    assert np.array_equal(np.asarray(load_image(Image.fromarray(values)))[:, :, 1].ravel(), np.arange(256))
    flat = Image.fromarray(np.full((2, 2), -7, dtype))
    assert np.asarray(load_image(flat)).max() == 0


def test_not_a_number_does_not_spread():
    ramp = np.linspace(0, 1, 4, dtype=np.float32).reshape(2, 2)
    ramp[0, 1] = np.nan
    assert np.asarray(load_image(Image.fromarray(ramp)))[:, :, 0].tolist() == [[0, 0], [170, 255]]


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, BLUE, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((4, 4)) == RED


def test_pil_image_is_left_as_it_is():
    source = Image.new("L", (4, 4), 7)
    image = load_image(source)
    image.putpixel((0, 0), WHITE)
    assert source.mode == "L" and source.getpixel((0, 0)) == 7
    rgb = quarters()
    load_image(rgb).putpixel((0, 0), WHITE)
    assert rgb.getpixel((0, 0)) == RED


def test_not_files_and_not_pictures(tmp_path):
    fails(str(tmp_path / "none.png"), "no such file")
    fails(str(tmp_path), "directory")
    (tmp_path / "text.png").write_text("not a picture at all\n" * 10)
    fails(str(tmp_path / "text.png"), "not an image")
    (tmp_path / "zero.png").write_bytes(b"")
    fails(str(tmp_path / "zero.png"), "empty")
    os.mkfifo(tmp_path / "pipe.png")
    fails(str(tmp_path / "pipe.png"), "not a regular file")
    fails("x" * 5000, "cannot be opened")
    for name, target in {"circle": "round", "round": "circle", "gone": "none.png"}.items():
        (tmp_path / name).symlink_to(tmp_path / target)
        fails(str(tmp_path / name), "a symbolic link that leads to no file")


def test_a_name_with_line_breaks_stays_one_line(tmp_path):
    with pytest.raises(DataError) as caught:
        load_image(tmp_path / "a\nb.png")
    assert "\n" not in str(caught.value) and "a\\nb.png" in str(caught.value)


@pytest.mark.parametrize(
    "format, options",
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {})],
)
def test_cut_anywhere_it_is_an_error_or_the_whole_picture(tmp_path, format, options):
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, format, **options)
    data, path = buffer.getvalue(), tmp_path / "cut.bin"
    path.write_bytes(data)
    whole = np.asarray(load_image(path))
    refused = 0
    for cut in [*range(1, len(data), len(data) // 60), len(data) - 1]:
        path.write_bytes(data[:cut])
        try:
            assert np.array_equal(np.asarray(load_image(path)), whole)
        except DataError as error:
            assert "cut.bin" in str(error) and str(error).isprintable()
            refused += 1
    assert refused >= 55


def test_truncated_pil_image_is_refused(tmp_path):
    path = tmp_path / "half.png"
    Image.fromarray(noise()).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with Image.open(path) as image, pytest.raises(DataError, match=r"half\.png.*truncated"):
        load_image(image)


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [60_000, 11_000, 8_193])  # Pillow raises at the first, warns at the second
def test_a_header_that_claims_too_much_is_refused_unread(tmp_path, side):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(side, side))
    fails(str(path), "67 million pixels")


def test_the_limit_itself_is_allowed(tmp_path):
    path = tmp_path / "limit.png"
    path.write_bytes(png_header(8192, MAX_PIXELS // 8192))
    fails(str(path), "truncated")  # its size passed: the missing pixels are what is wrong
