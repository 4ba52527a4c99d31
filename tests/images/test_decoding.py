import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from featcache.errors import ImageError
from featcache.images import decoding as images
from featcache.images.decoding import PixelSpec, decode, load
from featcache.models.export import graph

GREY = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
RGB = np.stack([GREY, GREY.T.reshape(40, 60), 255 - GREY], -1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_lossless_formats_by_content(kind: str) -> None:
    """A format is told by its content and comes out as it went in."""
    image = Image.fromarray(RGB) if kind != "GIF" else Image.fromarray(RGB).quantize(64)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(encoded(image, kind, **options), 3), np.array(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_follow_the_base(kind: str, channels: int) -> None:
    """Every format gives grey or colour as the base wants it."""
    assert decode(encoded(Image.fromarray(RGB), kind), channels).shape == (40, 60, channels)
    assert decode(encoded(Image.fromarray(GREY), kind), channels).shape == (40, 60, channels)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("RGB", "PNG"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("RGB", "WEBP"),
        ("P", "GIF"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("RGBA", "BMP"),
        ("L", "JPEG"),
        ("L", "PNG"),
        ("L", "BMP"),
        ("L", "GIF"),
        ("L", "WEBP"),
    ],
)
def test_grey_is_what_load_img_gives(tmp_path: Path, mode: str, kind: str) -> None:
    """A base of one channel gets the pixels of Keras' grayscale `load_img`, and so does a SavedModel's graph."""
    import tensorflow as tf
    from keras.utils import load_img

    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4 if mode == "RGBA" else 3), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    (tmp_path / "image").write_bytes(encoded(image, kind))
    content = (tmp_path / "image").read_bytes()
    expected = np.array(load_img(tmp_path / "image", color_mode="grayscale"))[..., None]
    assert np.array_equal(decode(content, 1), expected)
    assert np.array_equal(load(expected, PixelSpec(40, 60, 1)), expected)
    if kind != "TIFF" and (kind == "BMP") <= (mode == "RGB"):  # others TensorFlow does not decode
        assert np.array_equal(graph.loaded(tf.constant(content), PixelSpec(40, 60, 1)), expected)


def test_grey_of_arrays_is_as_pillow_makes_it() -> None:
    """Colours in an array become the grey of the same picture in a file; floats are within rounding of it."""
    expected = np.array(Image.fromarray(RGB).convert("L"))[..., None]
    spec = PixelSpec(40, 60, 1)
    assert np.array_equal(load(RGB, spec), expected)
    assert np.abs(load(RGB.astype(np.float32) / 255, spec) - expected).max() <= 0.501


@pytest.mark.parametrize("block", [b"MM\0*", b"II*\0", b"MM", b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0\xff"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_exif_block_turns_nothing(block: bytes, kind: str) -> None:
    """The picture is read where its EXIF block ends in the middle of a number."""
    content = io.BytesIO()
    Image.new("RGB", (4, 2)).save(content, kind, exif=b"Exif\0\0" + block)
    assert decode(content.getvalue(), 3).shape == (2, 4, 3)


NOISE = np.random.default_rng(1).integers(0, 256, (61, 83, 3), np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"quality": 30},
        {"quality": 100, "subsampling": 0},
        {"restart_marker_blocks": 2},
        {"optimize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(61, 83), (48, 64), (17, 9), (1, 1), (8, 3)])
def test_jpeg_pixels_are_pillows(options: dict[str, object], size: tuple[int, int]) -> None:
    """A JPEG gives byte for byte what Pillow and Keras' `load_img` give, whatever its kind and size."""
    for pixels in (NOISE[: size[0], : size[1]], NOISE[: size[0], : size[1], 0]):
        content = encoded(Image.fromarray(pixels), "JPEG", **options)
        opened = Image.open(io.BytesIO(content))
        assert np.array_equal(decode(content, 3), np.array(opened.convert("RGB")))
        if pixels.ndim == 2:
            assert np.array_equal(decode(content, 1)[..., 0], np.array(opened))


def test_reduced_jpeg_pixels_are_pillows() -> None:
    """A JPEG at a half, a quarter or an eighth has the pixels of Pillow's draft of that size."""
    content = encoded(Image.fromarray(NOISE[:48, :64]), "JPEG", quality=95)
    for ratio in (2, 4, 8):
        size = (64 // ratio, 48 // ratio)
        opened = Image.open(io.BytesIO(content))
        opened.draft("RGB", size)
        assert opened.size == size
        assert np.array_equal(decode(content, 3, size[::-1]), np.array(opened))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """Every EXIF orientation comes out upright, as Pillow's own `exif_transpose` has it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(RGB), kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(decode(content, 3), np.array(upright.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_rotated_jpeg_is_upright(kind: str) -> None:
    """A phone's portrait photograph is as tall as it looks, also where it has a second one in it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": [Image.fromarray(RGB)]} if kind == "MPO" else {}
    content = encoded(Image.fromarray(RGB), kind, exif=exif, **more)
    assert Image.open(io.BytesIO(content)).format == kind
    assert decode(content, 3).shape == (60, 40, 3)


def test_cmyk_jpeg() -> None:
    """CMYK photographs come out in the colours Pillow sees."""
    content = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG")
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"), int)
    assert np.abs(decode(content, 3) - expected).max() <= 3
    assert decode(content, 1).shape == (40, 60, 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    """A 16-bit picture keeps its shades."""
    content = encoded(Image.fromarray(GREY.astype(np.uint16) * 257), kind)
    assert np.array_equal(decode(content, 1)[..., 0], GREY)


def test_transparency_is_dropped_as_keras_does() -> None:
    """An RGBA picture gives its colours."""
    rgba = np.dstack([RGB, GREY])
    assert np.array_equal(decode(encoded(Image.fromarray(rgba), "PNG"), 3), RGB)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_give_their_first_frame(kind: str) -> None:
    """Of an animation the first frame counts."""
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (200, 10, 90)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(decode(content, 3).astype(int) - 200).max() <= 2


JPEG = encoded(Image.fromarray(RGB), "JPEG")
PNG = encoded(Image.fromarray(RGB), "PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello, I am a text", "text"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "not an image"),
        (b"\0", "not an image"),
    ],
)
def test_what_is_no_image_has_a_reason(content: bytes, reason: str) -> None:
    """Text, halves of images and noise are refused with what is wrong, on one line."""
    with pytest.raises(ImageError, match=reason) as caught:
        decode(content, 3)
    assert "\n" not in str(caught.value)


def test_bomb_is_not_decoded() -> None:
    """A picture that declares absurd dimensions is refused by its header."""
    content = bytearray(encoded(Image.fromarray(GREY), "BMP"))
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(ImageError, match=r"60000x60000 pixels are more than the limit of 250,000,000"):
        decode(bytes(content), 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([JPEG, PNG, encoded(Image.fromarray(RGB), "GIF"), encoded(Image.fromarray(RGB), "WEBP")]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_images_give_pixels_or_a_reason(content: bytes, changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are changed, decoding ends in pixels or in an ImageError."""
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        pixels = decode(bytes(damaged), 3)
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[-1] == 3


def test_arrays() -> None:
    """Grey and colour, uint8 and 0…1 give the same pixels in 0…255."""
    spec = PixelSpec(40, 60, 3)
    assert np.array_equal(load(RGB, spec), RGB)
    assert np.allclose(load(RGB / np.float32(255), spec), RGB, atol=1e-3)
    assert np.array_equal(load(GREY, spec), np.repeat(GREY[..., None], 3, -1))
    assert np.array_equal(load(np.dstack([RGB, GREY]), spec), RGB)
    assert load(RGB, PixelSpec(40, 60, 1)).shape == (40, 60, 1)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.full((4, 4), 2.0),
        np.full((4, 4), np.nan),
        np.zeros((4, 4), np.int64),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    """Another number of channels, other ranges and other types are refused, not guessed."""
    with pytest.raises(ImageError, match="expected"):
        load(array, PixelSpec(4, 4, 3))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("target", "size"),
    [((8, 5), (8, 5)), ((9, 5), (15, 10)), ((8, 6), (15, 10)), ((16, 5), (30, 20)), ((31, 20), (60, 40))],
)
def test_fast_decoding_reduces_no_further_than_the_target(
    target: tuple[int, int], size: tuple[int, int], orientation: int
) -> None:
    """A JPEG of 60x40, turned or not, comes out at the smallest of its sizes that covers the target, much the same."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.add.outer(np.arange(60) * 2, np.arange(40) * 3).astype(np.uint8)
    stored = upright if orientation == 1 else np.rot90(upright)  # 6: to be turned clockwise
    content = encoded(Image.fromarray(stored).convert("RGB"), "JPEG", exif=exif, quality=95)
    assert decode(content, 3, target).shape == (*size, 3)
    fast, slow = (load(content, PixelSpec(*target, 3, decode=how)) for how in ("reduced", "accurate"))
    assert np.abs(fast - slow).mean() < 8


def test_fast_decoding_leaves_other_formats_and_full_size_as_they_are() -> None:
    """PNG has no smaller sizes; a JPEG that is none too large is decoded as ever."""
    for content in (PNG, JPEG):
        assert np.array_equal(
            load(content, PixelSpec(40, 60, 3, decode="reduced")), load(content, PixelSpec(40, 60, 3))
        )
    assert np.array_equal(load(PNG, PixelSpec(4, 6, 3, decode="reduced")), load(PNG, PixelSpec(4, 6, 3)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "PPM"])
def test_one_limit_for_all_decoders(kind: str) -> None:
    """Whichever library decodes a format, an image of 2,400 pixels passes a limit of 2,400 and no lower one."""
    content = encoded(Image.fromarray(RGB), kind)
    assert decode(content, 3, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(ImageError, match=r"^60x40 pixels are more than the limit of 2,399; a higher max_pixels"):
        decode(content, 3, max_pixels=2399)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_limit_holds_where_pillow_reads_no_header(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TensorFlow alone could decode has the same limit."""
    monkeypatch.setattr(images, "_opened", lambda content: None)
    content = encoded(Image.fromarray(RGB), kind)
    limit = 2400 if kind != "WEBP" else 16_383**2
    assert decode(content, 3, max_pixels=limit).shape == (40, 60, 3)
    with pytest.raises(ImageError, match="more than the limit"):
        decode(content, 3, max_pixels=2399)


def test_pillows_own_limit_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow stops at a number of its own, or warns: neither decides here, and it stays as the program has it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for kind in ("JPEG", "PNG", "BMP"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode(encoded(Image.fromarray(RGB), kind), 3).shape == (40, 60, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(ImageError, match=r"above Pillow's own limit, PIL\.Image\.MAX_IMAGE_PIXELS"):
        decode(encoded(Image.fromarray(RGB), "TIFF"), 3)


def test_processes_of_ours_have_one_limit_and_no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line and workers decode what Pillow alone would refuse, and Pillow warns of nothing in them."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(images, "_limit_lifted", False)
    images._pillow_formats.cache_clear()
    torn = io.BytesIO()
    Image.new("RGB", (4, 2)).save(torn, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            images.take_over_pillow()
            assert decode(encoded(Image.fromarray(RGB), "TIFF"), 3).shape == (40, 60, 3)
            assert decode(torn.getvalue(), 3).shape == (2, 4, 3)
    finally:
        images._pillow_formats.cache_clear()


def test_header_limit_is_stated() -> None:
    """The pixel limit is a documented number."""
    assert images.MAX_PIXELS == 250_000_000


def test_pixels_of_unknown_range_are_refused() -> None:
    """Floating-point and 32-bit pictures are named, not turned black."""
    for pixels in (GREY.astype(np.float32) / 255, GREY.astype(np.int32)):
        with pytest.raises(ImageError, match="no known range"):
            decode(encoded(Image.fromarray(pixels), "TIFF"), 3)


def test_dark_sixteen_bit_pictures_stay_dark() -> None:
    """How bright a picture comes out depends on its type, not on its brightest pixel."""
    dark = np.full((4, 4), 300, np.uint16)
    for kind in ("PNG", "TIFF"):
        assert (decode(encoded(Image.fromarray(dark), kind), 1) == 1).all()


def test_formats_that_run_programs_are_not_opened() -> None:
    """A PostScript picture is no image here: Pillow would hand it to Ghostscript."""
    content = encoded(Image.fromarray(RGB), "EPS")
    with pytest.raises(ImageError, match="not an image"):
        decode(content, 3)
